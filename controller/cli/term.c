/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "controller/cli/term.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/ioctl.h>
#include <unistd.h>

bool term_is_screen(FILE *file)
{
	const char *term = getenv("TERM");

	return isatty(fileno(file)) == 1 && term && strcmp(term, "dumb") != 0;
}

bool term_has_colour(FILE *file)
{
	const char *no_colour = getenv("NO_COLOR");

	return term_is_screen(file) && (!no_colour || !*no_colour);
}

const char *term_on(enum paint paint)
{
	switch (paint) {
	case PAINT_GOOD:
		return "\033[32m";
	case PAINT_BUSY:
		return "\033[33m";
	case PAINT_BAD:
		return "\033[31m";
	case PAINT_TITLE:
		return "\033[1m";
	case PAINT_NONE:
		break;
	}
	return "";
}

const char *term_off(enum paint paint)
{
	return paint == PAINT_NONE ? "" : "\033[0m";
}

size_t term_columns(FILE *file)
{
	struct winsize size;

	if (ioctl(fileno(file), TIOCGWINSZ, &size) == 0 && size.ws_col > 0)
		return size.ws_col;
	return 80;
}

enum paint term_paint_of_state(const char *state)
{
	static const char *const good[] = {"established", "active", "running", "succeeded", "up",
		"connected", "ok", "ready", "carrying", "info"};
	static const char *const bad[] = {"failed", "down", "unreachable", "crashed", "error",
		"shutoff", "lost", "disconnected", "missing", "critical", "undone"};

	for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
		if (strcasecmp(state, good[i]) == 0)
			return PAINT_GOOD;
	}
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		if (strcasecmp(state, bad[i]) == 0)
			return PAINT_BAD;
	}
	return *state ? PAINT_BUSY : PAINT_NONE;
}
