/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Fuzz target: whatever the configuration, it is read or refused with a named field, and what is
 * read becomes lines that can't be taken for several commands. Input: JSON; its first byte chooses
 * pvmd's or cvmd's configuration.
 */

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "cvm/cvm_config.h"
#include "pvm/pvm_config.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_lines(struct cfg *cfg)
{
	if (cfg->failed)
		abort();
	for (size_t i = 0; i < cfg->n; i++)
		if (strpbrk(cfg->lines[i].text, "\n|?") || strpbrk(cfg->lines[i].undo, "\n|?"))
			abort();
	cfg_free(cfg);
}

static void check_error(const struct jsonrpc_error *err)
{
	if (!err->code || !err->message[0])
		abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct cvm_config cvm;
	static struct pvm_config pvm;
	struct jsonrpc_error err;
	struct cfg cfg = {0};
	cJSON *json = size ? cJSON_ParseWithLength((const char *)data + 1, size - 1) : NULL;

	if (!json)
		return 0;
	if (data[0] & 1) {
		if (pvm_config_read(json, &pvm, &err)) {
			check_error(&err);
		} else {
			pvm_config_render(&pvm, &cfg);
			pvm_config_free(&pvm);
		}
	} else {
		if (cvm_config_read(json, &cvm, &err)) {
			check_error(&err);
		} else {
			cvm_config_render(&cvm, &cfg);
			cvm_config_free(&cvm);
		}
	}
	check_lines(&cfg);
	cJSON_Delete(json);
	return 0;
}
