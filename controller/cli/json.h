/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef EDGEPLEX_CLI_JSON_H
#define EDGEPLEX_CLI_JSON_H

/*
 * Reading what the API sends, which may lack or mistype any field, and writing what it takes.
 * Paths are names joined by '/': "core/address". Thread-safe.
 */

#include <stdbool.h>
#include <stdio.h>
#include <cjson/cJSON.h>

/* The value at `path`, or NULL; also NULL for null. `json` may be NULL. */
const cJSON *json_at(const cJSON *json, const char *path);

/* NULL if there is no string there. */
const char *json_string(const cJSON *json, const char *path);

/* `absent` if there is no number there. */
double json_number(const cJSON *json, const char *path, double absent);

bool json_true(const cJSON *json, const char *path);

/* The array at `path` with its length; NULL and 0 if there is none. */
const cJSON *json_array(const cJSON *json, const char *path, int *n);

/*
 * Any value as one line for people, not yet safe for a terminal: strings as they are, arrays
 * joined by ", ", objects as "name value" pairs, null and NULL as "". free() it.
 */
char *json_text(const cJSON *value);

/* Puts `value` (taken) at `path`, making the objects on the way. */
void json_put(cJSON *json, const char *path, cJSON *value);

/* Writes the value indented, harmless for a terminal, with a newline. */
void json_write(FILE *out, const cJSON *json);

#endif
