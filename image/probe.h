/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef EDGEPLEX_IMAGE_PROBE_H
#define EDGEPLEX_IMAGE_PROBE_H

/*
 * guest.probe (docs/protocols.md): one ICMP echo each, from the guest's kernel, so that it goes the
 * way of the VM's own packets. Nothing here waits: the agent watches probes_fd(). At most
 * PROBES_MAX are under way; each ends within PROBE_MAX_MS.
 *
 * Not thread-safe.
 */

#include <stddef.h>

#define PROBES_MAX 16
#define PROBE_MAX_MS 10000

struct probes;

/* Called with each answer: a line of JSON-RPC, newline included. */
typedef void (*probe_answer_fn)(void *ctx, const char *line, size_t n);

/* NULL with errno when resources ran out. */
struct probes *probes_create(probe_answer_fn answer, void *ctx);

/* A descriptor that polls readable when probes_run() has something to do. */
int probes_fd(const struct probes *probes);
void probes_run(struct probes *probes);

/*
 * Serves a request, a line that envelope_scan() passes; `id` is its id's JSON text, without which
 * nothing is done. What is wrong with it is answered at once.
 */
void probes_begin(struct probes *probes, const char *line, const char *id);

/* Ends all that are under way; nobody waits for their answers. */
void probes_forget(struct probes *probes);

#endif
