/* SPDX-License-Identifier: GPL-2.0-or-later */

/* Whatever the agent's scanner accepts must be what cJSON understands, with the same id and method.
 */

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cjson/cJSON.h>

#include "image/envelope.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(int condition)
{
	if (!condition)
		abort();
}

/* The same value, parsed alone from the text that the scanner points at. */
static void compare(const cJSON *member, const char *text, size_t n)
{
	cJSON *value = cJSON_ParseWithLength(text, n);

	require(value != NULL);
	/* cJSON finds infinity different from itself. */
	require((cJSON_IsNumber(value) && isinf(value->valuedouble)) ||
		cJSON_Compare(member, value, 1));
	cJSON_Delete(value);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct envelope env;
	cJSON *message;

	if (envelope_scan((const char *)data, size, &env) != 0)
		return 0;
	message = cJSON_ParseWithLength((const char *)data, size);
	require(cJSON_IsObject(message));
	/* With escapes in a name, cJSON may know a member that the scanner doesn't. */
	if (env.id != NULL && memchr(data, '\\', size) == NULL)
		compare(cJSON_GetObjectItemCaseSensitive(message, "id"), env.id, env.id_len);
	if (env.method != NULL && memchr(data, '\\', size) == NULL)
		compare(cJSON_GetObjectItemCaseSensitive(message, "method"), env.method - 1,
			env.method_len + 2);
	cJSON_Delete(message);
	return 0;
}
