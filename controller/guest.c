/* SPDX-License-Identifier: GPL-2.0-or-later */

#include "controller/guest.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <libvirt/libvirt.h>
#include <libvirt/virterror.h>

#include "common/log.h"
#include "controller/hypervisor_internal.h"

#define FIRST_BACKOFF_MS 250
#define MAX_BACKOFF_MS 2000
#define STALLED_MS 5000 /* unanswered for so long with a full window: open the channel anew */
#define PROBE_MS 2000   /* limit of one guest.info while waiting for the agent */
#define RETRY_MS 100    /* after an agent said that it can't answer yet */
#define CHUNK 16384

/*
 * The stream is used by two threads. libvirt's event loop receives, sends and notices its end; the
 * guest's own thread opens it, and takes a broken one away once no callback runs. Each stream lives
 * in a `struct channel` of its own, which libvirt frees when it has done with it.
 */

/* A request on its way out, or sent and not answered yet. */
struct request {
	struct request *next;
	unsigned long id;
	char *text;
	size_t len, sent;
};

/* A caller that waits. On its stack. */
struct waiter {
	struct waiter *next;
	unsigned long id;
	bool begun; /* some of its request was sent */
	bool done;
	int status;
	cJSON *result;
	struct jsonrpc_error *err;
};

struct channel {
	struct guest *guest;
	virStreamPtr stream;
	struct jsonrpc_lines lines; /* only the event loop's */
	/* Under the guest's mutex: */
	bool broken;  /* no callback begins any more */
	bool running; /* a callback is running */
};

struct guest {
	struct hv *hv;
	char uuid[HV_UUID_LEN];
	pthread_t thread;

	pthread_mutex_t mutex;
	pthread_cond_t changed;
	bool closing;
	unsigned callers;        /* in guest_call() */
	struct channel *channel; /* NULL while there is none */
	char last_error[320];
	unsigned long next_id;
	struct request *queue, **queue_end;
	struct request *unanswered, **unanswered_end; /* wholly sent, in this order */
	size_t unanswered_bytes;
	struct timespec stalled_at; /* if nothing is received until then */
	struct waiter *waiters;

	/* Held while the callback runs; taken before the other one, never after it. */
	pthread_mutex_t notify_mutex;
	guest_notify_fn on_notify; /* NULL once closed */
	void *ctx;
	void (*on_hang_up)(void *ctx); /* the same */
	void *hang_up_ctx;
};

/* ---- small things ------------------------------------------------------------------------- */

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

/* Milliseconds until `deadline`, 0 when it has passed. */
static int ms_left(const struct timespec *deadline)
{
	struct timespec now;
	long long ms;

	clock_gettime(CLOCK_MONOTONIC, &now);
	ms = (deadline->tv_sec - now.tv_sec) * 1000LL + (deadline->tv_nsec - now.tv_nsec) / 1000000;
	return ms > 0 ? (int)ms : 0;
}

static void request_free(struct request *request)
{
	free(request->text);
	free(request);
}

static void requests_free(struct request **list)
{
	while (*list) {
		struct request *request = *list;

		*list = request->next;
		request_free(request);
	}
}

static void guest_free(struct guest *g)
{
	requests_free(&g->queue);
	requests_free(&g->unanswered);
	pthread_mutex_destroy(&g->mutex);
	pthread_mutex_destroy(&g->notify_mutex);
	pthread_cond_destroy(&g->changed);
	free(g);
}

/* ---- answers (event loop) ----------------------------------------------------------------- */

static struct waiter *find_waiter(struct guest *g, unsigned long id)
{
	for (struct waiter *w = g->waiters; w; w = w->next)
		if (w->id == id)
			return w;
	return NULL;
}

/* The guest reads in order: an answer shows that it has read all that was sent before. */
static void forget_answered(struct guest *g, unsigned long id)
{
	struct request *request = g->unanswered;

	while (request && request->id != id)
		request = request->next;
	if (!request)
		return;
	while (g->unanswered) {
		request = g->unanswered;
		g->unanswered = request->next;
		g->unanswered_bytes -= request->len;
		if (request->id == id) {
			request_free(request);
			break;
		}
		request_free(request);
	}
	if (!g->unanswered)
		g->unanswered_end = &g->unanswered;
}

static void finish(struct guest *g, struct waiter *w, int status, cJSON *result,
	const struct jsonrpc_error *err)
{
	w->done = true;
	w->status = status;
	w->result = result;
	*w->err = *err;
	pthread_cond_broadcast(&g->changed);
}

static void handle_notification(struct guest *g, const char *line)
{
	cJSON *message = cJSON_Parse(line);
	const cJSON *method = cJSON_GetObjectItemCaseSensitive(message, "method");

	if (cJSON_IsString(method) && !cJSON_HasObjectItem(message, "id")) {
		pthread_mutex_lock(&g->notify_mutex);
		if (g->on_notify)
			g->on_notify(g->ctx, method->valuestring,
				cJSON_GetObjectItemCaseSensitive(message, "params"));
		pthread_mutex_unlock(&g->notify_mutex);
	}
	cJSON_Delete(message);
}

/* Sends more, if it may. The mutex is held. */
static void update_events(struct channel *channel)
{
	const struct guest *g = channel->guest;
	int events = VIR_STREAM_EVENT_READABLE | VIR_STREAM_EVENT_HANGUP | VIR_STREAM_EVENT_ERROR;

	if (channel->broken)
		return;
	if (g->queue && (g->queue->sent > 0 || g->unanswered_bytes == 0 ||
				g->unanswered_bytes + g->queue->len <= GUEST_UNANSWERED_MAX))
		events |= VIR_STREAM_EVENT_WRITABLE;
	virStreamEventUpdateCallback(channel->stream, events);
}

static void on_line(void *ctx, char *line)
{
	struct channel *channel = ctx;
	struct guest *g = channel->guest;
	struct jsonrpc_error err;
	cJSON *result = NULL;
	unsigned long id;
	struct waiter *w;

	if (jsonrpc_parse_response(line, &id, &result, &err)) {
		handle_notification(g, line);
		return;
	}
	pthread_mutex_lock(&g->mutex);
	forget_answered(g, id);
	w = find_waiter(g, id);
	if (w && !w->done) {
		finish(g, w, err.code ? -1 : 0, result, &err);
		result = NULL;
	}
	update_events(channel);
	pthread_mutex_unlock(&g->mutex);
	cJSON_Delete(result); /* too late */
}

/* ---- the stream's life (event loop) ------------------------------------------------------- */

/* The guest's thread takes a broken channel away. The mutex is held. */
static void mark_broken(struct channel *channel, const char *why)
{
	struct guest *g = channel->guest;

	if (channel->broken)
		return;
	channel->broken = true;
	snprintf(g->last_error, sizeof(g->last_error), "%s", why);
	virStreamEventUpdateCallback(channel->stream, 0);
	pthread_cond_broadcast(&g->changed);
}

static void receive(struct channel *channel)
{
	struct guest *g = channel->guest;
	char buf[CHUNK];

	for (;;) {
		int n = virStreamRecv(channel->stream, buf, sizeof(buf));

		if (n == -2)
			return;
		if (n <= 0) {
			pthread_mutex_lock(&g->mutex);
			mark_broken(
				channel, n == 0 ? "the VM closed its channel" : hv_libvirt_error());
			pthread_mutex_unlock(&g->mutex);
			return;
		}
		pthread_mutex_lock(&g->mutex);
		g->stalled_at = deadline_after(STALLED_MS);
		pthread_mutex_unlock(&g->mutex);
		/* A line that is too long is nobody's answer; its caller's time runs out. */
		jsonrpc_lines_feed(&channel->lines, buf, (size_t)n, on_line, channel);
	}
}

/* Moves the first request, wholly sent, to the unanswered ones. */
static void shift_queue(struct guest *g)
{
	struct request *request = g->queue;

	g->queue = request->next;
	if (!g->queue)
		g->queue_end = &g->queue;
	request->next = NULL;
	*g->unanswered_end = request;
	g->unanswered_end = &request->next;
	g->unanswered_bytes += request->len;
}

/*
 * Sends a piece of the first request. Nobody else frees a request that has begun while a callback
 * runs, so the mutex isn't needed meanwhile; and it must not be held: with libvirtd frozen, sending
 * may block until keepalive ends the connection.
 */
static void send_some(struct channel *channel)
{
	struct guest *g = channel->guest;
	struct request *request;
	struct waiter *w;
	size_t len;
	int n;

	pthread_mutex_lock(&g->mutex);
	request = g->queue;
	if (!request || channel->broken) {
		update_events(channel);
		pthread_mutex_unlock(&g->mutex);
		return;
	}
	len = request->len - request->sent;
	if (len > CHUNK)
		len = CHUNK;
	w = find_waiter(g, request->id);
	if (w)
		w->begun = true;
	pthread_mutex_unlock(&g->mutex);

	n = virStreamSend(channel->stream, request->text + request->sent, len);

	pthread_mutex_lock(&g->mutex);
	if (n > 0) {
		request->sent += (size_t)n;
		if (request->sent == request->len)
			shift_queue(g);
	} else if (n != -2) {
		mark_broken(channel, hv_libvirt_error());
	}
	update_events(channel);
	pthread_mutex_unlock(&g->mutex);
}

static void on_stream(virStreamPtr stream, int events, void *ctx)
{
	struct channel *channel = ctx;
	struct guest *g = channel->guest;

	(void)stream;
	pthread_mutex_lock(&g->mutex);
	channel->running = !channel->broken;
	pthread_mutex_unlock(&g->mutex);
	if (!channel->running)
		return;
	if (events & VIR_STREAM_EVENT_READABLE)
		receive(channel);
	if (events & VIR_STREAM_EVENT_WRITABLE)
		send_some(channel);
	pthread_mutex_lock(&g->mutex);
	if (events & (VIR_STREAM_EVENT_HANGUP | VIR_STREAM_EVENT_ERROR))
		mark_broken(channel, "the VM's channel hung up");
	channel->running = false;
	pthread_cond_broadcast(&g->changed);
	pthread_mutex_unlock(&g->mutex);
}

/* ---- opening (the guest's thread) --------------------------------------------------------- */

static void note_error(struct guest *g, const char *text)
{
	pthread_mutex_lock(&g->mutex);
	snprintf(g->last_error, sizeof(g->last_error), "%s", text);
	pthread_mutex_unlock(&g->mutex);
}

static struct request *request_new(unsigned long id, char *text)
{
	struct request *request = text ? calloc(1, sizeof(*request)) : NULL;

	if (!request) {
		free(text);
		return NULL;
	}
	request->id = id;
	request->text = text;
	request->len = strlen(text);
	return request;
}

/* Begins to use a stream that is open. */
static bool start_channel(struct guest *g, virStreamPtr stream)
{
	struct channel *channel = calloc(1, sizeof(*channel));
	/* Ends what an earlier connection may have left half sent. */
	struct request *newline = request_new(0, strdup("\n"));

	if (!channel || !newline) {
		free(channel);
		if (newline)
			request_free(newline);
		note_error(g, "out of memory");
		return false;
	}
	channel->guest = g;
	channel->stream = stream;
	pthread_mutex_lock(&g->mutex);
	newline->next = g->queue;
	g->queue = newline;
	if (!newline->next)
		g->queue_end = &newline->next;
	g->channel = channel;
	g->stalled_at = deadline_after(STALLED_MS);
	if (virStreamEventAddCallback(stream,
		    VIR_STREAM_EVENT_READABLE | VIR_STREAM_EVENT_WRITABLE |
			    VIR_STREAM_EVENT_HANGUP | VIR_STREAM_EVENT_ERROR,
		    on_stream, channel, NULL) < 0) {
		g->channel = NULL;
		g->queue = newline->next;
		if (!g->queue)
			g->queue_end = &g->queue;
		pthread_mutex_unlock(&g->mutex);
		request_free(newline);
		free(channel);
		note_error(g, hv_libvirt_error());
		return false;
	}
	pthread_cond_broadcast(&g->changed);
	pthread_mutex_unlock(&g->mutex);
	return true;
}

static virStreamPtr open_stream(struct guest *g)
{
	struct why why = {""};
	int error;
	virDomainPtr domain = hv_domain(g->hv, g->uuid, &error, &why);
	virStreamPtr stream;

	if (!domain) {
		note_error(g, why.text);
		return NULL;
	}
	stream = virStreamNew(virDomainGetConnect(domain), VIR_STREAM_NONBLOCK);
	/* By force: a controller that was killed may still seem to be connected. */
	if (stream &&
		virDomainOpenChannel(domain, HV_CHANNEL, stream, VIR_DOMAIN_CHANNEL_FORCE) < 0) {
		note_error(g, hv_libvirt_error());
		virStreamFree(stream);
		stream = NULL;
	}
	virDomainFree(domain);
	return stream;
}

/* What was sent gets no answer any more; what wasn't waits for the next channel. */
static void fail_sent(struct guest *g)
{
	struct jsonrpc_error err;

	jsonrpc_fail(&err, JSONRPC_UNAVAILABLE, "",
		"the channel to the VM broke (%s); whether the call was carried out is not known",
		g->last_error);
	for (struct waiter *w = g->waiters; w; w = w->next)
		if (w->begun && !w->done)
			finish(g, w, -1, NULL, &err);
	requests_free(&g->unanswered);
	g->unanswered_end = &g->unanswered;
	g->unanswered_bytes = 0;
	if (g->queue && (g->queue->sent > 0 || g->queue->id == 0)) {
		struct request *request = g->queue;

		g->queue = request->next;
		if (!g->queue)
			g->queue_end = &g->queue;
		request_free(request);
	}
}

static void tell_hang_up(struct guest *g)
{
	pthread_mutex_lock(&g->notify_mutex);
	if (g->on_hang_up)
		g->on_hang_up(g->hang_up_ctx);
	pthread_mutex_unlock(&g->notify_mutex);
}

/* Waits until the channel is broken or the guest is to be closed, and takes it away. */
static void hold_channel(struct guest *g, virStreamPtr stream)
{
	struct channel *channel;

	pthread_mutex_lock(&g->mutex);
	channel = g->channel;
	while (!channel->broken && !g->closing)
		pthread_cond_wait(&g->changed, &g->mutex);
	if (!g->closing) {
		/* Told at once: what follows may wait for a libvirt that is busy with the death. */
		pthread_mutex_unlock(&g->mutex);
		tell_hang_up(g);
		pthread_mutex_lock(&g->mutex);
	}
	mark_broken(channel, "closed");
	while (channel->running)
		pthread_cond_wait(&g->changed, &g->mutex);
	g->channel = NULL;
	fail_sent(g);
	pthread_mutex_unlock(&g->mutex);

	virStreamEventRemoveCallback(stream);
	hv_event_fence();
	virStreamAbort(stream);
	virStreamFree(stream);
	jsonrpc_lines_free(&channel->lines);
	free(channel);
}

static bool back_off(struct guest *g, int ms)
{
	struct timespec deadline = deadline_after(ms);
	bool closing;

	pthread_mutex_lock(&g->mutex);
	while (!g->closing &&
		pthread_cond_timedwait(&g->changed, &g->mutex, &deadline) != ETIMEDOUT)
		;
	closing = g->closing;
	pthread_mutex_unlock(&g->mutex);
	return !closing;
}

static void *run(void *arg)
{
	struct guest *g = arg;
	int backoff = FIRST_BACKOFF_MS;

	do {
		virStreamPtr stream = open_stream(g);

		if (stream && start_channel(g, stream)) {
			backoff = FIRST_BACKOFF_MS;
			hold_channel(g, stream);
		} else {
			if (stream) {
				virStreamAbort(stream);
				virStreamFree(stream);
			}
			backoff = backoff * 2 < MAX_BACKOFF_MS ? backoff * 2 : MAX_BACKOFF_MS;
		}
	} while (back_off(g, backoff));
	return NULL;
}

/* ---- interface ---------------------------------------------------------------------------- */

static int start_thread(struct guest *g)
{
	sigset_t all, before;
	int error;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	error = pthread_create(&g->thread, NULL, run, g);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	return error;
}

struct guest *guest_open(struct hv *hv, const char *uuid, guest_notify_fn on_notify, void *ctx)
{
	struct guest *g = calloc(1, sizeof(*g));
	pthread_condattr_t attr;
	struct timespec now;
	int error;

	if (!g)
		return NULL;
	g->hv = hv;
	snprintf(g->uuid, sizeof(g->uuid), "%s", uuid);
	g->on_notify = on_notify;
	g->ctx = ctx;
	g->queue_end = &g->queue;
	g->unanswered_end = &g->unanswered;
	snprintf(g->last_error, sizeof(g->last_error), "not opened yet");
	/* So that an answer to a call of an earlier process isn't taken for ours. */
	clock_gettime(CLOCK_REALTIME, &now);
	g->next_id =
		(unsigned long)(now.tv_sec % 1000000) * 100000000 + (unsigned long)now.tv_nsec / 10;
	pthread_mutex_init(&g->mutex, NULL);
	pthread_mutex_init(&g->notify_mutex, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&g->changed, &attr);
	pthread_condattr_destroy(&attr);
	error = start_thread(g);
	if (error) {
		guest_free(g);
		errno = error;
		return NULL;
	}
	return g;
}

void guest_close(struct guest *g)
{
	if (!g)
		return;
	pthread_mutex_lock(&g->notify_mutex);
	g->on_notify = NULL;
	g->on_hang_up = NULL;
	pthread_mutex_unlock(&g->notify_mutex);

	pthread_mutex_lock(&g->mutex);
	g->closing = true;
	pthread_cond_broadcast(&g->changed);
	while (g->callers > 0)
		pthread_cond_wait(&g->changed, &g->mutex);
	pthread_mutex_unlock(&g->mutex);
	pthread_join(g->thread, NULL);
	guest_free(g);
}

void guest_on_hang_up(struct guest *g, void (*on_hang_up)(void *ctx), void *ctx)
{
	pthread_mutex_lock(&g->notify_mutex);
	g->on_hang_up = on_hang_up;
	g->hang_up_ctx = ctx;
	pthread_mutex_unlock(&g->notify_mutex);
}

bool guest_connected(struct guest *g)
{
	bool connected;

	pthread_mutex_lock(&g->mutex);
	connected = g->channel && !g->channel->broken;
	pthread_mutex_unlock(&g->mutex);
	return connected;
}

static void drop_unsent(struct guest *g, unsigned long id)
{
	struct request **link = &g->queue;

	while (*link && (*link)->id != id)
		link = &(*link)->next;
	if (*link) {
		struct request *request = *link;

		*link = request->next;
		if (!*link)
			g->queue_end = link;
		request_free(request);
	}
}

/*
 * The time is over. If the request was never sent because the guest hasn't answered anything for
 * long, what it was sent may be lost for good (its agent died with it): begin anew.
 */
static void give_up(struct guest *g, struct waiter *w)
{
	if (w->begun)
		return; /* the rest must follow, or the next request would begin in mid-line */
	drop_unsent(g, w->id);
	if (g->channel && g->unanswered && ms_left(&g->stalled_at) == 0)
		mark_broken(g->channel, "the VM answered nothing");
}

static void remove_waiter(struct guest *g, struct waiter *w)
{
	struct waiter **link = &g->waiters;

	while (*link != w)
		link = &(*link)->next;
	*link = w->next;
}

/* The mutex is held. */
static void await_answer(struct guest *g, struct waiter *w, const char *method, int timeout_ms)
{
	struct timespec deadline = deadline_after(timeout_ms);
	int error = 0;

	while (!w->done && !g->closing && error != ETIMEDOUT)
		error = pthread_cond_timedwait(&g->changed, &g->mutex, &deadline);
	if (w->done)
		return;
	w->status = -1;
	if (g->closing)
		jsonrpc_fail(w->err, JSONRPC_UNAVAILABLE, "",
			"%s: given up, the VM is being let go", method);
	else if (!g->channel)
		jsonrpc_fail(w->err, JSONRPC_UNAVAILABLE, "",
			"%s: the VM's channel didn't open within %d ms (%s)", method, timeout_ms,
			g->last_error);
	else
		jsonrpc_fail(w->err, JSONRPC_UNAVAILABLE, "",
			"%s: the VM didn't answer within %d ms%s", method, timeout_ms,
			w->begun ? "" : ", nor the calls before");
	give_up(g, w);
}

int guest_call(struct guest *g, const char *method, const cJSON *params, int timeout_ms,
	cJSON **result, struct jsonrpc_error *err)
{
	struct waiter waiter = {.err = err};
	struct request *request;

	memset(err, 0, sizeof(*err));
	if (result)
		*result = NULL;
	pthread_mutex_lock(&g->mutex);
	waiter.id = g->next_id++;
	pthread_mutex_unlock(&g->mutex);
	request = request_new(waiter.id, jsonrpc_format_request(waiter.id, method, params));
	if (!request)
		return jsonrpc_fail(err, JSONRPC_UNAVAILABLE, "", "out of memory");

	pthread_mutex_lock(&g->mutex);
	g->callers++;
	waiter.next = g->waiters;
	/* Taken out again below. */
	/* cppcheck-suppress autoVariables */
	g->waiters = &waiter;
	*g->queue_end = request;
	g->queue_end = &request->next;
	if (g->channel)
		update_events(g->channel);
	await_answer(g, &waiter, method, timeout_ms);
	remove_waiter(g, &waiter);
	g->callers--;
	pthread_cond_broadcast(&g->changed);
	pthread_mutex_unlock(&g->mutex);

	if (result)
		*result = waiter.result;
	else
		cJSON_Delete(waiter.result);
	return waiter.status;
}

int guest_wait_ready(struct guest *g, int timeout_ms, struct why *why)
{
	struct timespec deadline = deadline_after(timeout_ms);
	struct jsonrpc_error err = {0};
	bool ready = false;
	int left;

	pthread_mutex_lock(&g->mutex);
	g->callers++;
	pthread_mutex_unlock(&g->mutex);
	while (!ready && (left = ms_left(&deadline)) > 0) {
		ready = guest_call(g, "guest.info", NULL, left < PROBE_MS ? left : PROBE_MS, NULL,
				&err) == 0;
		if (!ready && !back_off(g, left < RETRY_MS ? left : RETRY_MS))
			break;
	}
	if (!ready)
		why_set(why, ETIMEDOUT,
			"VM %s on server %s is not ready within %d ms: %s; look at its console log",
			g->uuid, hv_name(g->hv), timeout_ms, err.message);
	pthread_mutex_lock(&g->mutex);
	g->callers--;
	pthread_cond_broadcast(&g->changed);
	pthread_mutex_unlock(&g->mutex);
	return ready ? 0 : ETIMEDOUT;
}
