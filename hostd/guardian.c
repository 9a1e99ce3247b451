/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "hostd/guardian.h"

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "common/log.h"
#include "hostd/capture.h"
#include "hostd/epoch.h"
#include "hostd/freeze.h"
#include "hostd/hold.h"
#include "hostd/pauses.h"
#include "hostd/qmp.h"
#include "hostd/state.h"
#include "hostd/urgent.h"

#define CONNECT_MS 5000
#define QMP_MS 2000   /* an ordinary command, while the VM runs */
#define PEER_MS 5000  /* silence of the other hostd that means its death */
#define ALIVE_MS 100  /* how often the standby's hostd hears something */
#define TELL_MS 1000  /* how often figures are told while nothing changes */
#define RETRY_MS 5    /* until the next attempt at an epoch that came to nothing */
#define WATCH_MS 50   /* how often it is seen whether QEMU's process is stopped */
#define GONE_MS 1000  /* for QEMU's process to end when its monitor is gone */
#define STOP_MS 5000  /* for protect.stop */
#define FEW_PAGES 512 /* so few changes make a short stop */
#define MAX_PASSES 30 /* of a VM that changes its memory faster than it is sent */

enum state { SYNCING, PROTECTED, UNPROTECTED, PRIMARY_SILENT, PRIMARY_DEAD, SUPERSEDED };
enum wish { WISH_NONE, WISH_STOP, WISH_QUIT };

static const char *const state_names[] = {
	"syncing", "protected", "unprotected", "primary-silent", "primary-dead", "superseded"};

struct guardian {
	struct guardian_config config;
	char *qmp_path, *address;
	pthread_t thread, watcher;
	bool started, watching;
	int wake_fd, pid_fd, end_fd; /* end_fd: the watcher is to end */
	pid_t pid;                   /* QEMU */
	size_t n_nics;               /* whose output is held */
	/* Of the thread alone. */
	struct qmp *qmp;
	struct dirty *dirty;
	struct capture *capture;
	struct hold *hold;
	struct link *link; /* NULL: lost */
	struct epoch_sender *sender;
	struct freeze *freeze;
	int state_fd;      /* QEMU saves its device state there; overwritten each time */
	size_t state_size; /* what is in it */
	bool stopped;      /* the VM, by us */
	bool taken;        /* the standby runs */
	bool mute;         /* QEMU was asked something and didn't answer */
	uint64_t acked;    /* 1 + the last epoch acknowledged; 0: none */
	int64_t heard_ms, said_ms, told_ms;
	int64_t stopped_us;     /* of the present epoch */
	struct epoch_cost cost; /* of it, so far */
	/* Of all, under the lock. */
	pthread_mutex_t lock;
	pthread_cond_t cond;
	enum state state;
	bool suspended; /* QEMU's process is stopped by a signal, as the watcher sees */
	enum wish wish;
	char why[256];
	int interval_ms;
	unsigned passes;
	uint64_t epoch;   /* the last one acknowledged */
	int64_t epoch_us; /* when the VM was stopped for it */
	uint64_t redone;  /* epochs that came to nothing, and were tried again */
	uint64_t pages, bytes;
	int64_t cpu_us;
	struct pauses pauses;
};

static int64_t clock_us(clockid_t clock)
{
	struct timespec t;

	clock_gettime(clock, &t);
	return (int64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

static int64_t now_us(void)
{
	return clock_us(CLOCK_MONOTONIC);
}

static int64_t now_ms(void)
{
	return now_us() / 1000;
}

/* ---- what others see --------------------------------------------------------------------- */

static bool is_end(enum state state)
{
	return state == UNPROTECTED || state == PRIMARY_DEAD || state == SUPERSEDED;
}

static void add_figures(cJSON *status, const char *name, int64_t mean, int64_t p99, int64_t max)
{
	cJSON *figures = cJSON_AddObjectToObject(status, name);

	cJSON_AddNumberToObject(figures, "mean", (double)mean);
	cJSON_AddNumberToObject(figures, "p99", (double)p99);
	cJSON_AddNumberToObject(figures, "max", (double)max);
}

static void add_parts(cJSON *status, const struct pauses_summary *s)
{
	cJSON *parts = cJSON_AddObjectToObject(status, "pause_parts_us");

	cJSON_AddNumberToObject(parts, "stop", (double)s->stop_mean_us);
	cJSON_AddNumberToObject(parts, "copy", (double)s->copy_mean_us);
	cJSON_AddNumberToObject(parts, "state", (double)s->state_mean_us);
	cJSON_AddNumberToObject(parts, "resume", (double)s->resume_mean_us);
}

cJSON *guardian_status(struct guardian *guardian)
{
	cJSON *status = cJSON_CreateObject();
	struct pauses_summary s;
	char uuid[UUID_STRLEN];
	bool suspended;

	pthread_mutex_lock(&guardian->lock);
	cJSON_AddStringToObject(status, "uuid", frame_format_uuid(guardian->config.uuid, uuid));
	cJSON_AddStringToObject(status, "role", "primary");
	suspended = guardian->suspended && guardian->state == PROTECTED;
	cJSON_AddStringToObject(
		status, "state", state_names[suspended ? PRIMARY_SILENT : guardian->state]);
	if (suspended || guardian->why[0] != '\0')
		cJSON_AddStringToObject(status, "reason",
			suspended ? "QEMU's process is stopped by a signal" : guardian->why);
	cJSON_AddNumberToObject(status, "interval_ms", guardian->interval_ms);
	cJSON_AddNumberToObject(status, "timeout_ms", guardian->config.timeout_ms);
	cJSON_AddBoolToObject(status, "hold_output", guardian->config.hold_output);
	cJSON_AddNumberToObject(status, "nics", (double)guardian->n_nics);
	cJSON_AddStringToObject(status, "engine", dirty_engine_name(dirty_engine(guardian->dirty)));
	cJSON_AddStringToObject(status, "engine_reason", dirty_reason(guardian->dirty));
	cJSON_AddNumberToObject(status, "memory_pages", (double)dirty_n_pages(guardian->dirty));
	cJSON_AddNumberToObject(status, "passes", guardian->passes);
	cJSON_AddNumberToObject(status, "pages", (double)guardian->pages);
	cJSON_AddNumberToObject(status, "bytes", (double)guardian->bytes);
	cJSON_AddNumberToObject(status, "redone", (double)guardian->redone);
	cJSON_AddNumberToObject(status, "cpu_us", (double)guardian->cpu_us);
	cJSON_AddNumberToObject(status, "epoch", (double)guardian->epoch);
	if (guardian->epoch > 0) {
		cJSON_AddNumberToObject(
			status, "epoch_age_ms", (double)((now_us() - guardian->epoch_us) / 1000));
		pauses_summarize(&guardian->pauses, &s);
		cJSON_AddNumberToObject(status, "epochs", (double)s.epochs);
		add_figures(status, "pause_us", s.pause_mean_us, s.pause_p99_us, s.pause_max_us);
		add_figures(
			status, "commit_us", s.commit_mean_us, s.commit_p99_us, s.commit_max_us);
		add_parts(status, &s);
		cJSON_AddNumberToObject(status, "pages_per_epoch", s.pages_mean);
		cJSON_AddNumberToObject(status, "bytes_per_epoch", s.bytes_mean);
		cJSON_AddNumberToObject(status, "state_bytes_per_epoch", s.state_bytes_mean);
		cJSON_AddNumberToObject(status, "bytes_per_s", s.bytes_per_s);
	}
	pthread_mutex_unlock(&guardian->lock);
	return status;
}

static void tell(struct guardian *guardian)
{
	guardian->config.changed(guardian->config.ctx, guardian_status(guardian));
}

/* The death of QEMU is final, whoever saw it. */
static void set_state(struct guardian *guardian, enum state state)
{
	bool changed;

	pthread_mutex_lock(&guardian->lock);
	changed = guardian->state != state && guardian->state != PRIMARY_DEAD;
	if (changed)
		guardian->state = state;
	pthread_cond_broadcast(&guardian->cond);
	pthread_mutex_unlock(&guardian->lock);
	if (changed)
		tell(guardian);
}

static bool is_dead(struct guardian *guardian)
{
	bool dead;

	pthread_mutex_lock(&guardian->lock);
	dead = guardian->state == PRIMARY_DEAD;
	pthread_mutex_unlock(&guardian->lock);
	return dead;
}

static enum wish get_wish(struct guardian *guardian)
{
	enum wish wish;

	pthread_mutex_lock(&guardian->lock);
	wish = guardian->wish;
	pthread_mutex_unlock(&guardian->lock);
	return wish;
}

__attribute__((format(printf, 2, 3))) static void set_why(
	struct guardian *guardian, const char *fmt, ...)
{
	va_list args;

	pthread_mutex_lock(&guardian->lock);
	if (guardian->why[0] == '\0') { /* the first reason is the cause */
		va_start(args, fmt);
		vsnprintf(guardian->why, sizeof(guardian->why), fmt, args);
		va_end(args);
	}
	pthread_mutex_unlock(&guardian->lock);
}

static void wake(int fd)
{
	uint64_t one = 1;

	if (write(fd, &one, sizeof(one)) < 0)
		log_debug("a thread was awake already");
}

/* Is QEMU's process stopped by a signal? */
static bool is_suspended(const struct guardian *guardian)
{
	char path[64], text[512] = "";
	const char *state;
	FILE *file;

	snprintf(path, sizeof(path), "/proc/%d/stat", (int)guardian->pid);
	file = fopen(path, "re");
	if (file == NULL)
		return false;
	if (fgets(text, sizeof(text), file) == NULL)
		text[0] = '\0';
	fclose(file);
	state = strrchr(text, ')'); /* the end of a name that may hold anything */
	return state != NULL && state[1] == ' ' && (state[2] == 'T' || state[2] == 't');
}

static void note_suspended(struct guardian *guardian, bool suspended)
{
	bool changed;

	pthread_mutex_lock(&guardian->lock);
	changed = guardian->suspended != suspended;
	guardian->suspended = suspended;
	pthread_mutex_unlock(&guardian->lock);
	if (changed)
		tell(guardian);
}

static void note_death(struct guardian *guardian)
{
	pthread_mutex_lock(&guardian->lock);
	snprintf(guardian->why, sizeof(guardian->why), "QEMU's process has ended");
	pthread_mutex_unlock(&guardian->lock);
	set_state(guardian, PRIMARY_DEAD);
	wake(guardian->wake_fd);
}

/* A thread of its own: the other one may be waiting for QEMU or the network. */
static void *watcher_main(void *ctx)
{
	struct guardian *guardian = ctx;
	struct pollfd p[2] = {
		{.fd = guardian->pid_fd, .events = POLLIN},
		{.fd = guardian->end_fd, .events = POLLIN},
	};
	bool before = false;

	while (p[0].revents == 0 && p[1].revents == 0) {
		bool now = !guardian_ended(guardian) && is_suspended(guardian);

		/* A debugger's or profiler's moment isn't meant. */
		note_suspended(guardian, now && before);
		before = now;
		poll(p, 2, WATCH_MS);
	}
	if (p[0].revents != 0 && !guardian_ended(guardian))
		note_death(guardian);
	return NULL;
}

/* ---- the other hostd --------------------------------------------------------------------- */

static int send_frame(void *ctx, const struct frame *frame)
{
	struct guardian *guardian = ctx;
	struct frame own = *frame;
	int error;

	if (guardian->link == NULL)
		return ENOTCONN;
	memcpy(own.uuid, guardian->config.uuid, sizeof(own.uuid));
	error = link_send(guardian->link, &own, guardian->config.timeout_ms);
	guardian->said_ms = now_ms();
	if (error != 0)
		set_why(guardian, "%s", link_why(guardian->link));
	return error;
}

static int send_simple(struct guardian *guardian, enum frame_type type, uint64_t epoch)
{
	struct frame frame = {.type = type, .epoch = epoch};

	return send_frame(guardian, &frame);
}

static int take_frame(struct guardian *guardian, const struct frame *frame)
{
	switch (frame->type) {
	case FRAME_ALIVE:
		return 0;
	case FRAME_ACK:
		if (frame->epoch != guardian->acked ||
			frame->epoch >= epoch_number(guardian->sender))
			break;
		guardian->acked++;
		return 0;
	case FRAME_ASK:
		return send_simple(guardian, FRAME_DENY, frame->epoch);
	case FRAME_TAKEN:
		guardian->taken = true;
		set_why(guardian, "the standby was activated");
		return ECANCELED;
	case FRAME_DISCARD:
		set_why(guardian, "the standby gave up: %.*s",
			(int)(frame->length < 180 ? frame->length : 180),
			(const char *)frame->payload);
		return ECANCELED;
	default:
		break;
	}
	set_why(guardian, "unexpected %s from the other hostd", frame_name(frame->type));
	return EPROTO;
}

/* Reads what came from the standby, and says something if it is time to. */
static int listen_to_peer(struct guardian *guardian)
{
	struct frame frame;
	int error;

	if (guardian->link == NULL)
		return ENOTCONN;
	while ((error = link_receive(guardian->link, &frame, 0)) == 0) {
		guardian->heard_ms = now_ms();
		error = take_frame(guardian, &frame);
		if (error != 0)
			return error;
	}
	if (error != ETIMEDOUT) {
		set_why(guardian, "%s", link_why(guardian->link));
		return error;
	}
	if (now_ms() - guardian->heard_ms > PEER_MS) {
		set_why(guardian, "the standby's hostd is silent");
		return ETIMEDOUT;
	}
	return now_ms() - guardian->said_ms >= ALIVE_MS ? send_simple(guardian, FRAME_ALIVE, 0) : 0;
}

/* Waits for a wish, QEMU's death or something from the standby, up to `ms`. */
static void wait_for_news(struct guardian *guardian, int64_t ms)
{
	struct pollfd p[2] = {
		{.fd = guardian->wake_fd, .events = POLLIN},
		{.fd = guardian->link != NULL ? link_fd(guardian->link) : -1, .events = POLLIN},
	};
	int64_t until_alive = guardian->said_ms + ALIVE_MS - now_ms();
	uint64_t ticks;

	if (guardian->link != NULL && ms > until_alive)
		ms = until_alive;
	if (ms > 0 && (guardian->link == NULL || !link_pending(guardian->link)))
		poll(p, 2, (int)ms);
	/* Non-blocking; only empties it. */
	if (read(guardian->wake_fd, &ticks, sizeof(ticks)) < 0)
		return;
}

/* Returns 0 to go on, ECANCELED when it is to end. */
static int check_wish(struct guardian *guardian)
{
	if (is_dead(guardian))
		return ECANCELED;
	switch (get_wish(guardian)) {
	case WISH_STOP:
		set_why(guardian, "the controller ended it");
		return ECANCELED;
	case WISH_QUIT:
		set_why(guardian, "hostd ends");
		return ECANCELED;
	default:
		return 0;
	}
}

static int wait_acknowledged(struct guardian *guardian, uint64_t epoch, int64_t deadline_us)
{
	for (;;) {
		int64_t left = (deadline_us - now_us() + 999) / 1000;
		int error = listen_to_peer(guardian);

		if (error == 0 && guardian->acked > epoch)
			return 0;
		if (error == 0)
			error = check_wish(guardian);
		if (error == 0 && left <= 0) {
			set_why(guardian, "the standby didn't acknowledge epoch %llu in time",
				(unsigned long long)epoch);
			error = ETIMEDOUT;
		}
		if (error != 0)
			return error;
		wait_for_news(guardian, left);
	}
}

/* ---- the base ---------------------------------------------------------------------------- */

static int dirty_failed(struct guardian *guardian, int error)
{
	set_why(guardian, "QEMU's memory can't be watched: %s", strerror(error));
	return error;
}

static int send_pass(struct guardian *guardian, size_t *n)
{
	size_t n_pages = dirty_n_pages(guardian->dirty), taken = 0;
	uint8_t now[PAGE_BYTES];
	const uint64_t *set;
	int error = dirty_scan(guardian->dirty, &set, n);

	if (error != 0)
		return dirty_failed(guardian, error);
	for (size_t p = page_set_next(set, 0, n_pages); p < n_pages && error == 0;
		p = page_set_next(set, p + 1, n_pages)) {
		const uint8_t *before = dirty_take(guardian->dirty, p, now);

		error = epoch_send_page(guardian->sender, p, now, before);
		if (++taken % 1024 == 0 && error == 0)
			error = check_wish(guardian);
		if (taken % 1024 == 0 && error == 0)
			error = listen_to_peer(guardian);
	}
	return error == 0 ? epoch_flush(guardian->sender) : error;
}

static int sync_base(struct guardian *guardian)
{
	size_t n = SIZE_MAX;
	int error = 0;

	for (unsigned pass = 0; pass < MAX_PASSES && n > FEW_PAGES && error == 0; pass++) {
		error = send_pass(guardian, &n);
		pthread_mutex_lock(&guardian->lock);
		guardian->passes++;
		guardian->pages = epoch_counts(guardian->sender)->pages;
		guardian->bytes = epoch_counts(guardian->sender)->wire_bytes;
		pthread_mutex_unlock(&guardian->lock);
	}
	if (error == 0)
		error = epoch_end(guardian->sender);
	return error == 0 ? wait_acknowledged(guardian, 0, now_us() + CONNECT_MS * 1000) : error;
}

/* ---- an epoch ---------------------------------------------------------------------------- */

static int qmp_failed(struct guardian *guardian, int error)
{
	guardian->mute |= error == ETIMEDOUT;
	set_why(guardian, "%s", qmp_why(guardian->qmp));
	return error;
}

/*
 * Stops the VM and takes all of it. What is done while it stands still: QEMU saves its state, we
 * copy pages. Sets `*whole` to whether memory stayed as it was meanwhile: what comes in on a serial
 * port, for one, is written to a stopped VM's memory, and then state and memory don't belong
 * together.
 */
static int take(struct guardian *guardian, bool *whole)
{
	struct qmp_call calls[4 + HOLD_MAX_NICS];
	struct epoch_cost *cost = &guardian->cost;
	int64_t still_us, copied_us;
	size_t n = 0, pages;
	int timeout = guardian->config.timeout_ms, error;

	calls[n++] = qmp_state_call(guardian->qmp, true);
	calls[n++] = (struct qmp_call){"stop", NULL};
	n += hold_cut(guardian->hold, calls + n);
	qmp_save_calls(guardian->qmp, calls + n);
	n += 2;
	if (lseek(guardian->state_fd, 0, SEEK_SET) != 0)
		return errno;
	error = qmp_batch_begin(guardian->qmp, calls, n, guardian->state_fd, timeout);
	if (error == 0)
		error = qmp_batch_wait(guardian->qmp, 1, timeout);
	guardian->stopped_us = now_us();
	if (error == 0)
		error = qmp_batch_wait(guardian->qmp, 2, timeout);
	if (error != 0)
		return qmp_failed(guardian, error);
	still_us = now_us();
	error = capture_take(guardian->capture, guardian->dirty, &pages);
	if (error != 0)
		return dirty_failed(guardian, error);
	copied_us = now_us();
	error = qmp_batch_wait(guardian->qmp, n, timeout);
	if (error == 0)
		error = qmp_save_wait(guardian->qmp, timeout);
	if (error != 0)
		return qmp_failed(guardian, error);
	guardian->state_size = (size_t)lseek(guardian->state_fd, 0, SEEK_CUR);
	error = capture_take(guardian->capture, guardian->dirty, &pages);
	*whole = pages == 0;
	cost->stop_us = still_us - guardian->stopped_us;
	cost->copy_us = copied_us - still_us;
	cost->state_us = now_us() - copied_us;
	return error != 0 ? dirty_failed(guardian, error) : 0;
}

/* Returns 0 or errno: QEMU doesn't answer. Then the record remains. */
static int resume(struct guardian *guardian)
{
	int64_t begin_us = now_us();
	int error = qmp_cont(guardian->qmp, guardian->config.timeout_ms);

	if (error != 0 && error != ECONNRESET)
		return qmp_failed(guardian, error);
	guardian->cost.resume_us = now_us() - begin_us;
	guardian->cost.pause_us = now_us() - guardian->stopped_us;
	guardian->stopped = false;
	freeze_set(guardian->freeze, FREEZE_RUNNING);
	return 0;
}

static int take_epoch(struct guardian *guardian, bool *whole)
{
	struct qmp_call end;
	int error, later;

	guardian->stopped_us = now_us();
	guardian->stopped = true;
	freeze_set(guardian->freeze, FREEZE_STOPPED);
	urgent_begin(guardian->pid);
	error = take(guardian, whole);
	/* One that doesn't answer is dealt with by whoever ends this. */
	later = error != ETIMEDOUT ? resume(guardian) : 0;
	urgent_end(guardian->pid);
	if (error == 0 && later == 0) {
		end = qmp_state_call(guardian->qmp, false);
		later = qmp_batch(guardian->qmp, &end, 1, QMP_MS);
		if (later != 0)
			qmp_failed(guardian, later);
	}
	return error != 0 ? error : later;
}

static int send_state(struct guardian *guardian)
{
	void *state;
	int error;

	if (guardian->state_size == 0 || guardian->state_size > STATE_MAX) {
		set_why(guardian, "QEMU saved %zu bytes of device state", guardian->state_size);
		return EPROTO;
	}
	state = mmap(NULL, guardian->state_size, PROT_READ, MAP_SHARED, guardian->state_fd, 0);
	if (state == MAP_FAILED)
		return errno;
	error = epoch_send_state(guardian->sender, state, guardian->state_size);
	munmap(state, guardian->state_size);
	return error;
}

/* The VM runs meanwhile. */
static int send_epoch(struct guardian *guardian, struct epoch_cost *cost)
{
	size_t n = capture_count(guardian->capture);
	uint64_t page_bytes;
	int error = 0;

	for (size_t i = 0; i < n && error == 0; i++) {
		const uint8_t *now, *before;
		size_t page = capture_page(guardian->capture, i, &now, &before);

		error = epoch_send_page(guardian->sender, page, now, before);
		if (i % 1024 == 1023 && error == 0)
			error = check_wish(guardian);
	}
	if (error == 0)
		error = epoch_flush(guardian->sender);
	page_bytes = epoch_counts(guardian->sender)->wire_bytes;
	if (error == 0)
		error = send_state(guardian);
	cost->pages = epoch_counts(guardian->sender)->pages;
	cost->bytes = epoch_counts(guardian->sender)->wire_bytes;
	cost->state_bytes = cost->bytes - page_bytes;
	if (error == 0)
		error = epoch_end(guardian->sender);
	capture_clear(guardian->capture);
	return error;
}

static void count(struct guardian *guardian, const struct epoch_cost *cost, uint64_t epoch)
{
	pthread_mutex_lock(&guardian->lock);
	guardian->epoch = epoch;
	guardian->epoch_us = guardian->stopped_us;
	guardian->pages += cost->pages;
	guardian->bytes += cost->bytes;
	guardian->cpu_us = clock_us(CLOCK_THREAD_CPUTIME_ID);
	pauses_add(&guardian->pauses, cost);
	pthread_mutex_unlock(&guardian->lock);
}

/* Sends what was taken, and lets the output go when the standby has it. */
static int commit_epoch(struct guardian *guardian)
{
	uint64_t epoch = epoch_number(guardian->sender);
	struct epoch_cost cost = guardian->cost;
	int64_t deadline_us = guardian->stopped_us + guardian->config.timeout_ms * 1000LL;
	/* Has the standby been activated, while QEMU or this process was stopped? */
	int error = listen_to_peer(guardian);

	if (error == 0)
		error = send_epoch(guardian, &cost);
	if (error == 0)
		error = wait_acknowledged(guardian, epoch, deadline_us);
	if (error != 0)
		return error;
	cost.at_us = now_us();
	cost.commit_us = cost.at_us - guardian->stopped_us;
	error = hold_release(guardian->hold, guardian->config.timeout_ms);
	if (error != 0)
		return qmp_failed(guardian, error);
	count(guardian, &cost, epoch);
	if (epoch == 1) {
		set_state(guardian, PROTECTED);
	} else if (now_ms() - guardian->told_ms >= TELL_MS) {
		guardian->told_ms = now_ms();
		tell(guardian);
	}
	return 0;
}

static int wait_until_next(struct guardian *guardian, int64_t next_us)
{
	for (;;) {
		int64_t left = (next_us - now_us()) / 1000;
		int error = listen_to_peer(guardian);

		if (error == 0)
			error = check_wish(guardian);
		if (error != 0 || left <= 0)
			return error;
		wait_for_news(guardian, left);
	}
}

/* Returns why it ends. */
static int run_epochs(struct guardian *guardian)
{
	int64_t redo_us = 0; /* since when nothing came of it; 0: something did */
	int error = hold_begin(guardian->hold, QMP_MS);

	if (error != 0)
		return qmp_failed(guardian, error);
	for (;;) {
		bool whole = false;
		int64_t next_us;

		error = take_epoch(guardian, &whole);
		if (error == 0 && whole)
			error = commit_epoch(guardian);
		else if (error == 0 && (error = hold_join(guardian->hold, QMP_MS)) != 0)
			qmp_failed(guardian, error);
		if (error != 0)
			return error;
		pthread_mutex_lock(&guardian->lock);
		next_us =
			guardian->stopped_us + (whole ? guardian->interval_ms : RETRY_MS) * 1000LL;
		guardian->redone += !whole;
		pthread_mutex_unlock(&guardian->lock);
		if (whole)
			redo_us = 0;
		else if (redo_us == 0)
			redo_us = now_us();
		else if (now_us() - redo_us > guardian->config.timeout_ms * 1000LL) {
			set_why(guardian, "the VM's memory changes even while it stands still");
			return EPROTO;
		}
		error = wait_until_next(guardian, next_us);
		if (error != 0)
			return error;
	}
}

static void protect(struct guardian *guardian)
{
	/* Learns how capabilities were, so that they can be put back. */
	int error = qmp_begin_state(guardian->qmp, QMP_MS);

	if (error == 0)
		error = qmp_end_state(guardian->qmp, QMP_MS);
	if (error != 0) {
		qmp_failed(guardian, error);
		return;
	}
	if (sync_base(guardian) == 0)
		run_epochs(guardian);
}

/* ---- the end ----------------------------------------------------------------------------- */

/*
 * QEMU was asked something and didn't answer; is its process stopped? The copy stays good, because
 * nothing was let go since its last epoch. Waits until QEMU answers again or is dead, or someone
 * wants this to end.
 */
static void stay_silent(struct guardian *guardian)
{
	const struct qmp_call ask = {"query-status", NULL};
	bool linked = guardian->link != NULL;

	if (qmp_batch_begin(guardian->qmp, &ask, 1, -1, RETRY_MS) != 0 ||
		qmp_batch_wait(guardian->qmp, 1, RETRY_MS) != ETIMEDOUT)
		return;
	log_warn("a protected VM doesn't answer: %s", guardian->why);
	set_state(guardian, PRIMARY_SILENT);
	while (qmp_batch_wait(guardian->qmp, 1, RETRY_MS) == ETIMEDOUT && !is_dead(guardian) &&
		get_wish(guardian) == WISH_NONE) {
		if (linked && listen_to_peer(guardian) != 0) {
			linked = false;
			link_close(guardian->link);
			guardian->link = NULL;
		}
		wait_for_news(guardian, ALIVE_MS / 2);
	}
	if (linked)
		listen_to_peer(guardian);
}

/* Does QEMU answer? */
static bool answers(struct guardian *guardian)
{
	char status[32];

	return qmp_status(guardian->qmp, status, QMP_MS) == 0;
}

static void say_void(struct guardian *guardian)
{
	struct frame frame = {
		.type = FRAME_DISCARD,
		.length = (uint32_t)strlen(guardian->why),
		.payload = (const uint8_t *)guardian->why,
	};

	if (guardian->link != NULL)
		send_frame(guardian, &frame);
}

/* The VM runs and everything held goes out, whatever it takes. */
static void let_go(struct guardian *guardian)
{
	bool complained = false;

	for (;;) {
		int error = guardian->stopped ? resume(guardian) : 0;

		if (error == 0)
			error = hold_end(guardian->hold, guardian->config.timeout_ms);
		if (error == 0)
			break;
		if (!complained)
			log_error("a VM can't be let go yet, will try on: %s",
				qmp_why(guardian->qmp));
		complained = true;
		if (error == ECONNRESET || is_dead(guardian) || get_wish(guardian) == WISH_QUIT)
			return; /* the record remains for the guard */
		wait_for_news(guardian, ALIVE_MS);
	}
	freeze_destroy(guardian->freeze);
	guardian->freeze = NULL;
	if (qmp_end_state(guardian->qmp, QMP_MS) != 0)
		log_warn("QEMU's x-ignore-shared stays on: %s; don't save this VM by virsh",
			qmp_why(guardian->qmp));
}

/* The monitor is gone: does the process live on? */
static bool lost_monitor(struct guardian *guardian)
{
	struct pollfd p = {.fd = guardian->pid_fd, .events = POLLIN};
	char why[256];

	if (poll(&p, 1, GONE_MS) > 0) {
		note_death(guardian);
		return true;
	}
	qmp_close(guardian->qmp);
	guardian->qmp = NULL;
	hold_destroy(guardian->hold);
	guardian->hold = NULL;
	if (qmp_open(guardian->qmp_path, QMP_MS, &guardian->qmp, why) != 0)
		return true; /* the record remains */
	return hold_create(guardian->qmp, false, QMP_MS, &guardian->hold) != 0;
}

static void stand_still(struct guardian *guardian)
{
	/* From now on nobody here resumes it: neither this nor the guard. */
	freeze_set(guardian->freeze, FREEZE_GRANTED);
	if (qmp_stop(guardian->qmp, QMP_MS) != 0)
		log_error("a VM whose standby was activated can't be stopped: %s; destroy it",
			qmp_why(guardian->qmp));
	set_state(guardian, SUPERSEDED);
}

static void *guardian_main(void *ctx)
{
	struct guardian *guardian = ctx;
	protect(guardian);
	/* The last word may be there already, whatever ended this. */
	if (!guardian->taken)
		listen_to_peer(guardian);
	if (!is_dead(guardian) && guardian->mute)
		stay_silent(guardian);
	if (!is_dead(guardian) && !answers(guardian) && lost_monitor(guardian))
		set_why(guardian, "QEMU's monitor is gone");
	else if (!is_dead(guardian) && guardian->taken)
		stand_still(guardian);
	else if (!is_dead(guardian)) {
		let_go(guardian);
		say_void(guardian);
	}
	/* A dead primary's copy stays good. */
	link_close(guardian->link);
	guardian->link = NULL;
	if (!guardian_ended(guardian))
		set_state(guardian, UNPROTECTED);
	log_warn("a VM's protection is over: %s", guardian->why);
	return NULL;
}

/* ---- beginning and end ------------------------------------------------------------------- */

static int open_primary(struct guardian *guardian, const char *ram_path, struct jsonrpc_error *err)
{
	char why[256], status[32], ram[PATH_MAX];
	int error = qmp_open(guardian->qmp_path, QMP_MS, &guardian->qmp, why);

	if (error != 0)
		return jsonrpc_fail(err, JSONRPC_UNAVAILABLE, "/qmp_path", "%.250s", why);
	if (qmp_status(guardian->qmp, status, QMP_MS) != 0)
		return jsonrpc_fail(
			err, JSONRPC_UNAVAILABLE, "/qmp_path", "%.250s", qmp_why(guardian->qmp));
	if (strcmp(status, "running") != 0)
		return jsonrpc_fail(err, JSONRPC_CONFLICT, "/qmp_path",
			"the VM is %s; only a running one can be protected", status);
	if (ram_path == NULL && qmp_ram_path(guardian->qmp, ram, sizeof(ram), QMP_MS) != 0)
		return jsonrpc_fail(
			err, JSONRPC_CONFLICT, "/qmp_path", "%.250s", qmp_why(guardian->qmp));
	if (dirty_open(ram_path != NULL ? ram_path : ram, qmp_pid(guardian->qmp),
		    guardian->config.engine, true, &guardian->dirty, why) != 0)
		return jsonrpc_fail(err, JSONRPC_INVALID_PARAMS, "/ram_path", "%.250s", why);
	guardian->pid = qmp_pid(guardian->qmp);
	guardian->pid_fd = (int)syscall(SYS_pidfd_open, guardian->pid, 0);
	guardian->state_fd = memfd_create("device-state", MFD_CLOEXEC);
	guardian->capture = capture_create(dirty_n_pages(guardian->dirty));
	guardian->sender = epoch_sender_create(send_frame, guardian);
	if (guardian->pid_fd < 0 || guardian->state_fd < 0 || guardian->capture == NULL ||
		guardian->sender == NULL)
		return jsonrpc_fail(err, JSONRPC_INTERNAL_ERROR, "", "resources ran out");
	return 0;
}

static int prepare(struct guardian *guardian, const char *ram_path, struct jsonrpc_error *err)
{
	const struct guardian_config *config = &guardian->config;
	char why[256];
	int error;

	if (open_primary(guardian, ram_path, err) != 0)
		return -1;
	error = link_connect(config->keys, guardian->address, CONNECT_MS, &guardian->link, why);
	if (error == 0)
		error = link_greet(guardian->link, config->uuid, config->ticket,
			dirty_n_pages(guardian->dirty), CONNECT_MS, why);
	if (error != 0)
		return jsonrpc_fail(err,
			error == EACCES   ? JSONRPC_CONFLICT
			: error == EINVAL ? JSONRPC_INVALID_PARAMS
					  : JSONRPC_UNAVAILABLE,
			error == EACCES ? "/to/ticket" : "/to/address", "hostd at %.80s: %.160s",
			guardian->address, why);
	guardian->heard_ms = guardian->said_ms = now_ms();
	error = freeze_create(config->run_dir, config->uuid, guardian->qmp_path, &guardian->freeze);
	if (error != 0)
		return jsonrpc_fail(err, JSONRPC_INTERNAL_ERROR, "", "run directory %.100s: %s",
			config->run_dir, strerror(error));
	if (hold_create(guardian->qmp, config->hold_output, QMP_MS, &guardian->hold) != 0)
		return jsonrpc_fail(err, JSONRPC_CONFLICT, "/hold_output",
			"the VM's output can't be held: %.180s", qmp_why(guardian->qmp));
	guardian->n_nics = hold_n_nics(guardian->hold);
	return 0;
}

int guardian_start(
	const struct guardian_config *config, struct guardian **out, struct jsonrpc_error *err)
{
	struct guardian *guardian = calloc(1, sizeof(*guardian));
	pthread_condattr_t attr;

	if (guardian == NULL)
		return jsonrpc_fail(err, JSONRPC_INTERNAL_ERROR, "", "out of memory");
	guardian->config = *config;
	guardian->interval_ms = config->interval_ms;
	guardian->pid_fd = guardian->state_fd = -1;
	pthread_mutex_init(&guardian->lock, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&guardian->cond, &attr);
	pthread_condattr_destroy(&attr);
	guardian->qmp_path = strdup(config->qmp_path);
	guardian->address = strdup(config->address);
	guardian->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	guardian->end_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (guardian->qmp_path == NULL || guardian->address == NULL || guardian->wake_fd < 0 ||
		guardian->end_fd < 0)
		jsonrpc_fail(err, JSONRPC_INTERNAL_ERROR, "", "out of memory");
	else if (prepare(guardian, config->ram_path, err) == 0) {
		guardian->watching =
			pthread_create(&guardian->watcher, NULL, watcher_main, guardian) == 0;
		guardian->started = guardian->watching && pthread_create(&guardian->thread, NULL,
								  guardian_main, guardian) == 0;
		if (!guardian->started)
			jsonrpc_fail(err, JSONRPC_INTERNAL_ERROR, "", "no thread can be made");
	}
	if (!guardian->started) {
		if (guardian->hold != NULL)
			hold_end(guardian->hold, QMP_MS);
		guardian_destroy(guardian);
		return -1;
	}
	*out = guardian;
	return 0;
}

void guardian_quit(struct guardian *guardian)
{
	pthread_mutex_lock(&guardian->lock);
	guardian->wish = WISH_QUIT;
	pthread_mutex_unlock(&guardian->lock);
	wake(guardian->wake_fd);
}

void guardian_destroy(struct guardian *guardian)
{
	if (guardian == NULL)
		return;
	if (guardian->started) {
		guardian_quit(guardian);
		pthread_join(guardian->thread, NULL);
	}
	if (guardian->watching) {
		wake(guardian->end_fd);
		pthread_join(guardian->watcher, NULL);
	}
	/* A record of a VM that couldn't be let go stays for the guard. */
	if (!guardian->started || guardian->state != UNPROTECTED)
		freeze_destroy(guardian->freeze);
	epoch_sender_destroy(guardian->sender);
	link_close(guardian->link);
	capture_destroy(guardian->capture);
	hold_destroy(guardian->hold);
	dirty_close(guardian->dirty);
	qmp_close(guardian->qmp);
	for (int i = 0; i < 4; i++) {
		int fd = i == 0   ? guardian->wake_fd
			 : i == 1 ? guardian->end_fd
			 : i == 2 ? guardian->pid_fd
				  : guardian->state_fd;
		if (fd >= 0)
			close(fd);
	}
	pthread_mutex_destroy(&guardian->lock);
	pthread_cond_destroy(&guardian->cond);
	free(guardian->qmp_path);
	free(guardian->address);
	free(guardian);
}

void guardian_set_interval(struct guardian *guardian, int interval_ms)
{
	pthread_mutex_lock(&guardian->lock);
	guardian->interval_ms = interval_ms;
	memset(&guardian->pauses, 0, sizeof(guardian->pauses));
	pthread_mutex_unlock(&guardian->lock);
	wake(guardian->wake_fd);
}

int guardian_stop(struct guardian *guardian, struct jsonrpc_error *err)
{
	struct timespec until;
	int64_t end_ms = now_ms() + guardian->config.timeout_ms + STOP_MS;
	int result = 0;

	until.tv_sec = end_ms / 1000;
	until.tv_nsec = end_ms % 1000 * 1000000;
	pthread_mutex_lock(&guardian->lock);
	if (guardian->wish < WISH_STOP)
		guardian->wish = WISH_STOP;
	wake(guardian->wake_fd);
	while (!is_end(guardian->state) && result == 0) {
		if (pthread_cond_timedwait(&guardian->cond, &guardian->lock, &until) == ETIMEDOUT)
			result = jsonrpc_fail(err, JSONRPC_UNAVAILABLE, "",
				"not stopped in time; the VM is %s", state_names[guardian->state]);
	}
	pthread_mutex_unlock(&guardian->lock);
	return result;
}

bool guardian_ended(struct guardian *guardian)
{
	bool ended;

	pthread_mutex_lock(&guardian->lock);
	ended = is_end(guardian->state);
	pthread_mutex_unlock(&guardian->lock);
	return ended;
}
