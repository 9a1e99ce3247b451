/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef EDGEPLEX_BGP_HOST_H
#define EDGEPLEX_BGP_HOST_H

/*
 * FRR's bgpd as a library: life cycle, event loop and log. One per process. Everything in
 * common/bgp/ runs in the thread that called bgp_host_init(), except where a comment says
 * otherwise.
 */

/*
 * Initializes libfrr and bgpd without any configuration, without zebra, without sockets but those
 * that BGP needs later. FRR's messages go to common/log.h. `program` must outlive the process.
 * FRR ends the process by itself when memory runs out.
 */
void bgp_host_init(const char *program);

/*
 * Runs the event loop until SIGTERM or SIGINT, then ends the process with status 0. Sessions are
 * left to the peers' graceful restart: no NOTIFICATION is sent, so that a restart is no withdrawal.
 */
__attribute__((noreturn)) void bgp_host_run(void);

/*
 * Call after bgpd's instance was created. Has best paths selected soon after a change: bgpd waits
 * 50 ms for more to come, and a route passes four of our and the core's speakers on its way.
 */
void bgp_host_tune_instance(void);

/*
 * Has all sessions that aren't up begin now, and tries again within the next three seconds, at
 * growing intervals. Call after neighbours were configured.
 */
void bgp_host_start_sessions(void);

/*
 * Begins all established sessions anew, as a restarted speaker would: what was agreed on when they
 * began counts (graceful restart), nothing is said. For what is only told in an OPEN.
 */
void bgp_host_begin_sessions_anew(void);

/* Called once before the process ends on a signal. */
void bgp_host_at_exit(void (*fn)(void *ctx), void *ctx);

/* A one-shot event: after it has fired, it is armed again by whoever wants that. */
struct host_event;

/* Never fails (FRR's allocator ends the process). `fn` runs in the loop's thread. */
struct host_event *host_event_new(void (*fn)(void *ctx), void *ctx);
void host_event_free(struct host_event *event); /* accepts NULL */

/* Arm it: each does nothing when the event is armed already. */
void host_event_on_read(struct host_event *event, int fd);
void host_event_on_write(struct host_event *event, int fd);
void host_event_after(struct host_event *event, unsigned ms);
void host_event_soon(struct host_event *event); /* when the loop comes round */

void host_event_cancel(struct host_event *event);

/* Monotonic clock, milliseconds. */
unsigned long host_now_ms(void);

#endif
