/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "hostd/source.h"

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
#include <time.h>
#include <unistd.h>

#include "common/log.h"
#include "hostd/capture.h"
#include "hostd/epoch.h"
#include "hostd/freeze.h"
#include "hostd/qmp.h"
#include "hostd/urgent.h"

#define CONNECT_MS 5000
#define QMP_MS 2000       /* an ordinary command */
#define STATE_MS 3000     /* saving device state */
#define SEND_MS 3000      /* a frame, against a peer that doesn't read */
#define ACK_MS 3000       /* an acknowledgement */
#define PEER_MS 5000      /* silence of the other hostd that means its death */
#define ALIVE_MS 500      /* how often each side says that it is there */
#define READY_SCAN_MS 100 /* while waiting for the freeze: how often changes are sent */
#define FEW_PAGES 512     /* so few changes make a short stop */
#define MAX_PASSES 30     /* of a VM that changes its memory faster than it is sent */
#define MAX_STATE (64u << 20)

enum state { COPYING, READY, STOPPED, FROZEN, BOTH, ENDED };
enum wish { WISH_NONE, WISH_FREEZE, WISH_RESUME, WISH_ABORT, WISH_QUIT };

static const char *const state_names[] = {"copying", "ready", "stopped", "frozen", "both", "ended"};

struct timings { /* µs */
	int64_t last_pass, stop, state, pages, send, acknowledged, paused;
};

struct source {
	struct source_config config;
	char *qmp_path, *address;
	pthread_t thread;
	bool started;
	int wake_fd;
	/* Of the thread alone. */
	struct qmp *qmp;
	struct dirty *dirty;
	struct link *link; /* NULL: lost */
	struct epoch_sender *sender;
	struct capture *capture; /* what is taken while the VM stands still */
	struct freeze *freeze;
	bool stopped;   /* the VM, by us */
	bool capable;   /* between qmp_begin_state() and qmp_end_state() */
	uint64_t acked; /* 1 + the last epoch acknowledged; 0: none */
	int64_t heard_ms, said_ms, stopped_us;
	/* Of all, under the lock. */
	pthread_mutex_t lock;
	pthread_cond_t cond;
	enum state state;
	enum wish wish;
	bool granted, fenced;
	int64_t deadline_ms; /* FROZEN: when it resumes by itself */
	char why[256];       /* ENDED: what ended it; "" for finished */
	unsigned passes;
	uint64_t pages, wire_bytes, state_bytes, last_pages;
	size_t dirty_pages;
	struct timings t;
};

static int64_t now_us(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (int64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

static int64_t now_ms(void)
{
	return now_us() / 1000;
}

/* ---- what others see --------------------------------------------------------------------- */

static cJSON *status_locked(struct source *source)
{
	cJSON *status = cJSON_CreateObject(), *t;
	char uuid[UUID_STRLEN];

	cJSON_AddStringToObject(status, "uuid", frame_format_uuid(source->config.uuid, uuid));
	cJSON_AddStringToObject(status, "role", "source");
	cJSON_AddStringToObject(status, "state", state_names[source->state]);
	cJSON_AddBoolToObject(status, "granted", source->granted);
	cJSON_AddBoolToObject(status, "vm_ended", qmp_gone(source->qmp));
	if (source->state == ENDED)
		cJSON_AddStringToObject(status, "reason", source->why);
	cJSON_AddStringToObject(status, "engine", dirty_engine_name(dirty_engine(source->dirty)));
	cJSON_AddStringToObject(status, "engine_reason", dirty_reason(source->dirty));
	cJSON_AddNumberToObject(status, "memory_pages", (double)dirty_n_pages(source->dirty));
	cJSON_AddNumberToObject(status, "passes", source->passes);
	cJSON_AddNumberToObject(status, "pages", (double)source->pages);
	cJSON_AddNumberToObject(status, "bytes", (double)source->wire_bytes);
	cJSON_AddNumberToObject(status, "dirty_pages", (double)source->dirty_pages);
	if (source->t.acknowledged > 0) {
		cJSON_AddNumberToObject(status, "state_bytes", (double)source->state_bytes);
		cJSON_AddNumberToObject(status, "last_pages", (double)source->last_pages);
		t = cJSON_AddObjectToObject(status, "freeze_us");
		cJSON_AddNumberToObject(t, "last_pass", (double)source->t.last_pass);
		cJSON_AddNumberToObject(t, "stop", (double)source->t.stop);
		cJSON_AddNumberToObject(t, "pages", (double)source->t.pages);
		cJSON_AddNumberToObject(t, "state", (double)source->t.state);
		cJSON_AddNumberToObject(t, "send", (double)source->t.send);
		cJSON_AddNumberToObject(t, "acknowledged", (double)source->t.acknowledged);
		if (source->t.paused > 0)
			cJSON_AddNumberToObject(t, "paused", (double)source->t.paused);
	}
	return status;
}

cJSON *source_status(struct source *source)
{
	cJSON *status;

	pthread_mutex_lock(&source->lock);
	status = status_locked(source);
	pthread_mutex_unlock(&source->lock);
	return status;
}

static void tell(struct source *source)
{
	source->config.changed(source->config.ctx, source_status(source));
}

static void set_state(struct source *source, enum state state)
{
	pthread_mutex_lock(&source->lock);
	source->state = state;
	if (state == FROZEN)
		source->deadline_ms = now_ms() + source->config.silence_ms;
	pthread_cond_broadcast(&source->cond);
	pthread_mutex_unlock(&source->lock);
	tell(source);
}

static enum wish get_wish(struct source *source)
{
	enum wish wish;

	pthread_mutex_lock(&source->lock);
	wish = source->wish;
	pthread_mutex_unlock(&source->lock);
	return wish;
}

__attribute__((format(printf, 2, 3))) static void set_why(
	struct source *source, const char *fmt, ...)
{
	va_list args;

	pthread_mutex_lock(&source->lock);
	if (source->why[0] == '\0') { /* the first reason is the cause */
		va_start(args, fmt);
		vsnprintf(source->why, sizeof(source->why), fmt, args);
		va_end(args);
	}
	pthread_mutex_unlock(&source->lock);
}

/* ---- the other hostd --------------------------------------------------------------------- */

static int send_frame(void *ctx, const struct frame *frame)
{
	struct source *source = ctx;
	struct frame own = *frame;
	int error;

	if (source->link == NULL)
		return ENOTCONN;
	memcpy(own.uuid, source->config.uuid, sizeof(own.uuid));
	error = link_send(source->link, &own, SEND_MS);
	source->said_ms = now_ms();
	if (error != 0)
		set_why(source, "%s", link_why(source->link));
	return error;
}

static int send_simple(struct source *source, enum frame_type type, uint64_t epoch)
{
	struct frame frame = {.type = type, .epoch = epoch};

	return send_frame(source, &frame);
}

static void send_discard(struct source *source, const char *why)
{
	struct frame frame = {
		.type = FRAME_DISCARD,
		.length = (uint32_t)strlen(why),
		.payload = (const uint8_t *)why,
	};

	send_frame(source, &frame);
}

/* The destination asks for leave to run. Only here is it given. */
static int decide_leave(struct source *source, uint64_t epoch)
{
	bool grant;

	pthread_mutex_lock(&source->lock);
	grant = (source->state == FROZEN || source->state == BOTH) && epoch + 1 == source->acked;
	if (grant && source->state == FROZEN)
		freeze_set(source->freeze, FREEZE_GRANTED);
	source->granted |= grant;
	pthread_mutex_unlock(&source->lock);
	return send_simple(source, grant ? FRAME_GRANT : FRAME_DENY, epoch);
}

/* Reads what came from the destination, waiting up to `timeout_ms` for the first. */
static int listen_to_peer(struct source *source, int timeout_ms)
{
	struct frame frame;
	int error;

	while ((error = link_receive(source->link, &frame, timeout_ms)) == 0) {
		timeout_ms = 0;
		source->heard_ms = now_ms();
		if (frame.type == FRAME_ACK && frame.epoch == source->acked &&
			frame.epoch < epoch_number(source->sender)) {
			source->acked++;
			return 0;
		}
		if (frame.type == FRAME_ASK) {
			error = decide_leave(source, frame.epoch);
		} else if (frame.type == FRAME_DISCARD) {
			set_why(source, "the destination gave up: %.*s",
				(int)(frame.length < 180 ? frame.length : 180),
				(const char *)frame.payload);
			/* It doesn't run and never will: the leave is void. */
			pthread_mutex_lock(&source->lock);
			source->granted = false;
			if (source->stopped)
				freeze_set(source->freeze, FREEZE_STOPPED);
			pthread_mutex_unlock(&source->lock);
			error = ECANCELED;
		} else if (frame.type != FRAME_ALIVE) {
			set_why(source, "unexpected %s from the other hostd",
				frame_name(frame.type));
			error = EPROTO;
		}
		if (error != 0)
			return error;
	}
	if (error != ETIMEDOUT) {
		set_why(source, "%s", link_why(source->link));
		return error;
	}
	if (now_ms() - source->heard_ms > PEER_MS) {
		set_why(source, "the other hostd is silent");
		return ETIMEDOUT;
	}
	return now_ms() - source->said_ms >= ALIVE_MS ? send_simple(source, FRAME_ALIVE, 0) : 0;
}

/* ---- copying ----------------------------------------------------------------------------- */

static void count(struct source *source, size_t dirty_pages)
{

	const struct epoch_counts *now = epoch_counts(source->sender);

	pthread_mutex_lock(&source->lock);
	if (epoch_number(source->sender) == 0) {
		source->pages = now->pages;
		source->wire_bytes = now->wire_bytes;
	}
	source->dirty_pages = dirty_pages;
	pthread_mutex_unlock(&source->lock);
}

/* Sends what changed. Returns 0 with `*n`, ECANCELED when someone wants it to end, or errno. */
static int send_pass(struct source *source, size_t *n)
{
	size_t n_pages = dirty_n_pages(source->dirty), taken = 0;
	uint8_t now[PAGE_BYTES];
	const uint64_t *set;
	int error = dirty_scan(source->dirty, &set, n);

	if (error != 0) {
		set_why(source, "QEMU's memory can't be watched: %s", strerror(error));
		return error;
	}
	for (size_t p = page_set_next(set, 0, n_pages); p < n_pages && error == 0;
		p = page_set_next(set, p + 1, n_pages)) {
		const uint8_t *before = dirty_take(source->dirty, p, now);

		error = epoch_send_page(source->sender, p, now, before);
		if (++taken % 1024 != 0 || error != 0)
			continue;
		count(source, *n - taken);
		if (get_wish(source) >= WISH_ABORT)
			return ECANCELED;
		error = listen_to_peer(source, 0);
	}
	if (error == 0)
		error = epoch_flush(source->sender);
	count(source, *n - taken);
	return error;
}

static int copy_base(struct source *source)
{
	size_t n;

	for (unsigned pass = 0; pass < MAX_PASSES; pass++) {
		int error = send_pass(source, &n);

		if (error != 0)
			return error;
		pthread_mutex_lock(&source->lock);
		source->passes++;
		pthread_mutex_unlock(&source->lock);
		tell(source);
		if (n <= FEW_PAGES)
			return 0;
	}
	return 0;
}

/* Waits for a wish or something from the destination, up to `ms`. */
static void wait_for_news(struct source *source, int64_t ms)
{
	struct pollfd p[2] = {
		{.fd = source->wake_fd, .events = POLLIN},
		{.fd = source->link != NULL ? link_fd(source->link) : -1, .events = POLLIN},
	};
	uint64_t ticks;

	if (ms > ALIVE_MS)
		ms = ALIVE_MS;
	if (ms > 0 && (source->link == NULL || !link_pending(source->link)))
		poll(p, 2, (int)ms);
	/* Non-blocking; only empties it. */
	if (read(source->wake_fd, &ticks, sizeof(ticks)) < 0)
		return;
}

static int stay_ready(struct source *source)
{
	size_t n;

	for (;;) {
		enum wish wish = get_wish(source);
		int error;

		if (wish == WISH_FREEZE)
			return 0;
		if (wish >= WISH_ABORT)
			return ECANCELED;
		wait_for_news(source, READY_SCAN_MS);
		error = listen_to_peer(source, 0);
		if (error == 0)
			error = send_pass(source, &n);
		if (error != 0)
			return error;
	}
}

/* ---- the stop ---------------------------------------------------------------------------- */

static int qmp_failed(struct source *source, int error)
{
	set_why(source, "%s", qmp_why(source->qmp));
	return error;
}

/* The VM runs again, however long QEMU lets itself be waited for. */
static void resume_vm(struct source *source)
{
	bool complained = false;

	while (source->stopped) {
		int error = qmp_cont(source->qmp, QMP_MS);

		if (error == 0 || error == ECONNRESET) {
			source->stopped = false;
			break;
		}
		if (!complained)
			log_error(
				"a VM can't be resumed yet, will try on: %s", qmp_why(source->qmp));
		complained = true;
		if (get_wish(source) == WISH_QUIT)
			return; /* the record remains for the guard */
		poll(&(struct pollfd){.fd = source->wake_fd, .events = POLLIN}, 1, ALIVE_MS);
	}
	freeze_set(source->freeze, FREEZE_RUNNING);
	urgent_end(qmp_pid(source->qmp));
	pthread_mutex_lock(&source->lock);
	if (source->stopped_us > 0 && source->t.paused == 0)
		source->t.paused = now_us() - source->stopped_us;
	pthread_mutex_unlock(&source->lock);
}

static void end_capable(struct source *source)
{
	if (source->capable && qmp_end_state(source->qmp, QMP_MS) != 0)
		log_warn("QEMU's x-ignore-shared stays on: %s; don't save this VM by virsh",
			qmp_why(source->qmp));
	source->capable = false;
}

/* Sends the file's content as the epoch's device state. */
static int send_state(struct source *source, int fd)
{
	off_t size = lseek(fd, 0, SEEK_END);
	void *state;
	int error;

	if (size <= 0 || size > (off_t)MAX_STATE) {
		set_why(source, "QEMU saved %lld bytes of device state", (long long)size);
		return EPROTO;
	}
	state = mmap(NULL, (size_t)size, PROT_READ, MAP_SHARED, fd, 0);
	if (state == MAP_FAILED)
		return errno;
	error = epoch_send_state(source->sender, state, (size_t)size);
	munmap(state, (size_t)size);
	return error;
}

/* A fenced source need not wait until the destination has all of it. */
static void resume_if_told(struct source *source)
{
	bool told;

	pthread_mutex_lock(&source->lock);
	told = source->fenced || source->wish == WISH_RESUME;
	pthread_mutex_unlock(&source->lock);
	if (source->stopped && told)
		resume_vm(source);
}

static int wait_acknowledged(struct source *source, uint64_t epoch)
{
	int64_t deadline = now_ms() + ACK_MS;

	for (;;) {
		int64_t left = deadline - now_ms();
		int error = left > 0 ? listen_to_peer(source, 0) : ETIMEDOUT;

		resume_if_told(source);
		if (error == 0 && source->acked > epoch)
			return 0;
		if (error != 0) {
			set_why(source, "the destination doesn't acknowledge");
			return error;
		}
		wait_for_news(source, left);
	}
}

static int take_pages(struct source *source, size_t *n)
{
	int error = capture_take(source->capture, source->dirty, n);

	if (error != 0)
		set_why(source, "QEMU's memory can't be watched: %s", strerror(error));
	return error;
}

static int send_taken(struct source *source)
{
	size_t n = capture_count(source->capture);
	int error = 0;

	for (size_t i = 0; i < n && error == 0; i++) {
		const uint8_t *now, *before;
		size_t page = capture_page(source->capture, i, &now, &before);

		error = epoch_send_page(source->sender, page, now, before);
	}
	return error == 0 ? epoch_flush(source->sender) : error;
}

static int stop_and_send(struct source *source, int fd)
{
	struct timings t = {0};
	uint64_t epoch = epoch_number(source->sender);
	int64_t begin;
	size_t n;
	int error;

	freeze_set(source->freeze, FREEZE_STOPPED);
	source->stopped = true;
	begin = source->stopped_us = now_us();
	if (qmp_stop(source->qmp, QMP_MS) != 0 || (t.stop = now_us() - begin) < 0 ||
		qmp_save_begin(source->qmp, fd, QMP_MS) != 0)
		return qmp_failed(source, EIO);
	set_state(source, STOPPED);
	error = take_pages(source, &n);
	t.pages = now_us() - begin;
	if (error != 0)
		return error;
	if (qmp_save_wait(source->qmp, STATE_MS) != 0)
		return qmp_failed(source, EIO);
	/* What came in on the channel meanwhile is in memory and in the state. */
	error = take_pages(source, &n);
	t.state = now_us() - begin;
	resume_if_told(source);
	if (error == 0)
		error = send_taken(source);
	if (error == 0)
		error = send_state(source, fd);
	resume_if_told(source);
	pthread_mutex_lock(&source->lock);
	source->last_pages = epoch_counts(source->sender)->pages;
	source->state_bytes = epoch_counts(source->sender)->state_bytes;
	source->pages += source->last_pages;
	source->wire_bytes += epoch_counts(source->sender)->wire_bytes;
	pthread_mutex_unlock(&source->lock);
	if (error == 0)
		error = epoch_end(source->sender);
	t.send = now_us() - begin;
	if (error == 0)
		error = wait_acknowledged(source, epoch);
	t.acknowledged = now_us() - begin;
	t.last_pass = source->t.last_pass;
	if (error == 0) {
		pthread_mutex_lock(&source->lock);
		t.paused = source->t.paused;
		source->t = t;
		pthread_mutex_unlock(&source->lock);
	}
	return error;
}

static int freeze_vm(struct source *source)
{
	int64_t begin = now_us();
	int fd, error = 0;
	size_t n = 0;

	/* What the VM does not change while it is stopped need not be sent then. */
	for (int i = 0; i < 3 && error == 0; i++) {
		error = send_pass(source, &n);
		if (n <= FEW_PAGES / 8)
			break;
	}
	if (error == 0)
		error = epoch_end(source->sender);
	if (error == 0)
		error = wait_acknowledged(source, 0);
	if (error != 0)
		return error;
	if (qmp_begin_state(source->qmp, QMP_MS) != 0)
		return qmp_failed(source, EIO);
	source->capable = true;
	source->t.last_pass = now_us() - begin;
	fd = memfd_create("device-state", MFD_CLOEXEC);
	urgent_begin(qmp_pid(source->qmp));
	error = fd < 0 ? errno : stop_and_send(source, fd);
	urgent_end_self();
	if (fd >= 0)
		close(fd);
	return error;
}

/* FROZEN and BOTH: until the move is over. Returns 0 (finished) or errno (void). */
static int stay_frozen(struct source *source)
{
	for (;;) {
		enum wish wish;
		int64_t left;
		bool granted, frozen;
		int error = 0;

		if (source->link != NULL)
			error = listen_to_peer(source, 0);
		pthread_mutex_lock(&source->lock);
		wish = source->wish;
		granted = source->granted;
		frozen = source->state == FROZEN;
		left = source->deadline_ms - now_ms();
		pthread_mutex_unlock(&source->lock);
		if (error != 0) {
			link_close(source->link);
			source->link = NULL;
			if (error == ECANCELED || (frozen && !granted))
				return error;
			log_warn("the connection to the destination is lost: %s", source->why);
		}
		if (wish == WISH_ABORT)
			return ECANCELED;
		if (wish == WISH_QUIT)
			return frozen && !granted ? ECANCELED : 0;
		if (frozen && wish == WISH_RESUME) {
			resume_vm(source);
			end_capable(source);
			set_state(source, BOTH);
			continue;
		}
		if (frozen && !granted && left <= 0) {
			set_why(source, "no word of the controller for %d ms",
				source->config.silence_ms);
			return ETIMEDOUT;
		}
		wait_for_news(source, frozen && !granted ? left : ALIVE_MS);
	}
}

static int run_move(struct source *source)
{
	int error = copy_base(source);

	if (error == 0) {
		set_state(source, READY);
		error = stay_ready(source);
	}
	if (error == 0)
		error = freeze_vm(source);
	if (error != 0)
		return error;
	set_state(source, source->stopped ? FROZEN : BOTH);
	end_capable(source);
	return stay_frozen(source);
}

static void *source_main(void *ctx)
{
	struct source *source = ctx;
	int error = run_move(source);
	bool quit = get_wish(source) == WISH_QUIT, granted;

	/* From here on nobody gets leave: this thread is the only one to give it. */
	pthread_mutex_lock(&source->lock);
	granted = source->granted;
	pthread_mutex_unlock(&source->lock);
	if (error == ECANCELED)
		set_why(source, "%s", quit ? "hostd ends" : "aborted");
	/* A destination that may run is stopped first; else the VM's pause is what counts. */
	if (error != 0 && granted && source->link != NULL)
		send_discard(source, source->why);
	if (error != 0 || !granted)
		resume_vm(source);
	end_capable(source);
	if (error != 0 && !granted && source->link != NULL)
		send_discard(source, source->why);
	link_close(source->link);
	source->link = NULL;
	set_state(source, ENDED);
	if (error != 0)
		log_warn("the copy of a VM is void, the source runs: %s", source->why);
	return NULL;
}

/* ---- beginning and end ------------------------------------------------------------------- */

static int say_hello(struct source *source, struct jsonrpc_error *err)
{
	char why[256];
	int error = link_greet(source->link, source->config.uuid, source->config.ticket,
		dirty_n_pages(source->dirty), CONNECT_MS, why);

	source->heard_ms = source->said_ms = now_ms();
	if (error == 0)
		return 0;
	return jsonrpc_fail(err, error == EACCES ? JSONRPC_CONFLICT : JSONRPC_UNAVAILABLE,
		error == EACCES ? "/to/ticket" : "/to/address", "hostd at %.80s: %.120s",
		source->address, why);
}

static int prepare(struct source *source, const char *ram_path, struct jsonrpc_error *err)
{
	char why[256], status[32], ram[PATH_MAX];
	int error = qmp_open(source->qmp_path, QMP_MS, &source->qmp, why);

	if (error != 0)
		return jsonrpc_fail(err, JSONRPC_UNAVAILABLE, "/qmp_path", "%.250s", why);
	if (qmp_status(source->qmp, status, QMP_MS) != 0)
		return jsonrpc_fail(
			err, JSONRPC_UNAVAILABLE, "/qmp_path", "%.250s", qmp_why(source->qmp));
	if (strcmp(status, "running") != 0)
		return jsonrpc_fail(err, JSONRPC_CONFLICT, "/qmp_path",
			"the VM is %s; only a running one can be moved", status);
	if (ram_path == NULL && qmp_ram_path(source->qmp, ram, sizeof(ram), QMP_MS) != 0)
		return jsonrpc_fail(
			err, JSONRPC_CONFLICT, "/qmp_path", "%.250s", qmp_why(source->qmp));
	if (dirty_open(ram_path != NULL ? ram_path : ram, qmp_pid(source->qmp),
		    source->config.engine, false, &source->dirty, why) != 0)
		return jsonrpc_fail(err, JSONRPC_INVALID_PARAMS, "/ram_path", "%.250s", why);
	error = link_connect(source->config.keys, source->address, CONNECT_MS, &source->link, why);
	if (error != 0)
		return jsonrpc_fail(err,
			error == EINVAL ? JSONRPC_INVALID_PARAMS : JSONRPC_UNAVAILABLE,
			"/to/address", "hostd at %.80s: %.160s", source->address, why);
	source->sender = epoch_sender_create(send_frame, source);
	source->capture = capture_create(dirty_n_pages(source->dirty));
	if (source->sender == NULL || source->capture == NULL)
		return jsonrpc_fail(err, JSONRPC_INTERNAL_ERROR, "", "out of memory");
	if (say_hello(source, err) != 0)
		return -1;
	error = freeze_create(
		source->config.run_dir, source->config.uuid, source->qmp_path, &source->freeze);
	if (error != 0)
		return jsonrpc_fail(err, JSONRPC_INTERNAL_ERROR, "", "run directory %.100s: %s",
			source->config.run_dir, strerror(error));
	return 0;
}

int source_start(const struct source_config *config, struct source **out, struct jsonrpc_error *err)
{
	struct source *source = calloc(1, sizeof(*source));
	pthread_condattr_t attr;

	if (source == NULL)
		return jsonrpc_fail(err, JSONRPC_INTERNAL_ERROR, "", "out of memory");
	source->config = *config;
	pthread_mutex_init(&source->lock, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&source->cond, &attr);
	pthread_condattr_destroy(&attr);
	source->qmp_path = strdup(config->qmp_path);
	source->address = strdup(config->address);
	source->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (source->qmp_path == NULL || source->address == NULL || source->wake_fd < 0)
		jsonrpc_fail(err, JSONRPC_INTERNAL_ERROR, "", "out of memory");
	else if (prepare(source, config->ram_path, err) == 0) {
		source->started = pthread_create(&source->thread, NULL, source_main, source) == 0;
		if (!source->started)
			jsonrpc_fail(err, JSONRPC_INTERNAL_ERROR, "", "no thread can be made");
	}
	if (!source->started) {
		source_destroy(source, true);
		return -1;
	}
	*out = source;
	return 0;
}

static void wish_for(struct source *source, enum wish wish)
{
	uint64_t one = 1;

	if (source->wish < wish)
		source->wish = wish;
	if (write(source->wake_fd, &one, sizeof(one)) < 0)
		log_debug("a thread was awake already");
}

void source_quit(struct source *source)
{
	pthread_mutex_lock(&source->lock);
	wish_for(source, WISH_QUIT);
	pthread_mutex_unlock(&source->lock);
}

void source_destroy(struct source *source, bool forget)
{
	if (source == NULL)
		return;
	if (source->started) {
		source_quit(source);
		pthread_join(source->thread, NULL);
	}
	epoch_sender_destroy(source->sender);
	capture_destroy(source->capture);
	link_close(source->link);
	dirty_close(source->dirty);
	qmp_close(source->qmp);
	if (!source->stopped || (forget && source->granted))
		freeze_destroy(source->freeze);
	if (source->wake_fd >= 0)
		close(source->wake_fd);
	pthread_mutex_destroy(&source->lock);
	pthread_cond_destroy(&source->cond);
	free(source->qmp_path);
	free(source->address);
	free(source);
}

/* Waits until the state is `a` or `b`. Call locked. Returns whether it is. */
static bool wait_state(struct source *source, enum state a, enum state b, int timeout_ms)
{
	struct timespec until;
	int64_t end_ms = now_ms() + timeout_ms;

	until.tv_sec = end_ms / 1000;
	until.tv_nsec = end_ms % 1000 * 1000000;
	while (source->state != a && source->state != b && source->state != ENDED) {
		if (pthread_cond_timedwait(&source->cond, &source->lock, &until) == ETIMEDOUT)
			return false;
	}
	return source->state == a || source->state == b;
}

/* Makes a wish and waits until the state is `a` or `b`. */
static int wish_and_wait(struct source *source, enum wish wish, enum state a, enum state b,
	int timeout_ms, struct jsonrpc_error *err)
{
	int result = 0;

	pthread_mutex_lock(&source->lock);
	if (source->state != ENDED)
		wish_for(source, wish);
	source->deadline_ms = now_ms() + source->config.silence_ms;
	if (wait_state(source, a, b, timeout_ms))
		;
	else if (source->state == ENDED)
		result = jsonrpc_fail(err, JSONRPC_CONFLICT, "",
			"this move is over: %.200s; the source was resumed", source->why);
	else
		result = jsonrpc_fail(err, JSONRPC_UNAVAILABLE, "",
			"not done within %d ms; the move is still %s", timeout_ms,
			state_names[source->state]);
	pthread_mutex_unlock(&source->lock);
	return result;
}

int source_freeze(struct source *source, bool fenced, int timeout_ms, struct jsonrpc_error *err)
{
	pthread_mutex_lock(&source->lock);
	source->fenced |= fenced;
	pthread_mutex_unlock(&source->lock);
	return wish_and_wait(source, WISH_FREEZE, FROZEN, BOTH, timeout_ms, err);
}

int source_resume(struct source *source, struct jsonrpc_error *err)
{
	bool early;

	pthread_mutex_lock(&source->lock);
	early = source->state < STOPPED;
	pthread_mutex_unlock(&source->lock);
	if (early)
		return jsonrpc_fail(err, JSONRPC_CONFLICT, "", "the source isn't stopped");
	return wish_and_wait(source, WISH_RESUME, BOTH, BOTH, 2 * QMP_MS, err);
}

int source_abort(struct source *source, struct jsonrpc_error *err)
{
	return wish_and_wait(source, WISH_ABORT, ENDED, ENDED, 2 * QMP_MS + SEND_MS, err);
}

void source_touch(struct source *source)
{
	pthread_mutex_lock(&source->lock);
	source->deadline_ms = now_ms() + source->config.silence_ms;
	pthread_mutex_unlock(&source->lock);
}

bool source_ended(struct source *source)
{
	bool ended;

	pthread_mutex_lock(&source->lock);
	ended = source->state == ENDED;
	pthread_mutex_unlock(&source->lock);
	return ended;
}
