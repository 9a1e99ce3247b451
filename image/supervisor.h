/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef EDGEPLEX_SUPERVISOR_H
#define EDGEPLEX_SUPERVISOR_H

/*
 * Keeps programs running: starts them again when they end, keeps the newest lines of their output,
 * and reaps every child of this process (PID 1 inherits orphans). A program that ends is started
 * again at once; if it ends again within ten seconds, after 100 ms, then after twice as long each
 * time, up to 5 s.
 *
 * One supervisor per process, used from one thread. It takes SIGCHLD over (blocked, read through a
 * signalfd), so create it before any thread.
 */

#include <cjson/cJSON.h>

#define SUPERVISOR_LOG_LINES 500
#define SUPERVISOR_LINE_MAX 1024 /* bytes; longer lines are cut into several */
#define SUPERVISOR_MISSED 3      /* signs of life, in a row: the program hangs */

struct supervisor;

/* Gets every line that a program writes, as it is written. */
typedef void (*supervisor_echo)(void *ctx, const char *name, const char *line);

/* Returns NULL with errno set when resources ran out. `echo` may be NULL. */
struct supervisor *supervisor_create(supervisor_echo echo, void *ctx);

/*
 * Starts `argv` (path first, NULL-terminated) and keeps it running under `name`. Both must outlive
 * the supervisor. Its standard output and error are kept; standard input is empty.
 * `oom_score_adj` is as in proc(5). Returns 0 or errno.
 */
int supervisor_add(struct supervisor *sv, const char *name, char *const argv[], int oom_score_adj);

/* A descriptor that polls readable when supervisor_run() has something to do. */
int supervisor_fd(const struct supervisor *sv);

/* Does what can be done without blocking. */
void supervisor_run(struct supervisor *sv);

/* Returns 0, ENOENT (no program of that name) or ESRCH (it isn't running just now). */
int supervisor_signal(struct supervisor *sv, const char *name, int signal_number);

/*
 * A program that gives a sign of life is to give the next ones at least every `every_ms`. When
 * SUPERVISOR_MISSED in a row didn't come it hangs, and is killed. Counted is what this process
 * waits for, not the time: a VM that stood still itself doesn't miss more than one. Returns 0 or
 * ENOENT.
 */
int supervisor_expect_beats(struct supervisor *sv, const char *name, int every_ms);

/* A program gave a sign of life. Returns 0 or ENOENT. */
int supervisor_beat(struct supervisor *sv, const char *name);

/* The result of guest.processes (docs/protocols.md); the caller's. NULL when memory ran out. */
cJSON *supervisor_list(const struct supervisor *sv);

/*
 * The newest `lines` lines of a program's output, oldest first, as an array; the caller's. NULL
 * with errno ENOENT (no program of that name) or ENOMEM.
 */
cJSON *supervisor_log(const struct supervisor *sv, const char *name, unsigned lines);

/* Kills the programs, waits for their end, and frees everything. Accepts NULL. */
void supervisor_destroy(struct supervisor *sv);

#endif
