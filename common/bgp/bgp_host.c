/* SPDX-License-Identifier: GPL-2.0-or-later */

#include <zebra.h>

#include "lib/version.h"
#include "command.h"
#include "frr_pthread.h"
#include "lib_errors.h"
#include "libfrr.h"
#include "log.h"
#include "memory.h"
#include "network.h"
#include "privs.h"
#include "sigevent.h"
#include "thread.h"
#include "vrf.h"
#include "vty.h"
#include "workqueue.h"
#include "zclient.h"
#include "zlog.h"

#include "bgpd/bgpd.h"
#include "bgpd/bgp_errors.h"
#include "bgpd/bgp_fsm.h"
#include "bgpd/bgp_network.h"
#include "bgpd/bgp_routemap_nb.h"
#include "bgpd/bgp_zebra.h"

#include "common/bgp/bgp_host.h"
#undef log_debug
#include "common/log.h"

#define SELECTION_DELAY_MS 5

DEFINE_MGROUP(EDGEPLEX, "edgeplex");
DEFINE_MTYPE_STATIC(EDGEPLEX, HOST_EVENT, "host event");
DEFINE_MTYPE_STATIC(EDGEPLEX, HOST_LOG, "log target");

/* libbgp.a takes this one from its host. */
struct zebra_privs_t bgpd_privs = {0};

static void (*exit_fn)(void *ctx);
static void *exit_ctx;

/* ---- what libfrr would do to the machine, and must not --------------------------------------- */

void __wrap_zlog_init(
	const char *progname, const char *protoname, unsigned short instance, uid_t uid, gid_t gid);
int __wrap_pid_output(const char *path);

/* The real one makes /var/tmp/frr/PROGRAM.PID for per-thread log buffers, which kill -9 leaves. */
void __wrap_zlog_init(
	const char *progname, const char *protoname, unsigned short instance, uid_t uid, gid_t gid)
{
	(void)progname;
	(void)protoname;
	(void)instance;
	(void)uid;
	(void)gid;
}

int __wrap_pid_output(const char *path)
{
	(void)path;
	return 0;
}

/* ---- zebra's graceful restart, which is the FIB socket's business here ----------------------- */

int __wrap_bgp_zebra_send_capabilities(struct bgp *bgp, bool disable);
int __wrap_bgp_zebra_update(afi_t afi, safi_t safi, vrf_id_t vrf_id, int type);
int __wrap_bgp_zebra_stale_timer_update(struct bgp *bgp);

int __wrap_bgp_zebra_send_capabilities(struct bgp *bgp, bool disable)
{
	(void)bgp;
	(void)disable;
	return BGP_GR_SUCCESS;
}

int __wrap_bgp_zebra_update(afi_t afi, safi_t safi, vrf_id_t vrf_id, int type)
{
	(void)afi;
	(void)safi;
	(void)type;
	(void)vrf_id;
	return BGP_GR_SUCCESS;
}

int __wrap_bgp_zebra_stale_timer_update(struct bgp *bgp)
{
	(void)bgp;
	return BGP_GR_SUCCESS;
}

/* ---- log ------------------------------------------------------------------------------------- */

/*
 * While libfrr initializes itself it complains about commands of daemons that it was built without,
 * and about YANG files that it has inside: nobody can do anything about that.
 */
static bool initializing = true;

/* Runs in any of bgpd's threads. */
static void log_messages(struct zlog_target *target, struct zlog_msg *msgs[], size_t n)
{
	(void)target;
	for (size_t i = 0; i < n; i++) {
		enum log_level level;
		size_t len;
		const char *text = zlog_msg_text(msgs[i], &len);
		int prio = zlog_msg_prio(msgs[i]) & LOG_PRIMASK;

		if (prio <= LOG_ERR)
			level = LOG_LEVEL_ERROR;
		else if (prio == LOG_WARNING)
			level = LOG_LEVEL_WARN;
		else if (prio <= LOG_INFO)
			level = LOG_LEVEL_INFO;
		else
			level = LOG_LEVEL_DEBUG;
		if (initializing && level > LOG_LEVEL_WARN)
			level = LOG_LEVEL_DEBUG;
		log_line(level, "bgp: %.*s", (int)len, text);
	}
}

static void log_to_us(void)
{
	struct zlog_target *target = zlog_target_clone(MTYPE_HOST_LOG, NULL, sizeof(*target));

	target->prio_min = LOG_DEBUG;
	target->logfn = log_messages;
	zlog_target_replace(NULL, target);
}

/* ---- life cycle ------------------------------------------------------------------------------ */

static void on_terminate(void)
{
	log_info("ending on a signal; peers keep our routes by graceful restart");
	if (exit_fn)
		exit_fn(exit_ctx);
	/* Not exit(): destructors would race with bgpd's other threads. */
	_exit(0);
}

static struct frr_signal_t signals[] = {
	{.signal = SIGINT, .handler = on_terminate},
	{.signal = SIGTERM, .handler = on_terminate},
};

static int vrf_nothing(struct vrf *vrf)
{
	(void)vrf;
	return 0;
}

static const struct frr_yang_module_info *const models[] = {
	&frr_filter_info,
	&frr_interface_info,
	&frr_route_map_info,
	&frr_vrf_info,
	&frr_bgp_route_map_info,
};

FRR_DAEMON_INFO(bgpd, BGP, .vty_port = 0,
	.flags = FRR_NO_PRIVSEP | FRR_NO_TCPVTY | FRR_NO_CFG_PID_DRY | FRR_NO_ZCLIENT,
	.proghelp = "bgpd as a library", .signals = signals, .n_signals = array_size(signals),
	.privs = &bgpd_privs, .yang_modules = models, .n_yang_modules = array_size(models));

extern struct zclient *zclient;
extern int zclient_num_connects;

void bgp_host_init(const char *program)
{
	char *argv[] = {(char *)program, NULL};
	struct list *listen_on = list_new();

	listen_on->cmp = (int (*)(void *, void *))strcmp;
	frr_preinit(&bgpd_di, 1, argv);
	umask(0077);
	/* Before any module speaks: libfrr's own target writes to standard error as well. */
	zlog_startup_end();
	log_to_us();
	bgp_master_init(frr_init(), BGP_SOCKET_SNDBUF_SIZE, listen_on);
	bm->port = BGP_PORT_DEFAULT;
	bgp_error_init();
	vrf_init(vrf_nothing, vrf_nothing, vrf_nothing, vrf_nothing);
	bgp_init(0);
	bgp_if_init();
	zclient_stop(zclient);
	/* "Connected": interfaces and next hops are known (bgp_if.c, bgp_nht.c), none is assumed.
	 */
	zclient_num_connects = 1;
	frr_config_fork();
	bgp_gr_apply_running_config();
	bgp_pthreads_run();
	initializing = false;
}

void bgp_host_tune_instance(void)
{
	struct bgp *bgp = bgp_get_default();

	if (bgp && bgp->process_queue)
		bgp->process_queue->spec.hold = SELECTION_DELAY_MS;
}

/*
 * bgpd waits a second before it begins, and seconds after a failure. Three failures in a row are
 * nothing special in a take-over: the first start is lost while the interfaces come up; then bgpd
 * asks whether the peer can be reached, is told at once, and gives up as if it weren't; then a peer
 * that still has the old session Established closes it when we connect, and refuses us until it has
 * forgotten it, milliseconds later (an FRR, so our CVM too: as a collision). So it is tried again
 * soon, and each time after half as long again.
 */
#define FIRST_START_MS 10
#define LAST_START_MS 1600

static struct host_event *start_event;
static unsigned start_ms;

static void start_all(void *ctx)
{
	struct bgp *bgp = bgp_get_default();
	struct listnode *node;
	struct peer *peer;

	(void)ctx;
	for (node = bgp ? listhead(bgp->peer) : NULL; node; node = listnextnode(node)) {
		peer = listgetdata(node);
		if (peer->status == Idle && peer->t_start) {
			THREAD_OFF(peer->t_start);
			peer->v_start = BGP_INIT_START_TIMER;
			BGP_EVENT_ADD(peer, BGP_Start);
		} else if (peer->status == Active && peer->t_connect) {
			THREAD_OFF(peer->t_connect);
			BGP_EVENT_ADD(peer, ConnectRetry_timer_expired);
		}
	}
	if (start_ms > LAST_START_MS)
		return;
	host_event_after(start_event, start_ms);
	start_ms += start_ms / 2;
}

void bgp_host_start_sessions(void)
{
	if (!start_event)
		start_event = host_event_new(start_all, NULL);
	host_event_cancel(start_event);
	start_ms = FIRST_START_MS;
	start_all(NULL);
}

void bgp_host_begin_sessions_anew(void)
{
	struct bgp *bgp = bgp_get_default();
	struct listnode *node;
	struct peer *peer;

	if (!bgp)
		return;
	for (ALL_LIST_ELEMENTS_RO(bgp->peer, node, peer)) {
		if (!peer_established(peer))
			continue;
		peer->last_reset = PEER_DOWN_CAPABILITY_CHANGE;
		/* As where bgpd finds a connection closed: its routes are kept, too. */
		if (CHECK_FLAG(peer->sflags, PEER_STATUS_NSF_MODE))
			SET_FLAG(peer->sflags, PEER_STATUS_NSF_WAIT);
		BGP_EVENT_ADD(peer, TCP_connection_closed);
	}
}

void bgp_host_run(void)
{
	struct thread thread;

	while (thread_fetch(bm->master, &thread))
		thread_call(&thread);
	/* thread_fetch() only gives up when there is nothing left to wait for: never here. */
	abort();
}

void bgp_host_at_exit(void (*fn)(void *ctx), void *ctx)
{
	exit_fn = fn;
	exit_ctx = ctx;
}

/* ---- events ---------------------------------------------------------------------------------- */

struct host_event {
	void (*fn)(void *ctx);
	void *ctx;
	struct thread *thread;
};

static void fire(struct thread *thread)
{
	struct host_event *event = THREAD_ARG(thread);

	event->fn(event->ctx);
}

struct host_event *host_event_new(void (*fn)(void *ctx), void *ctx)
{
	struct host_event *event = XCALLOC(MTYPE_HOST_EVENT, sizeof(*event));

	event->fn = fn;
	event->ctx = ctx;
	return event;
}

void host_event_free(struct host_event *event)
{
	if (!event)
		return;
	THREAD_OFF(event->thread);
	XFREE(MTYPE_HOST_EVENT, event);
}

void host_event_on_read(struct host_event *event, int fd)
{
	thread_add_read(bm->master, fire, event, fd, &event->thread);
}

void host_event_on_write(struct host_event *event, int fd)
{
	thread_add_write(bm->master, fire, event, fd, &event->thread);
}

void host_event_after(struct host_event *event, unsigned ms)
{
	thread_add_timer_msec(bm->master, fire, event, ms, &event->thread);
}

void host_event_soon(struct host_event *event)
{
	thread_add_event(bm->master, fire, event, 0, &event->thread);
}

void host_event_cancel(struct host_event *event)
{
	THREAD_OFF(event->thread);
}

unsigned long host_now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000UL + now.tv_nsec / 1000000;
}
