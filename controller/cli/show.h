/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef EDGEPLEX_CLI_SHOW_H
#define EDGEPLEX_CLI_SHOW_H

/* Shows an object of the API to people, whatever its fields are. Thread-safe. */

#include <stdbool.h>
#include <stdio.h>
#include <cjson/cJSON.h>

/*
 * One line per field, inner objects indented, lists of objects as tables. Fields ending in "_ms"
 * that hold a span of time are shown as such.
 */
void show_object(FILE *out, const cJSON *object, bool colour);

#endif
