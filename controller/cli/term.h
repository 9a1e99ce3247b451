/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef EDGEPLEX_CLI_TERM_H
#define EDGEPLEX_CLI_TERM_H

/* What the terminal can show. Thread-safe. */

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

enum paint {
	PAINT_NONE,
	PAINT_GOOD,
	PAINT_BUSY, /* on its way, or of no consequence yet */
	PAINT_BAD,
	PAINT_TITLE,
};

/* Is `file` a terminal that can rewrite a line? */
bool term_is_screen(FILE *file);

/* Should colours go to `file`? Not if it is no terminal, or with NO_COLOR set (no-color.org). */
bool term_has_colour(FILE *file);

/* Control sequences to put around a text; "" for PAINT_NONE. */
const char *term_on(enum paint paint);
const char *term_off(enum paint paint);

/* Width of the terminal in columns; 80 if unknown. */
size_t term_columns(FILE *file);

/* The colour for a state's name as the API uses it: "Established", "running", "failed", … */
enum paint term_paint_of_state(const char *state);

#endif
