/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef EDGEPLEX_CONTROLLER_WHY_H
#define EDGEPLEX_CONTROLLER_WHY_H

/*
 * The text beside an errno: what went wrong, with which object, and what the operator should check.
 * The caller owns the structure (usually on its stack); NULL is accepted everywhere. Thread-safe.
 */

#include <stdarg.h>
#include <stdio.h>

struct why {
	char text[512];
};

/* Writes the text and returns `error`, so that a function can `return why_set(why, EINVAL, ...)`.
 */
__attribute__((format(printf, 3, 4))) static inline int why_set(
	struct why *why, int error, const char *fmt, ...)
{
	if (why) {
		va_list args;

		va_start(args, fmt);
		vsnprintf(why->text, sizeof(why->text), fmt, args);
		va_end(args);
	}
	return error;
}

#endif
