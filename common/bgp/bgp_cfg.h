/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef EDGEPLEX_BGP_CFG_H
#define EDGEPLEX_BGP_CFG_H

/*
 * bgpd's configuration as a list of lines, and the way from one list to another that touches
 * nothing but the difference, so that a session whose lines stay the same isn't reset.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct cfg_line {
	char *context;      /* commands that lead to it, separated by newlines; "" at the top */
	char *text;         /* the command */
	char *undo;         /* the command, in the same context, that takes it back */
	char *owner;        /* text of the line that takes this one along when it goes, or NULL */
	uint64_t line_hash; /* of context and text: lists are long, most lines differ */
	uint64_t setting_hash; /* of context and undo */
};

struct cfg {
	size_t n, size;
	struct cfg_line *lines; /* in the order in which they have to be entered */
	bool failed;            /* memory ran out while lines were added */
};

/*
 * Appends a line. `undo` NULL: "no " and the line. Two lines of the same context and the same undo
 * are two values of the same setting: going from one to the other, the new one is simply entered.
 * A line that opens a context (its text is the context of others, or the first part of it) takes
 * the lines in there along when it goes. A failure is kept in `cfg->failed`.
 */
__attribute__((format(printf, 5, 6))) void cfg_add(struct cfg *cfg, const char *context,
	const char *owner, const char *undo, const char *fmt, ...);

void cfg_free(struct cfg *cfg); /* empties it; the struct itself stays the caller's */

/* One command. Returns 0, or -1 with a text in `why`. */
typedef int (*cfg_executor)(
	void *ctx, const char *context, const char *command, char *why, size_t why_size);

/*
 * Brings `running` to what `wanted` says (and takes over its lines, leaving `wanted` empty). If a
 * command is refused, everything is taken back, `why` says which one and why, and -1 is returned:
 * `running` is then what it was, less what couldn't be restored (logged).
 */
int cfg_change(struct cfg *running, struct cfg *wanted, cfg_executor execute, void *ctx, char *why,
	size_t why_size);

/* The executor that enters commands into bgpd. `ctx` isn't used. */
int cfg_execute_in_bgpd(
	void *ctx, const char *context, const char *command, char *why, size_t why_size);

#endif
