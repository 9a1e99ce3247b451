/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef EDGEPLEX_DATAPLANE_FPM_H
#define EDGEPLEX_DATAPLANE_FPM_H

/*
 * The FIB socket (docs/protocols.md): listens, takes routes from one peer at a time, and sweeps
 * what a new peer did not repeat. Control thread only.
 */

#include <stdbool.h>
#include <stdint.h>

struct fpm;
struct routes;

/*
 * Listens on Unix socket `path`, replacing a stale one. `stale_ms`: after which time a peer that
 * doesn't send FIB_END is taken to have sent all. Returns NULL with errno; logs why.
 */
struct fpm *fpm_create(const char *path, struct routes *routes, uint64_t stale_ms);
/* Closes, and removes the socket's file. Accepts NULL. */
void fpm_destroy(struct fpm *fpm);

/* An epoll descriptor that polls readable when fpm_run() has something to do. */
int fpm_fd(const struct fpm *fpm);

/* Takes connections and routes: not more at once than a few milliseconds' worth. */
void fpm_run(struct fpm *fpm);

bool fpm_connected(const struct fpm *fpm);
/* Has the present peer sent its whole table? */
bool fpm_complete(const struct fpm *fpm);

#endif
