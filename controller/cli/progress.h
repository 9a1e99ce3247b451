/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef EDGEPLEX_CLI_PROGRESS_H
#define EDGEPLEX_CLI_PROGRESS_H

/*
 * Shows how an operation (docs/api.md) goes on: on a screen one line that is rewritten, elsewhere
 * one line for each step that ended. One thread.
 */

#include <stdbool.h>
#include <stdio.h>
#include <cjson/cJSON.h>

struct progress;

/* `columns`: width of the screen. */
struct progress *progress_new(FILE *out, bool screen, bool colour, size_t columns);

/* The operation as the API last told it, `elapsed_ms` after it was first asked for. */
void progress_show(struct progress *progress, const cJSON *operation, double elapsed_ms);

/* Time has passed: rewrites the line, if it would look different. */
void progress_tick(struct progress *progress, double elapsed_ms);

/* Something that the operator should know: a line of its own. `text` may hold anything. */
void progress_note(struct progress *progress, const char *text);

/* Takes the rewritten line away and frees. Accepts NULL. */
void progress_free(struct progress *progress);

#endif
