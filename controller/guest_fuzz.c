/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * Fuzz target: whatever a VM says on its channel, it is cut into the same lines however it comes
 * in, and what is an answer can be looked at. The first byte says in what pieces it comes.
 */

#include <assert.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "common/jsonrpc.h"
#include "controller/health.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* All lines that came so far, each with its NUL. */
struct said {
	char *text;
	size_t len;
};

static void keep_line(void *ctx, char *line)
{
	struct said *said = ctx;
	size_t n = strlen(line) + 1;
	said->text = realloc(said->text, said->len + n);
	assert(said->text != NULL);
	memcpy(said->text + said->len, line, n);
	said->len += n;
}

static void hear(const uint8_t *data, size_t size, size_t piece, struct said *said)
{
	struct jsonrpc_lines lines = {0};
	*said = (struct said){0};
	for (size_t at = 0; at < size; at += piece)
		assert(jsonrpc_lines_feed(&lines, data + at, size - at < piece ? size - at : piece,
			       keep_line, said) == 0);
	jsonrpc_lines_free(&lines);
}

static void look(const cJSON *status)
{
	char missing[64];
	unsigned up, all;
	bool serves = health_pvm(status, status, missing, sizeof(missing));
	assert(strlen(missing) < sizeof(missing) && serves == (missing[0] == '\0'));
	serves = health_cvm(status, missing, sizeof(missing));
	assert(strlen(missing) < sizeof(missing) && serves == (missing[0] == '\0'));
	health_sessions(status, "ce", &up, &all);
	assert(up <= all);
}

static void take_answer(const char *line)
{
	struct jsonrpc_error err;
	unsigned long id;
	cJSON *result;
	int rc = jsonrpc_parse_response(line, &id, &result, &err);
	assert(rc == 0 ? (result != NULL) != (err.code != 0) : result == NULL);
	if (result != NULL)
		look(result);
	cJSON_Delete(result);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct said whole, pieces;
	if (size < 2)
		return 0;
	hear(data + 1, size - 1, size, &whole);
	hear(data + 1, size - 1, data[0] % 32 + 1, &pieces);
	assert(whole.len == pieces.len);
	assert(whole.len == 0 || memcmp(whole.text, pieces.text, whole.len) == 0);
	for (size_t at = 0; at < whole.len; at += strlen(whole.text + at) + 1)
		take_answer(whole.text + at);
	free(whole.text);
	free(pieces.text);
	return 0;
}
