/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "hostd/standby.h"

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>
#include <openssl/crypto.h>

#include "common/log.h"
#include "hostd/bytes.h"
#include "hostd/epoch.h"
#include "hostd/qmp.h"

#define QMP_MS 2000
#define LOAD_MS 5000
#define SEND_MS 3000
#define LEAVE_MS 2000
#define PEER_MS 5000
#define ALIVE_MS 500
#define ACTIVATE_MS (2 * QMP_MS + LOAD_MS + LEAVE_MS)

enum state { WAITING, RECEIVING, HOLDING, LOST, ACTIVE, ENDED };
enum wish {
	WISH_NONE,
	WISH_ACTIVATE,
	WISH_ACTIVATE_FENCED,
	WISH_TAKE_OVER,
	WISH_ABORT,
	WISH_QUIT,
};

static const char *const state_names[] = {
	"waiting", "receiving", "holding", "lost", "active", "ended"};

struct standby {
	struct standby_config config;
	pthread_t thread;
	bool started;
	int wake_fd;
	/* Of the thread alone. */
	struct stage *stage;
	struct qmp *qmp;
	struct link *link;
	int64_t heard_ms, said_ms;
	bool loaded;
	bool taken;  /* this VM runs, and what the source may still send counts for nothing */
	bool silent; /* written under the lock */
	/* Of all, under the lock. */
	pthread_mutex_t lock;
	pthread_cond_t cond;
	uint8_t ticket[32];
	enum state state;
	enum wish wish;
	struct link *offered;         /* a connection that the thread has not taken yet */
	unsigned attempts;            /* to activate, that ended */
	struct jsonrpc_error outcome; /* of the last */
	char why[256];
	uint64_t epoch, n_pages, bytes;
	int64_t epoch_ms;                      /* when that became whole */
	int64_t load_us, leave_us, resumed_us; /* of the activation */
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

static void add_ticket(cJSON *status, const uint8_t ticket[32])
{
	char text[65];

	for (int i = 0; i < 32; i++)
		snprintf(text + 2 * i, 3, "%02x", ticket[i]);
	cJSON_AddStringToObject(status, "ticket", text);
}

cJSON *standby_status(struct standby *standby, bool ticket)
{
	cJSON *status = cJSON_CreateObject(), *t;
	char uuid[UUID_STRLEN];

	pthread_mutex_lock(&standby->lock);
	cJSON_AddStringToObject(status, "uuid", frame_format_uuid(standby->config.uuid, uuid));
	cJSON_AddStringToObject(status, "role", "destination");
	cJSON_AddStringToObject(status, "state", state_names[standby->state]);
	if (standby->why[0] != '\0')
		cJSON_AddStringToObject(status, "reason", standby->why);
	cJSON_AddNumberToObject(status, "memory_pages", (double)standby->n_pages);
	cJSON_AddNumberToObject(status, "bytes", (double)standby->bytes);
	cJSON_AddNumberToObject(status, "epoch", (double)standby->epoch);
	if (standby->epoch > 0)
		cJSON_AddNumberToObject(
			status, "epoch_age_ms", (double)(now_ms() - standby->epoch_ms));
	cJSON_AddBoolToObject(status, "silent", standby->silent);
	if (standby->resumed_us > 0) {
		t = cJSON_AddObjectToObject(status, "activate_us");
		cJSON_AddNumberToObject(t, "loaded", (double)standby->load_us);
		cJSON_AddNumberToObject(t, "leave", (double)standby->leave_us);
		cJSON_AddNumberToObject(t, "running", (double)standby->resumed_us);
	}
	if (ticket)
		add_ticket(status, standby->ticket);
	pthread_mutex_unlock(&standby->lock);
	return status;
}

static void set_state(struct standby *standby, enum state state)
{
	pthread_mutex_lock(&standby->lock);
	standby->state = state;
	pthread_cond_broadcast(&standby->cond);
	pthread_mutex_unlock(&standby->lock);
	standby->config.changed(standby->config.ctx, standby_status(standby, false));
}

__attribute__((format(printf, 2, 3))) static void set_why(
	struct standby *standby, const char *fmt, ...)
{
	va_list args;

	pthread_mutex_lock(&standby->lock);
	va_start(args, fmt);
	vsnprintf(standby->why, sizeof(standby->why), fmt, args);
	va_end(args);
	pthread_mutex_unlock(&standby->lock);
}

/* ---- the other hostd --------------------------------------------------------------------- */

static int send_frame(
	struct standby *standby, enum frame_type type, uint64_t epoch, const char *text)
{
	struct frame frame = {
		.type = type,
		.epoch = epoch,
		.length = (uint32_t)strlen(text),
		.payload = (const uint8_t *)text,
	};

	if (standby->link == NULL)
		return ENOTCONN;
	memcpy(frame.uuid, standby->config.uuid, sizeof(frame.uuid));
	standby->said_ms = now_ms();
	return link_send(standby->link, &frame, SEND_MS);
}

static void end(struct standby *standby, const char *why)
{
	set_why(standby, "%s", why);
	send_frame(standby, FRAME_DISCARD, 0, why);
	link_close(standby->link);
	standby->link = NULL;
	qmp_close(standby->qmp);
	standby->qmp = NULL;
	stage_destroy(standby->stage, true);
	standby->stage = NULL;
	set_state(standby, ENDED);
}

/* The source has resumed, or the controller has thought better of it. */
static void take_back(struct standby *standby, const char *why)
{
	if (standby->state == ACTIVE && qmp_stop(standby->qmp, QMP_MS) != 0)
		log_error("the destination's VM can't be stopped: %s; destroy it by virsh",
			qmp_why(standby->qmp));
	end(standby, why);
}

static void lose_link(struct standby *standby, const char *reason)
{
	char why[256]; /* the reason may be the link's own */

	snprintf(why, sizeof(why), "%s", reason);
	log_warn("the connection to the source is lost: %s", why);
	link_close(standby->link);
	standby->link = NULL;
	set_why(standby, "%s", why);
	if (standby->state == ACTIVE)
		return;
	if (stage_epoch(standby->stage) > 0)
		set_state(standby, LOST);
	else
		end(standby, why);
}

/* An epoch, or the base, has come whole. Returns 0 or errno. */
static int take_whole(struct standby *standby, uint64_t epoch)
{
	int error = send_frame(standby, FRAME_ACK, epoch, "");

	if (error == 0)
		error = stage_apply(standby->stage);
	if (error != 0)
		return error;
	pthread_mutex_lock(&standby->lock);
	standby->epoch = stage_epoch(standby->stage);
	standby->epoch_ms = now_ms();
	pthread_mutex_unlock(&standby->lock);
	if (epoch == 1)
		set_state(standby, HOLDING);
	return 0;
}

/* Serves one frame. `*leave` is set to the frame's type if it is an answer to ASK. */
static void take_frame(struct standby *standby, const struct frame *frame, enum frame_type *leave)
{
	enum stage_event event;
	const char *why = "";
	char text[200];
	int error;

	switch (frame->type) {
	case FRAME_ALIVE:
		return;
	case FRAME_GRANT:
	case FRAME_DENY:
		*leave = frame->type;
		return;
	case FRAME_DISCARD:
		snprintf(text, sizeof(text), "the source took it back: %.*s",
			(int)(frame->length < 150 ? frame->length : 150),
			(const char *)frame->payload);
		link_close(standby->link);
		standby->link = NULL;
		take_back(standby, text);
		return;
	default:
		break;
	}
	error = stage_frame(standby->stage, frame, &event, &why);
	pthread_mutex_lock(&standby->lock);
	standby->bytes += frame->length;
	pthread_mutex_unlock(&standby->lock);
	if (error == 0 && event == STAGE_WHOLE) {
		error = take_whole(standby, frame->epoch);
		why = "an epoch can't be written to memory or acknowledged";
	}
	if (error != 0) {
		snprintf(text, sizeof(text), "%s (%s)", why, strerror(error));
		send_frame(standby, FRAME_DISCARD, 0, text);
		lose_link(standby, text);
	}
}

/* However long there is only to be listened to. */
static void say_alive(struct standby *standby)
{
	if (standby->link != NULL && now_ms() - standby->said_ms >= ALIVE_MS &&
		send_frame(standby, FRAME_ALIVE, 0, "") != 0)
		lose_link(standby, link_why(standby->link));
}

/* Serves what came, waiting up to `timeout_ms` for the first frame. */
static void listen_to_peer(struct standby *standby, int timeout_ms, enum frame_type *leave)
{
	struct frame frame;
	int error;

	for (int i = 0; standby->link != NULL && i < 256; i++) {
		error = link_receive(standby->link, &frame, i == 0 ? timeout_ms : 0);
		if (error == ETIMEDOUT && now_ms() - standby->heard_ms > PEER_MS) {
			lose_link(standby, "the other hostd is silent");
			return;
		}
		if (error == ETIMEDOUT)
			break;
		if (error != 0) {
			lose_link(standby, link_why(standby->link));
			return;
		}
		standby->heard_ms = now_ms();
		if (standby->taken)
			continue;
		take_frame(standby, &frame, leave);
		if (*leave != 0)
			return;
		say_alive(standby);
	}
	say_alive(standby);
}

/* Tells when the source begins to be silent, and when it ends. */
static void watch_silence(struct standby *standby)
{
	bool silent = standby->link != NULL && standby->config.silence_ms > 0 &&
		      now_ms() - standby->heard_ms >= standby->config.silence_ms;

	if (silent == standby->silent)
		return;
	pthread_mutex_lock(&standby->lock);
	standby->silent = silent;
	pthread_mutex_unlock(&standby->lock);
	standby->config.changed(standby->config.ctx, standby_status(standby, false));
}

/* ---- activation -------------------------------------------------------------------------- */

static int load_state(struct standby *standby, struct jsonrpc_error *err)
{
	char status[32];
	int fd, error;

	if (standby->loaded)
		return 0;
	fd = stage_state(standby->stage);
	if (fd < 0)
		return jsonrpc_fail(err, JSONRPC_INTERNAL_ERROR, "",
			"the staged device state can't be read: %s", strerror(errno));
	error = qmp_begin_state(standby->qmp, QMP_MS);
	if (error == 0) {
		error = qmp_load(standby->qmp, fd, LOAD_MS);
		if (error == 0)
			error = qmp_end_state(standby->qmp, QMP_MS);
	}
	close(fd);
	if (error == 0)
		error = qmp_status(standby->qmp, status, QMP_MS);
	if (error != 0)
		return jsonrpc_fail(
			err, JSONRPC_INTERNAL_ERROR, "", "%.250s", qmp_why(standby->qmp));
	standby->loaded = true;
	if (strcmp(status, "running") == 0) {
		qmp_stop(standby->qmp, QMP_MS);
		return jsonrpc_fail(err, JSONRPC_INTERNAL_ERROR, "",
			"QEMU let the VM run by itself; stopped it");
	}
	return 0;
}

static int ask_leave(struct standby *standby, struct jsonrpc_error *err)
{
	int64_t deadline = now_ms() + LEAVE_MS;
	enum frame_type leave = 0;

	if (standby->link == NULL || send_frame(standby, FRAME_ASK, standby->epoch, "") != 0)
		return jsonrpc_fail(err, JSONRPC_CONFLICT, "/fenced",
			"the source can't be asked whether it runs: fence it at the switch, then "
			"say \"fenced\": true");
	while (leave == 0 && standby->link != NULL && now_ms() < deadline)
		listen_to_peer(standby, (int)(deadline - now_ms()), &leave);
	if (leave == FRAME_GRANT)
		return 0;
	if (leave == FRAME_DENY || standby->state == ENDED)
		return jsonrpc_fail(err, JSONRPC_CONFLICT, "",
			"the source has resumed; begin anew (%.150s)", standby->why);
	return jsonrpc_fail(err, JSONRPC_UNAVAILABLE, "",
		"the source didn't answer whether this copy may run; ask for its move.status, then "
		"resume it or fence it and say \"fenced\": true");
}

static int activate(struct standby *standby, bool fenced, struct jsonrpc_error *err)
{
	int64_t begin = now_us();

	if (standby->state == ACTIVE)
		return 0;
	if (standby->state != HOLDING && standby->state != LOST)
		return jsonrpc_fail(err, JSONRPC_CONFLICT, "",
			"there is no whole copy to activate: it is %s",
			state_names[standby->state]);
	if (load_state(standby, err) != 0) {
		end(standby, err->message); /* tells the source, too */
		return -1;
	}
	standby->load_us = now_us() - begin;
	if (!fenced && ask_leave(standby, err) != 0)
		return -1;
	standby->leave_us = now_us() - begin;
	if (qmp_cont(standby->qmp, QMP_MS) != 0) {
		jsonrpc_fail(err, JSONRPC_INTERNAL_ERROR, "", "%.250s", qmp_why(standby->qmp));
		end(standby, err->message);
		return -1;
	}
	pthread_mutex_lock(&standby->lock);
	standby->resumed_us = now_us() - begin;
	pthread_mutex_unlock(&standby->lock);
	set_state(standby, ACTIVE);
	return 0;
}

/* The link of a VM that runs here has nothing more to say. */
static void say_taken(struct standby *standby)
{
	if (standby->state != ACTIVE || standby->link == NULL)
		return;
	/* Closing at once could have it lost. */
	send_frame(standby, FRAME_TAKEN, standby->epoch, "");
	standby->taken = true;
}

/* ---- the thread -------------------------------------------------------------------------- */

static void wait_for_news(struct standby *standby)
{
	struct pollfd p[3] = {
		{.fd = standby->wake_fd, .events = POLLIN},
		{.fd = standby->link != NULL ? link_fd(standby->link) : -1, .events = POLLIN},
		{.fd = standby->qmp != NULL ? qmp_fd(standby->qmp) : -1}, /* only its end */
	};
	int64_t wait = standby->link != NULL ? ALIVE_MS : -1;
	int64_t left = standby->heard_ms + standby->config.silence_ms - now_ms();
	uint64_t ticks;

	if (standby->link != NULL && standby->config.silence_ms > 0 && left < wait &&
		!standby->silent)
		wait = left > 0 ? left : 0;
	if (standby->link == NULL || !link_pending(standby->link))
		poll(p, 3, (int)wait);
	if (read(standby->wake_fd, &ticks, sizeof(ticks)) < 0)
		return; /* non-blocking; only empties it */
}

static void take_offer(struct standby *standby)
{
	bool taken = false;

	pthread_mutex_lock(&standby->lock);
	if (standby->offered != NULL) {
		standby->link = standby->offered;
		standby->offered = NULL;
		taken = true;
	}
	pthread_mutex_unlock(&standby->lock);
	if (!taken)
		return;
	standby->heard_ms = now_ms();
	if (send_frame(standby, FRAME_WELCOME, 0, "") == 0)
		set_state(standby, RECEIVING);
	else
		lose_link(standby, link_why(standby->link));
}

static void *standby_main(void *ctx)
{
	struct standby *standby = ctx;
	enum wish wish = WISH_NONE;

	while (wish != WISH_QUIT) {
		enum frame_type leave = 0;
		struct jsonrpc_error err = {0};

		take_offer(standby);
		if (standby->link != NULL)
			listen_to_peer(standby, 0, &leave);
		if (standby->qmp != NULL && qmp_gone(standby->qmp))
			end(standby, "its VM has ended");
		watch_silence(standby);
		pthread_mutex_lock(&standby->lock);
		wish = standby->wish;
		if (wish != WISH_QUIT)
			standby->wish = WISH_NONE;
		pthread_mutex_unlock(&standby->lock);
		if (wish >= WISH_ACTIVATE && wish <= WISH_TAKE_OVER) {
			activate(standby, wish != WISH_ACTIVATE, &err);
			if (wish == WISH_TAKE_OVER)
				say_taken(standby);
			pthread_mutex_lock(&standby->lock);
			standby->outcome = err;
			standby->attempts++;
			pthread_cond_broadcast(&standby->cond);
			pthread_mutex_unlock(&standby->lock);
		} else if (wish == WISH_ABORT && standby->state != ENDED) {
			take_back(standby, "aborted");
		} else if (wish == WISH_NONE) {
			wait_for_news(standby);
		}
	}
	return NULL;
}

/* ---- beginning and end ------------------------------------------------------------------- */

static struct standby *new_standby(const struct standby_config *config)
{
	struct standby *standby = calloc(1, sizeof(*standby));
	pthread_condattr_t attr;

	if (standby == NULL)
		return NULL;
	standby->config = *config;
	pthread_mutex_init(&standby->lock, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&standby->cond, &attr);
	pthread_condattr_destroy(&attr);
	standby->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	return standby;
}

static int open_qemu(struct standby *standby, const char *path, struct jsonrpc_error *err)
{
	char why[256], status[32];

	if (qmp_open(path, QMP_MS, &standby->qmp, why) != 0)
		return jsonrpc_fail(err, JSONRPC_UNAVAILABLE, "/qmp_path", "%.250s", why);
	if (qmp_status(standby->qmp, status, QMP_MS) != 0)
		return jsonrpc_fail(
			err, JSONRPC_UNAVAILABLE, "/qmp_path", "%.250s", qmp_why(standby->qmp));
	if (strcmp(status, "inmigrate") != 0)
		return jsonrpc_fail(err, JSONRPC_CONFLICT, "/qmp_path",
			"the VM is %s; start it with -incoming defer", status);
	return 0;
}

static int begin(struct standby *standby, struct jsonrpc_error *err)
{
	standby->n_pages = stage_n_pages(standby->stage);
	if (standby->wake_fd < 0 ||
		getrandom(standby->ticket, sizeof(standby->ticket), 0) !=
			(ssize_t)sizeof(standby->ticket) ||
		pthread_create(&standby->thread, NULL, standby_main, standby) != 0)
		return jsonrpc_fail(err, JSONRPC_INTERNAL_ERROR, "", "resources ran out");
	standby->started = true;
	return 0;
}

int standby_prepare(
	const struct standby_config *config, struct standby **out, struct jsonrpc_error *err)
{
	struct standby *standby = new_standby(config);
	struct stage_config stage = {
		.dir = config->run_dir,
		.ram_path = config->ram_path,
		.qmp_path = config->qmp_path,
		.limit = config->limit,
	};
	char why[256], ram[PATH_MAX];

	if (standby == NULL)
		return jsonrpc_fail(err, JSONRPC_INTERNAL_ERROR, "", "out of memory");
	memcpy(stage.uuid, config->uuid, sizeof(stage.uuid));
	if (open_qemu(standby, config->qmp_path, err) != 0)
		goto fail;
	if (stage.ram_path == NULL) {
		if (qmp_ram_path(standby->qmp, ram, sizeof(ram), QMP_MS) != 0) {
			jsonrpc_fail(err, JSONRPC_CONFLICT, "/qmp_path", "%.250s",
				qmp_why(standby->qmp));
			goto fail;
		}
		stage.ram_path = ram;
	}
	if (stage_create(&stage, &standby->stage, why) != 0) {
		jsonrpc_fail(err, JSONRPC_INVALID_PARAMS, "/ram_path", "%.250s", why);
		goto fail;
	}
	if (begin(standby, err) != 0)
		goto fail;
	*out = standby;
	return 0;
fail:
	standby_destroy(standby, true);
	return -1;
}

int standby_reopen(const struct standby_config *config, struct standby **out)
{
	struct standby *standby = new_standby(config);
	struct stage_config stage = {.dir = config->run_dir, .limit = config->limit};
	struct jsonrpc_error err;

	if (standby == NULL)
		return -1;
	memcpy(stage.uuid, config->uuid, sizeof(stage.uuid));
	if (stage_reopen(&stage, &standby->stage, NULL) != 0 ||
		open_qemu(standby, stage_qmp_path(standby->stage), &err) != 0)
		goto fail;
	standby->state = LOST;
	standby->epoch = stage_epoch(standby->stage);
	standby->epoch_ms = now_ms();
	snprintf(standby->why, sizeof(standby->why), "hostd was restarted");
	if (begin(standby, &err) != 0)
		goto fail;
	*out = standby;
	return 0;
fail:
	standby_destroy(standby, true);
	return -1;
}

static void wake(struct standby *standby)
{
	uint64_t one = 1;

	if (write(standby->wake_fd, &one, sizeof(one)) < 0)
		log_debug("a thread was awake already");
}

int standby_attach(
	struct standby *standby, struct link *link, const struct frame *hello, char why[256])
{
	int error = 0;

	pthread_mutex_lock(&standby->lock);
	if (hello->length != 40 ||
		CRYPTO_memcmp(hello->payload, standby->ticket, sizeof(standby->ticket)) != 0) {
		snprintf(why, 256, "the ticket is wrong; use that of receive.prepare");
		error = EACCES;
	} else if (standby->state != WAITING || standby->offered != NULL) {
		snprintf(why, 256, "the ticket was used; prepare again");
		error = EBUSY;
	} else if (get_be64(hello->payload + 32) != standby->n_pages) {
		snprintf(why, 256, "the destination's memory is of another size");
		error = EINVAL;
	} else {
		standby->offered = link;
		wake(standby);
	}
	pthread_mutex_unlock(&standby->lock);
	return error;
}

void standby_destroy(struct standby *standby, bool remove)
{
	if (standby == NULL)
		return;
	if (standby->started) {
		pthread_mutex_lock(&standby->lock);
		standby->wish = WISH_QUIT;
		wake(standby);
		pthread_mutex_unlock(&standby->lock);
		pthread_join(standby->thread, NULL);
	}
	link_close(standby->link);
	link_close(standby->offered);
	qmp_close(standby->qmp);
	stage_destroy(standby->stage, remove || standby->state == ACTIVE);
	if (standby->wake_fd >= 0)
		close(standby->wake_fd);
	pthread_mutex_destroy(&standby->lock);
	pthread_cond_destroy(&standby->cond);
	free(standby);
}

static void until(int timeout_ms, struct timespec *t)
{
	int64_t end_ms = now_ms() + timeout_ms;

	t->tv_sec = end_ms / 1000;
	t->tv_nsec = end_ms % 1000 * 1000000;
}

static int activate_by(struct standby *standby, enum wish wish, struct jsonrpc_error *err)
{
	struct timespec limit;
	unsigned before;
	int result = 0;

	until(ACTIVATE_MS, &limit);
	pthread_mutex_lock(&standby->lock);
	before = standby->attempts;
	if (standby->wish < WISH_ABORT)
		standby->wish = wish;
	wake(standby);
	while (standby->attempts == before && result == 0) {
		if (pthread_cond_timedwait(&standby->cond, &standby->lock, &limit) == ETIMEDOUT)
			result = jsonrpc_fail(err, JSONRPC_UNAVAILABLE, "",
				"not activated within %d ms; ask for move.status", ACTIVATE_MS);
	}
	if (result == 0 && standby->outcome.code != 0) {
		*err = standby->outcome;
		result = -1;
	}
	pthread_mutex_unlock(&standby->lock);
	return result;
}

int standby_activate(struct standby *standby, bool fenced, struct jsonrpc_error *err)
{
	return activate_by(standby, fenced ? WISH_ACTIVATE_FENCED : WISH_ACTIVATE, err);
}

int standby_take_over(struct standby *standby, struct jsonrpc_error *err)
{
	return activate_by(standby, WISH_TAKE_OVER, err);
}

int standby_abort(struct standby *standby, struct jsonrpc_error *err)
{
	struct timespec limit;
	int result = 0;

	until(2 * QMP_MS + SEND_MS, &limit);
	pthread_mutex_lock(&standby->lock);
	if (standby->state != ENDED && standby->wish < WISH_ABORT)
		standby->wish = WISH_ABORT;
	wake(standby);
	while (standby->state != ENDED && result == 0) {
		if (pthread_cond_timedwait(&standby->cond, &standby->lock, &limit) == ETIMEDOUT)
			result = jsonrpc_fail(err, JSONRPC_UNAVAILABLE, "",
				"not aborted in time; destroy the destination's VM");
	}
	pthread_mutex_unlock(&standby->lock);
	return result;
}

bool standby_ended(struct standby *standby)
{
	bool ended;

	pthread_mutex_lock(&standby->lock);
	ended = standby->state == ENDED || standby->state == ACTIVE || standby->state == LOST;
	pthread_mutex_unlock(&standby->lock);
	return ended;
}
