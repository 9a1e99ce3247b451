/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef EDGEPLEX_DATAPLANE_WORKER_H
#define EDGEPLEX_DATAPLANE_WORKER_H

/* The fast path's thread: moves frames between devices, TAPs and the engine; sleeps when idle. */

#include <pthread.h>

#include "dataplane/forwarder.h"

/* Starts the thread. Returns 0 or errno. */
int worker_start(struct forwarder *fwd, pthread_t *thread);

/* Has the thread turn its loop (`turns` of struct forwarder) soon, if it sleeps. */
void worker_wake(struct forwarder *fwd);

/* Tells it to end, and waits until it has. */
void worker_stop(struct forwarder *fwd, pthread_t thread);

#endif
