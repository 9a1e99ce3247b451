/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef EDGEPLEX_ANSWER_H
#define EDGEPLEX_ANSWER_H

#include <cjson/cJSON.h>

/* Members of what guests and hostds answer. NULL may be given for the object. */

/* 0 if there is no such number. */
static inline double answer_number(const cJSON *object, const char *name)
{
	const cJSON *item = cJSON_GetObjectItemCaseSensitive(object, name);
	return cJSON_IsNumber(item) ? item->valuedouble : 0;
}

/* "" if there is no such string. */
static inline const char *answer_text(const cJSON *object, const char *name)
{
	const char *value = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(object, name));
	return value != NULL ? value : "";
}

#endif
