/* SPDX-License-Identifier: GPL-2.0-or-later */

/* The fabric's interface: what any thread may ask, and what is shared with the fabric's own. */

#include <config.h>

#include "controller/fabric_internal.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include <openvswitch/vconn.h>
#include <openvswitch/vlog.h>

#include "util.h"

static void library_init(void)
{
	/* Its messages have no place in our log; what matters is in `why` and in events. */
	vlog_set_levels(NULL, VLF_ANY_DESTINATION, VLL_OFF);
}

void fabric_tell(struct fabric *f, enum fabric_event_type type, const char *fmt, ...)
{
	char detail[640];
	va_list args;

	if (!f->on_event)
		return;
	va_start(args, fmt);
	vsnprintf(detail, sizeof(detail), fmt, args);
	va_end(args);
	f->on_event(f->ctx, type, detail);
}

struct timespec fabric_deadline_after(int timeout_ms)
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

int fabric_why_unreachable(struct fabric *f, struct why *why)
{
	return why_set(why, EHOSTUNREACH,
		"edge switch of site %s at %s is not connected (%s): check that it runs and that "
		"its "
		"bridge allows OpenFlow 1.4 or 1.5",
		f->name, f->target,
		f->last_error ? ovs_retval_to_string(f->last_error) : "no answer yet");
}

static bool target_valid(const char *target)
{
	return (strncmp(target, "unix:", 5) == 0 && target[5] == '/') ||
	       (strncmp(target, "tcp:", 4) == 0 && target[4] != '\0');
}

static void fabric_free(struct fabric *f)
{
	fabric_rules_free(f->rules);
	fabric_rules_free(f->pending);
	fabric_rules_free(f->confirmed);
	ofputil_port_map_destroy(&f->map);
	latch_destroy(&f->wake);
	pthread_mutex_destroy(&f->mutex);
	pthread_cond_destroy(&f->changed);
	fabric_forget_sent(f);
	free(f->sent);
	free(f->ports);
	free(f->name);
	free(f->target);
	free(f);
}

/* Signals are the main thread's business. */
static int start_thread(struct fabric *f)
{
	sigset_t all, before;
	int error;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	error = pthread_create(&f->thread, NULL, fabric_run, f);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	return error;
}

int fabric_open(const char *name, const char *target, fabric_event_fn on_event, void *ctx,
	struct fabric **fabric, struct why *why)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;
	pthread_condattr_t attr;
	struct fabric *f;
	int error;

	*fabric = NULL;
	if (!target_valid(target) || vconn_verify_name(target))
		return why_set(why, EINVAL,
			"\"%s\" is not an OpenFlow target: write unix:/PATH/TO/BRIDGE.mgmt or "
			"tcp:ADDRESS:PORT",
			target);
	pthread_once(&once, library_init);
	f = calloc(1, sizeof(*f));
	if (!f)
		return why_set(why, ENOMEM, "out of memory");
	f->name = xstrdup(name);
	f->target = xstrdup(target);
	f->on_event = on_event;
	f->ctx = ctx;
	latch_init(&f->wake);
	ofputil_port_map_init(&f->map);
	pthread_mutex_init(&f->mutex, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&f->changed, &attr);
	pthread_condattr_destroy(&attr);
	error = start_thread(f);
	if (error) {
		fabric_free(f);
		return why_set(why, error,
			"can't start a thread for the edge switch of site %s: %s", name,
			strerror(error));
	}
	*fabric = f;
	return 0;
}

void fabric_close(struct fabric *f)
{
	if (!f)
		return;
	atomic_store(&f->closing, true);
	latch_set(&f->wake);
	pthread_join(f->thread, NULL);
	fabric_free(f);
}

int fabric_wait_connected(struct fabric *f, int timeout_ms, struct why *why)
{
	struct timespec deadline = fabric_deadline_after(timeout_ms);
	int error = 0;

	pthread_mutex_lock(&f->mutex);
	while (!f->connected && error != ETIMEDOUT)
		error = pthread_cond_timedwait(&f->changed, &f->mutex, &deadline);
	error = f->connected ? 0 : ETIMEDOUT;
	if (error)
		fabric_why_unreachable(f, why);
	pthread_mutex_unlock(&f->mutex);
	return error;
}

bool fabric_connected(struct fabric *f)
{
	bool connected;

	pthread_mutex_lock(&f->mutex);
	connected = f->connected;
	pthread_mutex_unlock(&f->mutex);
	return connected;
}

int fabric_ports(struct fabric *f, struct fabric_port_state **ports, size_t *n, struct why *why)
{
	int error = 0;

	*ports = NULL;
	*n = 0;
	pthread_mutex_lock(&f->mutex);
	if (!f->connected) {
		error = fabric_why_unreachable(f, why);
	} else if (f->n_ports) {
		*ports = xmemdup(f->ports, f->n_ports * sizeof(f->ports[0]));
		*n = f->n_ports;
	}
	pthread_mutex_unlock(&f->mutex);
	return error;
}

int fabric_check_port(struct fabric *f, const char *port, struct why *why)
{
	int error = ENOENT;

	pthread_mutex_lock(&f->mutex);
	if (!f->connected) {
		error = fabric_why_unreachable(f, why);
	} else {
		for (size_t i = 0; i < f->n_ports; i++)
			if (strcmp(f->ports[i].name, port) == 0)
				error = 0;
	}
	if (error == ENOENT) {
		char names[300];

		fabric_list_ports(f, names, sizeof(names));
		why_set(why, error, "edge switch of site %s has no port %s; it has: %s", f->name,
			port, names);
	}
	pthread_mutex_unlock(&f->mutex);
	return error;
}

static int want_rules(struct fabric *f, const struct fabric_rules *rules, bool quick,
	int timeout_ms, struct fabric_result *result, struct why *why)
{
	struct timespec deadline = fabric_deadline_after(timeout_ms);
	uint64_t generation;
	int error = 0;

	pthread_mutex_lock(&f->mutex);
	/* Whoever waits for a full comparison gets it. */
	f->pending_quick = quick && (!f->pending || f->pending_quick);
	fabric_rules_free(f->pending);
	f->pending = fabric_rules_ref(rules);
	generation = ++f->generation;
	latch_set(&f->wake);
	while (f->done_generation < generation && error != ETIMEDOUT)
		error = pthread_cond_timedwait(&f->changed, &f->mutex, &deadline);
	if (f->done_generation >= generation) {
		error = f->done_error;
		if (error)
			why_set(why, error, "%s", f->done_why.text);
		if (result)
			*result = f->done_result;
	} else if (!f->connected) {
		error = fabric_why_unreachable(f, why);
	} else {
		error = why_set(why, ETIMEDOUT,
			"edge switch of site %s didn't confirm its rules within %d ms; they are "
			"tried again",
			f->name, timeout_ms);
	}
	pthread_mutex_unlock(&f->mutex);
	return error;
}

int fabric_apply(struct fabric *f, const struct fabric_rules *rules, int timeout_ms,
	struct fabric_result *result, struct why *why)
{
	return want_rules(f, rules, false, timeout_ms, result, why);
}

int fabric_change(struct fabric *f, const struct fabric_rules *rules, int timeout_ms,
	struct fabric_result *result, struct why *why)
{
	return want_rules(f, rules, true, timeout_ms, result, why);
}
