/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef EDGEPLEX_PROBLEM_H
#define EDGEPLEX_PROBLEM_H

/*
 * Why a request can't be fulfilled, as problem details (RFC 9457). A problem always tells what to
 * do. Plain data, no allocation: safe to copy, use one from one thread.
 */

#include <stdbool.h>
#include <stddef.h>
#include <cjson/cJSON.h>

#define PROBLEM_MAX_FIELDS 8

struct problem {
	int status; /* an HTTP status; 0: there is no problem */
	char type[32];
	char detail[768];
	size_t n_errors;
	struct {
		char field[64]; /* JSON pointer into the request's body */
		char detail[256];
		char fix[192];
	} errors[PROBLEM_MAX_FIELDS];
};

/*
 * Makes it a problem of `type` (the last part of the type's URI, such as "in-use"), unless it is
 * one already: the first stays. Returns -1, so that a function can `return problem_set(...)`.
 */
__attribute__((format(printf, 4, 5))) int problem_set(
	struct problem *problem, int status, const char *type, const char *fmt, ...);

/*
 * Adds a wrong field; what doesn't fit is dropped. Makes it a problem 422 "invalid-field" if it
 * was none. Returns -1.
 */
__attribute__((format(printf, 4, 5))) int problem_field(
	struct problem *problem, const char *field, const char *fix, const char *fmt, ...);

/* The problem details; the caller's. NULL when memory ran out. */
cJSON *problem_to_json(const struct problem *problem);

#endif
