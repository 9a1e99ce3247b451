/* SPDX-License-Identifier: GPL-2.0-or-later */

#include "controller/hypervisor.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <libvirt/libvirt.h>
#include <libvirt/virterror.h>

#include "common/log.h"
#include "controller/hypervisor_internal.h"
#include "controller/hypervisor_xml.h"
#include "controller/libvirt_fix.h"

/* Lost after one probe and KEEPALIVE_COUNT unanswered ones more: HV_KEEPALIVE_MS. */
#define KEEPALIVE_S 5
#define KEEPALIVE_COUNT 2
#define FIRST_BACKOFF_MS 500
#define MAX_BACKOFF_MS 10000
#define CLOSE_WAIT_MS 2000
#define OPEN_MS 30000 /* a server's first connection may take 10 s */
#define DESTROY_TRIES 3

_Static_assert(KEEPALIVE_S * 1000 * (KEEPALIVE_COUNT + 1) == HV_KEEPALIVE_MS, "keepalive");

/*
 * One reference each is held by the opener, by the worker thread, and by every callback that
 * libvirt has registered: libvirt may still call when the opener has long gone.
 */
struct hv {
	char *name, *uri;

	pthread_mutex_t mutex;
	pthread_cond_t changed;
	unsigned refs;
	bool closing;
	bool worker_gone;
	bool lost;           /* libvirt told that the connection closed */
	virConnectPtr conn;  /* NULL while not connected */
	enum hv_accel accel; /* of the server, known while connected */
	char last_error[320];

	/* Held while the callback runs. Never take the other mutex first. */
	pthread_mutex_t event_mutex;
	hv_event_fn on_event; /* NULL once closed */
	void *ctx;
};

/* ---- libvirt's event loop ----------------------------------------------------------------- */

static void drop_error(void *ctx, virErrorPtr error)
{
	(void)ctx;
	(void)error;
}

static void *run_events(void *arg)
{
	(void)arg;
	for (;;)
		if (virEventRunDefaultImpl() < 0)
			log_error("libvirt's event loop failed why=\"%s\"", hv_libvirt_error());
	return NULL;
}

/* Signals are the main thread's business. */
static int start_thread(pthread_t *thread, void *(*fn)(void *), void *arg)
{
	sigset_t all, before;
	int error;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	error = pthread_create(thread, NULL, fn, arg);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	return error;
}

/* libvirt has one event loop in a process, to be set before the first connection. */
static void library_init(void)
{
	pthread_t thread;

	virSetErrorFunc(NULL, drop_error); /* it would write to standard error */
	if (libvirt_fix_init() || virInitialize() < 0 || virEventRegisterDefaultImpl() < 0 ||
		start_thread(&thread, run_events, NULL)) {
		log_error("can't start libvirt's event loop why=\"%s\"", hv_libvirt_error());
		abort();
	}
	pthread_detach(thread);
}

struct fence {
	pthread_mutex_t mutex;
	pthread_cond_t passed_cond;
	bool passed;
};

static void on_fence(int timer, void *ctx)
{
	struct fence *fence = ctx;

	virEventRemoveTimeout(timer);
	pthread_mutex_lock(&fence->mutex);
	fence->passed = true;
	pthread_cond_signal(&fence->passed_cond);
	pthread_mutex_unlock(&fence->mutex);
}

void hv_event_fence(void)
{
	struct fence fence = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, false};

	/* There is one thread for all callbacks: this one comes after those that run. */
	while (virEventAddTimeout(0, on_fence, &fence, NULL) < 0)
		sched_yield(); /* only memory can have run out */
	pthread_mutex_lock(&fence.mutex);
	while (!fence.passed)
		pthread_cond_wait(&fence.passed_cond, &fence.mutex);
	pthread_mutex_unlock(&fence.mutex);
	pthread_cond_destroy(&fence.passed_cond);
	pthread_mutex_destroy(&fence.mutex);
}

const char *hv_libvirt_error(void)
{
	const char *text = virGetLastErrorMessage();

	return text ? text : "unknown error";
}

/* ---- references and events ---------------------------------------------------------------- */

static void hv_ref(struct hv *hv)
{
	pthread_mutex_lock(&hv->mutex);
	hv->refs++;
	pthread_mutex_unlock(&hv->mutex);
}

static void hv_unref(void *arg)
{
	struct hv *hv = arg;
	bool last;

	pthread_mutex_lock(&hv->mutex);
	last = --hv->refs == 0;
	pthread_mutex_unlock(&hv->mutex);
	if (!last)
		return;
	pthread_mutex_destroy(&hv->mutex);
	pthread_mutex_destroy(&hv->event_mutex);
	pthread_cond_destroy(&hv->changed);
	free(hv->name);
	free(hv->uri);
	free(hv);
}

static void tell(struct hv *hv, const struct hv_event *event)
{
	pthread_mutex_lock(&hv->event_mutex);
	if (hv->on_event)
		hv->on_event(hv->ctx, event);
	pthread_mutex_unlock(&hv->event_mutex);
}

static void identify(virDomainPtr domain, struct hv_vm *vm)
{
	const char *name = virDomainGetName(domain);

	*vm = (struct hv_vm){.state = HV_VM_RUNNING};
	snprintf(vm->name, sizeof(vm->name), "%s", name ? name : "");
	if (virDomainGetUUIDString(domain, vm->uuid) < 0)
		vm->uuid[0] = '\0';
}

static int on_lifecycle(virConnectPtr conn, virDomainPtr domain, int event, int detail, void *ctx)
{
	struct hv_event out = {.type = HV_EVENT_VM, .detail = ""};

	(void)conn;
	(void)detail;
	identify(domain, &out.vm);
	switch (event) {
	case VIR_DOMAIN_EVENT_STARTED:
	case VIR_DOMAIN_EVENT_RESUMED:
		out.vm.state = HV_VM_RUNNING;
		break;
	case VIR_DOMAIN_EVENT_SUSPENDED:
		out.vm.state = HV_VM_PAUSED;
		break;
	case VIR_DOMAIN_EVENT_SHUTDOWN:
	case VIR_DOMAIN_EVENT_CRASHED:
		out.vm.state = HV_VM_STOPPING;
		break;
	case VIR_DOMAIN_EVENT_STOPPED:
		out.vm.state = HV_VM_GONE;
		break;
	default:
		return 0;
	}
	tell(ctx, &out);
	return 0;
}

static void on_close(virConnectPtr conn, int reason, void *ctx)
{
	static const char *const reasons[] = {
		[VIR_CONNECT_CLOSE_REASON_ERROR] = "input/output error",
		[VIR_CONNECT_CLOSE_REASON_EOF] = "libvirtd ended the connection",
		[VIR_CONNECT_CLOSE_REASON_KEEPALIVE] = "libvirtd doesn't answer",
		[VIR_CONNECT_CLOSE_REASON_CLIENT] = "closed by us",
	};
	struct hv *hv = ctx;

	pthread_mutex_lock(&hv->mutex);
	if (hv->conn == conn) {
		hv->lost = true;
		snprintf(hv->last_error, sizeof(hv->last_error), "%s",
			reason >= 0 && reason < (int)(sizeof(reasons) / sizeof(reasons[0]))
				? reasons[reason]
				: "lost");
	}
	pthread_cond_broadcast(&hv->changed);
	pthread_mutex_unlock(&hv->mutex);
}

/* ---- connecting (worker thread) ----------------------------------------------------------- */

/*
 * KVM needs a CPU with hardware virtualization. That /dev/kvm opens is not enough: inside some
 * virtual machines it does, and a guest's kernel then hangs. libvirt shows the host's CPU as a
 * model with extra features, so the model has to be expanded to see them all.
 */
static enum hv_accel find_accel(virConnectPtr conn)
{
	char *capabilities = virConnectGetCapabilities(conn), *cpu = NULL, *expanded = NULL;
	enum hv_accel accel = HV_ACCEL_TCG;
	bool kvm = false;

	if (capabilities)
		cpu = hv_capabilities_cpu(capabilities, &kvm);
	if (cpu && kvm) {
		const char *cpus[] = {cpu};

		expanded = virConnectBaselineCPU(
			conn, cpus, 1, VIR_CONNECT_BASELINE_CPU_EXPAND_FEATURES);
		if (hv_cpu_virtualizes(expanded ? expanded : cpu))
			accel = HV_ACCEL_KVM;
	}
	free(expanded);
	free(cpu);
	free(capabilities);
	return accel;
}

static virConnectPtr connect_once(struct hv *hv, enum hv_accel *accel, int *event_id)
{
	libvirt_fix_limit(OPEN_MS);
	virConnectPtr conn = virConnectOpen(hv->uri);
	libvirt_fix_limit(0);

	*event_id = -1;
	if (!conn)
		goto failed;
	/* A local driver needs no keepalive and says so by 1. */
	if (virConnectSetKeepAlive(conn, KEEPALIVE_S, KEEPALIVE_COUNT) < 0)
		goto failed;
	/* The references are given back when we take the callbacks away, and not before. */
	if (virConnectRegisterCloseCallback(conn, on_close, hv, hv_unref) < 0)
		goto failed;
	hv_ref(hv);
	*event_id = virConnectDomainEventRegisterAny(conn, NULL, VIR_DOMAIN_EVENT_ID_LIFECYCLE,
		VIR_DOMAIN_EVENT_CALLBACK(on_lifecycle), hv, hv_unref);
	if (*event_id < 0) {
		virConnectUnregisterCloseCallback(conn, on_close);
		goto failed;
	}
	hv_ref(hv);
	*accel = find_accel(conn);
	return conn;
failed:
	pthread_mutex_lock(&hv->mutex);
	snprintf(hv->last_error, sizeof(hv->last_error), "%s", hv_libvirt_error());
	pthread_mutex_unlock(&hv->mutex);
	if (conn)
		virConnectClose(conn);
	return NULL;
}

static void disconnect(virConnectPtr conn, int event_id)
{
	virConnectDomainEventDeregisterAny(conn, event_id);
	virConnectUnregisterCloseCallback(conn, on_close);
	virConnectClose(conn);
}

static struct timespec deadline_after(int timeout_ms)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	t.tv_sec += timeout_ms / 1000;
	t.tv_nsec += (long)(timeout_ms % 1000) * 1000000;
	if (t.tv_nsec >= 1000000000) {
		t.tv_sec++;
		t.tv_nsec -= 1000000000;
	}
	return t;
}

/* Keeps a connection until it is lost or we are closed. */
static void hold_connection(struct hv *hv, virConnectPtr conn, int event_id, enum hv_accel accel)
{
	struct hv_event event = {.type = HV_EVENT_CONNECTED, .detail = ""};
	char detail[sizeof(hv->last_error)];

	pthread_mutex_lock(&hv->mutex);
	hv->conn = conn;
	hv->accel = accel;
	hv->lost = false;
	pthread_cond_broadcast(&hv->changed);
	pthread_mutex_unlock(&hv->mutex);

	/* It may have been lost before on_close() could know that it is the one. */
	if (virConnectIsAlive(conn) != 1)
		on_close(conn, VIR_CONNECT_CLOSE_REASON_ERROR, hv);
	log_info("server connected server=%s uri=%s accel=%s", hv->name, hv->uri,
		accel == HV_ACCEL_KVM ? "kvm" : "tcg");
	tell(hv, &event);

	pthread_mutex_lock(&hv->mutex);
	while (!hv->lost && !hv->closing)
		pthread_cond_wait(&hv->changed, &hv->mutex);
	hv->conn = NULL;
	snprintf(detail, sizeof(detail), "%s", hv->last_error);
	pthread_mutex_unlock(&hv->mutex);

	disconnect(conn, event_id);
	log_info("server disconnected server=%s why=\"%s\"", hv->name, detail);
	event.type = HV_EVENT_DISCONNECTED;
	event.detail = detail;
	tell(hv, &event);
}

static bool back_off(struct hv *hv, int ms)
{
	struct timespec deadline = deadline_after(ms);
	bool closing;

	pthread_mutex_lock(&hv->mutex);
	while (!hv->closing &&
		pthread_cond_timedwait(&hv->changed, &hv->mutex, &deadline) != ETIMEDOUT)
		;
	closing = hv->closing;
	pthread_mutex_unlock(&hv->mutex);
	return !closing;
}

static void *run_worker(void *arg)
{
	struct hv *hv = arg;
	int backoff = FIRST_BACKOFF_MS;

	do {
		enum hv_accel accel;
		int event_id;
		virConnectPtr conn = connect_once(hv, &accel, &event_id);

		if (conn) {
			backoff = FIRST_BACKOFF_MS;
			hold_connection(hv, conn, event_id, accel);
		} else {
			backoff = backoff * 2 < MAX_BACKOFF_MS ? backoff * 2 : MAX_BACKOFF_MS;
		}
	} while (back_off(hv, backoff));

	pthread_mutex_lock(&hv->mutex);
	hv->worker_gone = true;
	pthread_cond_broadcast(&hv->changed);
	pthread_mutex_unlock(&hv->mutex);
	hv_unref(hv);
	return NULL;
}

/* ---- open, close -------------------------------------------------------------------------- */

struct hv *hv_open(const char *name, const char *uri, hv_event_fn on_event, void *ctx)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;
	struct hv *hv = calloc(1, sizeof(*hv));
	pthread_condattr_t attr;
	pthread_t thread;
	int error;

	if (!hv)
		return NULL;
	pthread_once(&once, library_init);
	hv->name = strdup(name);
	hv->uri = strdup(uri);
	hv->on_event = on_event;
	hv->ctx = ctx;
	hv->refs = 2;
	snprintf(hv->last_error, sizeof(hv->last_error), "no answer yet");
	pthread_mutex_init(&hv->mutex, NULL);
	pthread_mutex_init(&hv->event_mutex, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&hv->changed, &attr);
	pthread_condattr_destroy(&attr);
	error = hv->name && hv->uri ? start_thread(&thread, run_worker, hv) : ENOMEM;
	if (error) {
		hv->refs = 1;
		hv_unref(hv);
		errno = error;
		return NULL;
	}
	pthread_detach(thread);
	return hv;
}

void hv_close(struct hv *hv)
{
	struct timespec deadline = deadline_after(CLOSE_WAIT_MS);

	if (!hv)
		return;
	pthread_mutex_lock(&hv->event_mutex);
	hv->on_event = NULL;
	pthread_mutex_unlock(&hv->event_mutex);

	/* Usually at once; but the worker may be stuck in an attempt to connect. */
	pthread_mutex_lock(&hv->mutex);
	hv->closing = true;
	pthread_cond_broadcast(&hv->changed);
	while (!hv->worker_gone &&
		pthread_cond_timedwait(&hv->changed, &hv->mutex, &deadline) != ETIMEDOUT)
		;
	pthread_mutex_unlock(&hv->mutex);
	hv_unref(hv);
}

static int why_unreachable(const struct hv *hv, int error, struct why *why)
{
	return why_set(why, error,
		"server %s can't be reached at %s (%s): check that libvirtd runs there and that "
		"the URI "
		"is right",
		hv->name, hv->uri, hv->last_error);
}

int hv_wait_connected(struct hv *hv, int timeout_ms, struct why *why)
{
	struct timespec deadline = deadline_after(timeout_ms);
	int error = 0;

	pthread_mutex_lock(&hv->mutex);
	while (!hv->conn && error != ETIMEDOUT)
		error = pthread_cond_timedwait(&hv->changed, &hv->mutex, &deadline);
	error = hv->conn ? 0 : why_unreachable(hv, ETIMEDOUT, why);
	pthread_mutex_unlock(&hv->mutex);
	return error;
}

bool hv_alive(struct hv *hv)
{
	bool alive;

	pthread_mutex_lock(&hv->mutex);
	alive = hv->conn && !hv->lost;
	pthread_mutex_unlock(&hv->mutex);
	return alive;
}

const char *hv_name(const struct hv *hv)
{
	return hv->name;
}

/* ---- calls -------------------------------------------------------------------------------- */

/* The connection with a reference, to be given back by virConnectClose(); NULL with `why`. */
static virConnectPtr take_connection(struct hv *hv, struct why *why)
{
	virConnectPtr conn = NULL;

	pthread_mutex_lock(&hv->mutex);
	if (hv->conn && !hv->lost && virConnectRef(hv->conn) == 0)
		conn = hv->conn;
	else
		why_unreachable(hv, EHOSTUNREACH, why);
	pthread_mutex_unlock(&hv->mutex);
	return conn;
}

/* The errno for the newest libvirt error, and its text. */
static int failed(struct hv *hv, virConnectPtr conn, const char *what, struct why *why)
{
	int code = virGetLastErrorCode();
	char text[320];
	int error = EIO;

	/* The next call to libvirt, virConnectIsAlive(), forgets it. */
	snprintf(text, sizeof(text), "%s", hv_libvirt_error());
	if (code == VIR_ERR_NO_DOMAIN)
		error = ENOENT;
	else if (code == VIR_ERR_DOM_EXIST)
		error = EEXIST;
	else if (virConnectIsAlive(conn) != 1)
		error = EHOSTUNREACH;
	return why_set(why, error, "server %s: %s: %s", hv->name, what, text);
}

virDomainPtr hv_domain(struct hv *hv, const char *uuid, int *error, struct why *why)
{
	virConnectPtr conn = take_connection(hv, why);
	virDomainPtr domain;

	if (!conn) {
		*error = EHOSTUNREACH;
		return NULL;
	}
	domain = virDomainLookupByUUIDString(conn, uuid);
	if (!domain)
		*error = failed(hv, conn, uuid, why);
	virConnectClose(conn);
	return domain;
}

static int read_state(virDomainPtr domain, enum hv_vm_state *state)
{
	int value, reason;

	if (virDomainGetState(domain, &value, &reason, 0) < 0)
		return -1;
	switch (value) {
	case VIR_DOMAIN_PAUSED:
	case VIR_DOMAIN_PMSUSPENDED:
		*state = HV_VM_PAUSED;
		break;
	case VIR_DOMAIN_SHUTDOWN:
	case VIR_DOMAIN_SHUTOFF:
	case VIR_DOMAIN_CRASHED:
		*state = HV_VM_STOPPING;
		break;
	default:
		*state = HV_VM_RUNNING;
	}
	return 0;
}

/* libvirt wants to be asked first how many figures it has. */
static int read_memory(virConnectPtr conn, virNodeMemoryStatsPtr stats, int size, int *n)
{
	*n = 0;
	if (virNodeGetMemoryStats(conn, VIR_NODE_MEMORY_STATS_ALL_CELLS, NULL, n, 0) < 0)
		return -1;
	if (*n > size)
		*n = size;
	return virNodeGetMemoryStats(conn, VIR_NODE_MEMORY_STATS_ALL_CELLS, stats, n, 0);
}

int hv_server_info(struct hv *hv, struct hv_server_info *info, struct why *why)
{
	virConnectPtr conn = take_connection(hv, why);
	virNodeMemoryStats stats[16];
	int n = 0, error = 0;
	virNodeInfo node;
	char *hostname;

	*info = (struct hv_server_info){0};
	if (!conn)
		return EHOSTUNREACH;
	hostname = virConnectGetHostname(conn);
	if (!hostname || virNodeGetInfo(conn, &node) < 0 ||
		read_memory(conn, stats, sizeof(stats) / sizeof(stats[0]), &n) < 0 ||
		virConnectGetLibVersion(conn, &info->libvirt_version) < 0 ||
		virConnectGetVersion(conn, &info->qemu_version) < 0) {
		error = failed(hv, conn, "can't read its resources", why);
		goto out;
	}
	snprintf(info->hostname, sizeof(info->hostname), "%s", hostname);
	info->cpus = node.cpus;
	info->memory_kib = node.memory;
	for (int i = 0; i < n; i++)
		if (strcmp(stats[i].field, VIR_NODE_MEMORY_STATS_TOTAL) == 0)
			info->memory_kib = stats[i].value; /* newer: memory may have been plugged */
		else if (strcmp(stats[i].field, VIR_NODE_MEMORY_STATS_FREE) == 0 ||
			 strcmp(stats[i].field, VIR_NODE_MEMORY_STATS_BUFFERS) == 0 ||
			 strcmp(stats[i].field, VIR_NODE_MEMORY_STATS_CACHED) == 0)
			info->memory_free_kib += stats[i].value;
	pthread_mutex_lock(&hv->mutex);
	info->accel = hv->accel;
	pthread_mutex_unlock(&hv->mutex);
out:
	free(hostname);
	virConnectClose(conn);
	return error;
}

/* Is the VM of this spec there already? 0: yes; ENOENT: no; EEXIST: another one is in its way. */
static int find_same(struct hv *hv, virConnectPtr conn, const struct hv_vm_spec *spec,
	enum hv_vm_state *state, struct why *why)
{
	virDomainPtr domain = virDomainLookupByUUIDString(conn, spec->uuid);
	struct hv_vm vm;
	int error = 0;

	if (!domain && virGetLastErrorCode() == VIR_ERR_NO_DOMAIN)
		domain = virDomainLookupByName(conn, spec->name);
	if (!domain)
		return failed(hv, conn, spec->name, why);
	identify(domain, &vm);
	if (strcmp(vm.name, spec->name) != 0 || strcmp(vm.uuid, spec->uuid) != 0)
		error = why_set(why, EEXIST,
			"server %s: VM %s (%s) is in the way of VM %s (%s): remove it there, or "
			"choose "
			"another server",
			hv->name, vm.name, vm.uuid, spec->name, spec->uuid);
	else if (read_state(domain, state) < 0)
		error = failed(hv, conn, spec->name, why);
	virDomainFree(domain);
	return error;
}

/* libvirt fails to end a VM, without naming an error, when it dies just then. */
static bool is_gone(virDomainPtr domain)
{
	int active = virDomainIsActive(domain);
	return active == 0 || (active < 0 && virGetLastErrorCode() == VIR_ERR_NO_DOMAIN);
}

static int destroy(struct hv *hv, virConnectPtr conn, const char *uuid, struct why *why)
{
	virDomainPtr domain = virDomainLookupByUUIDString(conn, uuid);
	int error = 0;

	if (!domain)
		error = failed(hv, conn, uuid, why);
	for (int tries = 0; domain && tries < DESTROY_TRIES; tries++) {
		error = 0;
		if (virDomainDestroy(domain) == 0 ||
			virGetLastErrorCode() == VIR_ERR_OPERATION_INVALID)
			break;
		error = failed(hv, conn, virDomainGetName(domain), why);
		if (error == EIO && is_gone(domain))
			error = 0;
		if (error != EIO)
			break;
	}
	if (domain)
		virDomainFree(domain);
	return error == ENOENT ? 0 : error;
}

static int create(struct hv *hv, virConnectPtr conn, const struct hv_vm_spec *spec, const char *xml,
	struct why *why)
{
	virDomainPtr domain =
		virDomainCreateXML(conn, xml, spec->incoming ? VIR_DOMAIN_START_PAUSED : 0);

	if (!domain)
		return failed(hv, conn, spec->name, why);
	virDomainFree(domain);
	return 0;
}

int hv_vm_start(struct hv *hv, const struct hv_vm_spec *spec, struct why *why)
{
	enum hv_vm_state state = HV_VM_GONE;
	enum hv_accel accel;
	virConnectPtr conn;
	char *xml;
	int error;

	pthread_mutex_lock(&hv->mutex);
	accel = hv->accel;
	pthread_mutex_unlock(&hv->mutex);
	xml = hv_vm_xml(spec, accel, why);
	if (!xml)
		return EINVAL;
	conn = take_connection(hv, why);
	if (!conn) {
		free(xml);
		return EHOSTUNREACH;
	}
	error = find_same(hv, conn, spec, &state, why);
	if (!error && state == HV_VM_STOPPING) {
		error = destroy(hv, conn, spec->uuid, why);
		if (!error)
			error = ENOENT;
	}
	if (!error && spec->incoming && state == HV_VM_RUNNING)
		error = why_set(why, EBUSY,
			"server %s: VM %s runs there: it can't be given another one's state",
			hv->name, spec->name);
	if (error == ENOENT)
		error = create(hv, conn, spec, xml, why);
	virConnectClose(conn);
	free(xml);
	return error;
}

int hv_vm_destroy(struct hv *hv, const char *uuid, struct why *why)
{
	virConnectPtr conn = take_connection(hv, why);
	int error;

	if (!conn)
		return EHOSTUNREACH;
	error = destroy(hv, conn, uuid, why);
	virConnectClose(conn);
	return error;
}

/* 0; ENOENT: not one of ours, or gone meanwhile; EIO. */
static int describe(virDomainPtr domain, struct hv_vm *vm)
{
	char *metadata =
		virDomainGetMetadata(domain, VIR_DOMAIN_METADATA_ELEMENT, HV_METADATA_URI, 0);
	bool ours;

	if (!metadata) {
		int code = virGetLastErrorCode();

		return code == VIR_ERR_NO_DOMAIN_METADATA || code == VIR_ERR_NO_DOMAIN ? ENOENT
										       : EIO;
	}
	identify(domain, vm);
	ours = hv_metadata_read(metadata, vm);
	free(metadata);
	if (!ours)
		return ENOENT;
	if (read_state(domain, &vm->state) < 0)
		return virGetLastErrorCode() == VIR_ERR_NO_DOMAIN ? ENOENT : EIO;
	return 0;
}

int hv_vm_list(struct hv *hv, struct hv_vm **vms, size_t *n, struct why *why)
{
	virConnectPtr conn = take_connection(hv, why);
	virDomainPtr *domains = NULL;
	int found, error = 0;

	*vms = NULL;
	*n = 0;
	if (!conn)
		return EHOSTUNREACH;
	found = virConnectListAllDomains(conn, &domains, VIR_CONNECT_LIST_DOMAINS_ACTIVE);
	if (found < 0)
		error = failed(hv, conn, "can't list its VMs", why);
	if (found > 0) {
		*vms = calloc((size_t)found, sizeof(**vms));
		if (!*vms) {
			why_set(why, ENOMEM, "out of memory");
			error = ENOMEM;
		}
	}
	for (int i = 0; i < found && !error; i++) {
		int status = describe(domains[i], &(*vms)[*n]);

		if (status == 0)
			(*n)++;
		else if (status != ENOENT)
			error = failed(hv, conn, virDomainGetName(domains[i]), why);
	}
	for (int i = 0; i < found; i++)
		virDomainFree(domains[i]);
	free(domains);
	if (error) {
		free(*vms);
		*vms = NULL;
		*n = 0;
	}
	virConnectClose(conn);
	return error;
}

int hv_vm_get(struct hv *hv, const char *uuid, struct hv_vm *vm, struct why *why)
{
	int error = 0;
	virDomainPtr domain = hv_domain(hv, uuid, &error, why);

	if (!domain)
		return error;
	error = describe(domain, vm);
	if (error == ENOENT)
		why_set(why, error, "server %s: no VM of ours has UUID %s", hv->name, uuid);
	else if (error)
		error = failed(hv, virDomainGetConnect(domain), uuid, why);
	virDomainFree(domain);
	return error;
}

int hv_vm_stats(struct hv *hv, const char *uuid, struct hv_vm_stats *stats, struct why *why)
{
	virDomainMemoryStatStruct memory[VIR_DOMAIN_MEMORY_STAT_NR];
	int error = 0, n = -1;
	virDomainPtr domain = hv_domain(hv, uuid, &error, why);
	virDomainInfo info;

	*stats = (struct hv_vm_stats){0};
	if (!domain)
		return error;
	if (virDomainGetInfo(domain, &info) == 0)
		n = virDomainMemoryStats(domain, memory, VIR_DOMAIN_MEMORY_STAT_NR, 0);
	if (n < 0)
		error = failed(hv, virDomainGetConnect(domain), uuid, why);
	for (int i = 0; i < n; i++)
		if (memory[i].tag == VIR_DOMAIN_MEMORY_STAT_RSS)
			stats->rss_kib = memory[i].val;
	if (!error) {
		stats->cpu_ms = info.cpuTime / 1000000;
		stats->memory_kib = info.memory;
	}
	virDomainFree(domain);
	return error;
}
