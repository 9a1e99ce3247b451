/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef EDGEPLEX_IMAGE_ALIVE_H
#define EDGEPLEX_IMAGE_ALIVE_H

/*
 * guest.alive (docs/protocols.md): who waits for it, and which of the VM's programs owe a sign of
 * life. One question to a program is under way at a time, whoever asked; its answer serves all that
 * wait. Times are of one monotonic clock, in milliseconds. Nothing here waits or does input/output.
 *
 * Not thread-safe.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define ALIVE_PROGRAMS 2 /* that a VM has, at most */
#define ALIVE_WAITING 8  /* requests */
#define ALIVE_LIMIT_MS 250
#define ALIVE_WHY_SIZE 160

struct alive;

/* Called with each answer: a line of JSON-RPC, newline included. */
typedef void (*alive_answer_fn)(void *ctx, const char *line, size_t n);

/*
 * `names` are the members of the answer, one per program, at most ALIVE_PROGRAMS; they must outlive
 * it. NULL when memory ran out.
 */
struct alive *alive_create(const char *const *names, size_t n, alive_answer_fn answer, void *ctx);
void alive_destroy(struct alive *alive); /* accepts NULL */

/*
 * A request; `id` is its id's JSON text. False: too many wait. Then ask every program that
 * alive_must_ask(), and report to alive_asked() or alive_told().
 */
bool alive_begin(struct alive *alive, const char *id, int64_t now_ms);
bool alive_must_ask(const struct alive *alive, size_t program);

/* Program `program` was asked, by question `question` (not 0). */
void alive_asked(struct alive *alive, size_t program, unsigned long question, int64_t now_ms);

/* Is this the question that the program hasn't answered? */
bool alive_is_asked(const struct alive *alive, size_t program, unsigned long question);

/*
 * The program has answered, or is known not to. `why`: what is wrong, NULL if nothing is.
 * Whoever knows everything by this is answered.
 */
void alive_told(struct alive *alive, size_t program, const char *why);

/* When alive_run() has to be called; INT64_MAX: nobody waits. */
int64_t alive_next_ms(const struct alive *alive);

/* Answers those who have waited long enough. */
void alive_run(struct alive *alive, int64_t now_ms);

/* Nobody waits any more. */
void alive_forget(struct alive *alive);

#endif
