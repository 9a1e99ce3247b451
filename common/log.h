/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef EDGEPLEX_LOG_H
#define EDGEPLEX_LOG_H

/*
 * One line per event on standard error: "<time> <level> <program>: <what happened> key=value ...".
 * Thread-safe. Errors tell the operator what to do.
 */

enum log_level { LOG_LEVEL_ERROR, LOG_LEVEL_WARN, LOG_LEVEL_INFO, LOG_LEVEL_DEBUG };

/* Names the program in every line; `program` must outlive the process. Call once, from main(). */
void log_init(const char *program);

/* Drops lines less important than `level` (default: info). */
void log_set_level(enum log_level level);

/* Parses "error", "warn", "info" or "debug". Returns 0 or EINVAL. */
int log_level_parse(const char *text, enum log_level *level);

__attribute__((format(printf, 2, 3))) void log_line(enum log_level level, const char *fmt, ...);

#define log_error(...) log_line(LOG_LEVEL_ERROR, __VA_ARGS__)
#define log_warn(...) log_line(LOG_LEVEL_WARN, __VA_ARGS__)
#define log_info(...) log_line(LOG_LEVEL_INFO, __VA_ARGS__)
#define log_debug(...) log_line(LOG_LEVEL_DEBUG, __VA_ARGS__)

#endif
