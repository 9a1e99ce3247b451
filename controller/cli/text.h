/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef EDGEPLEX_CLI_TEXT_H
#define EDGEPLEX_CLI_TEXT_H

/*
 * Text for a terminal. What a server, a guest or a customer's router has a say in may hold control
 * sequences that would rewrite the operator's screen or answer questions in his name; it is made
 * visible instead. Wants a UTF-8 LC_CTYPE (main() sets C.UTF-8). Thread-safe.
 */

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

/*
 * Writes `text` so that it occupies one line and moves nothing but the cursor: whatever isn't a
 * printable character that takes a column (control characters, invalid UTF-8, invisible and
 * direction-changing characters) is written as \n, \t, \xNN or \u{NNNN}.
 */
void text_write_safe(FILE *out, const char *text);

/* The same as a string; free() it. */
char *text_safe(const char *text);

/* Columns that a text made by text_safe() takes. */
size_t text_width(const char *safe);

/* Bytes of a text made by text_safe() that fit in `columns`. */
size_t text_fit(const char *safe, size_t columns);

/*
 * JSON as printed by cJSON, with everything that text_write_safe() would escape inside its strings
 * written as JSON escapes: the same value, harmless to look at. `json`'s own line breaks and tabs
 * stay.
 */
void text_write_json(FILE *out, const char *json);

/* "450 ms", "4.2 s", "3m 20s", "2h 5m", "3d 4h". `buf` has 32 bytes; returns it. */
char *text_duration(double ms, char buf[32]);

/*
 * Reads one character of UTF-8 (RFC 3629). Returns its length in bytes, or 0 when `text` (not
 * empty) doesn't begin with a valid one.
 */
size_t text_decode(const char *text, uint32_t *character);

#endif
