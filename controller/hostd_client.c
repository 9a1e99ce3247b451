/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * One thread reads, and it alone closes the connection: whoever finds it broken shuts it down,
 * which the reader sees. Callers send under the lock and never wait for room in the socket: a
 * request is small, and a hostd that has hundreds of them unread hangs.
 */

#include "controller/hostd_client.h"

#include <assert.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define READ_CHUNK 16384
#define REOPEN_MS 1000 /* the reader closes a broken connection at once */

struct pending {
	struct pending *next;
	unsigned long id;
	bool done;
	cJSON *result;
	struct jsonrpc_error err; /* code 0: `result` */
};

struct hostd_client {
	struct sockaddr_un address;
	hostd_changed_fn changed;
	void *ctx;
	pthread_t reader;
	int wake_fd;

	pthread_mutex_t lock;
	pthread_cond_t news; /* an answer came, or the connection was closed */
	bool closing;
	int fd;      /* -1: not connected */
	bool broken; /* `fd` was shut down and waits to be closed */
	unsigned long last_id;
	struct pending *pending;

	struct jsonrpc_lines lines; /* the reader's */
};

static struct timespec deadline_in(int ms)
{
	struct timespec at;

	clock_gettime(CLOCK_MONOTONIC, &at);
	at.tv_sec += ms / 1000;
	at.tv_nsec += (long)(ms % 1000) * 1000000;
	if (at.tv_nsec >= 1000000000) {
		at.tv_sec++;
		at.tv_nsec -= 1000000000;
	}
	return at;
}

static int unavailable(
	const struct hostd_client *client, struct jsonrpc_error *err, const char *what)
{
	return jsonrpc_fail(err, JSONRPC_UNAVAILABLE, "",
		"hostd at unix:%s %s: check that edgeplex-hostd runs there",
		client->address.sun_path, what);
}

/* ---- the connection; under the lock -------------------------------------------------------- */

static void wake(struct hostd_client *client)
{
	uint64_t one = 1;

	/* Can't fail but for a counter that is full, and then it wakes anyway. */
	if (write(client->wake_fd, &one, sizeof(one)) < 0)
		return;
}

/* The reader closes it. */
static void break_locked(struct hostd_client *client)
{
	if (client->fd < 0 || client->broken)
		return;
	client->broken = true;
	shutdown(client->fd, SHUT_RDWR);
}

static int connect_locked(struct hostd_client *client, struct jsonrpc_error *err)
{
	struct timespec until = deadline_in(REOPEN_MS);
	char what[128];
	int fd;

	while (client->broken)
		if (pthread_cond_timedwait(&client->news, &client->lock, &until) == ETIMEDOUT)
			return unavailable(client, err, "can't be connected to");
	if (client->fd >= 0)
		return 0;
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	/* A Unix socket connects at once or not at all (EAGAIN: its queue is full). */
	if (fd < 0 || connect(fd, (const struct sockaddr *)&client->address,
			      sizeof(client->address)) < 0) {
		snprintf(what, sizeof(what), "can't be connected to (%s)", strerror(errno));
		if (fd >= 0)
			close(fd);
		return unavailable(client, err, what);
	}
	client->fd = fd;
	wake(client);
	return 0;
}

static struct pending *find_locked(struct hostd_client *client, unsigned long id)
{
	struct pending *pending = client->pending;

	while (pending && pending->id != id)
		pending = pending->next;
	return pending;
}

static void remove_locked(struct hostd_client *client, struct pending *pending)
{
	struct pending **at = &client->pending;

	while (*at != pending)
		at = &(*at)->next;
	*at = pending->next;
}

/* ---- the reader ---------------------------------------------------------------------------- */

static void take_answer(struct hostd_client *client, const char *text)
{
	struct jsonrpc_error err = {0};
	struct pending *pending;
	cJSON *result = NULL;
	unsigned long id;

	if (jsonrpc_parse_response(text, &id, &result, &err) != 0)
		return;
	if (!result && err.code == 0)
		err.code = JSONRPC_INTERNAL_ERROR; /* an error that has none */
	pthread_mutex_lock(&client->lock);
	pending = find_locked(client, id);
	if (pending && !pending->done) {
		pending->done = true;
		pending->result = result;
		pending->err = err;
		result = NULL;
		pthread_cond_broadcast(&client->news);
	}
	pthread_mutex_unlock(&client->lock);
	cJSON_Delete(result); /* nobody waits for it any more */
}

static void take_line(void *ctx, char *text)
{
	struct hostd_client *client = ctx;
	cJSON *message = cJSON_Parse(text);
	const char *method =
		cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(message, "method"));

	if (!method)
		take_answer(client, text);
	else if (client->changed && strcmp(method, "hostd.changed") == 0)
		client->changed(client->ctx, cJSON_GetObjectItemCaseSensitive(message, "params"));
	cJSON_Delete(message);
}

/* Returns whether the connection is still good. */
static bool read_some(struct hostd_client *client, int fd)
{
	char chunk[READ_CHUNK];
	ssize_t n = read(fd, chunk, sizeof(chunk));

	if (n < 0)
		return errno == EAGAIN || errno == EINTR;
	return n > 0 &&
	       jsonrpc_lines_feed(&client->lines, chunk, (size_t)n, take_line, client) == 0;
}

static void lose(struct hostd_client *client)
{
	jsonrpc_lines_free(&client->lines);
	client->lines = (struct jsonrpc_lines){0};
	pthread_mutex_lock(&client->lock);
	close(client->fd);
	client->fd = -1;
	client->broken = false;
	for (struct pending *pending = client->pending; pending; pending = pending->next) {
		if (pending->done)
			continue;
		pending->done = true;
		unavailable(client, &pending->err, "ended the connection");
	}
	pthread_cond_broadcast(&client->news);
	pthread_mutex_unlock(&client->lock);
	if (client->changed)
		client->changed(client->ctx, NULL);
}

static void *reader_main(void *arg)
{
	struct hostd_client *client = arg;

	for (;;) {
		struct pollfd fds[] = {
			{.fd = client->wake_fd, .events = POLLIN},
			{.fd = -1, .events = POLLIN},
		};
		bool closing;
		uint64_t n;

		pthread_mutex_lock(&client->lock);
		fds[1].fd = client->fd;
		closing = client->closing;
		pthread_mutex_unlock(&client->lock);
		if (closing)
			return NULL;
		if (poll(fds, 2, -1) < 0)
			continue;
		if (fds[0].revents && read(client->wake_fd, &n, sizeof(n)) < 0 && errno != EAGAIN)
			return NULL;
		if (fds[1].revents && !read_some(client, fds[1].fd))
			lose(client);
	}
}

/* ---- calls --------------------------------------------------------------------------------- */

static int send_locked(struct hostd_client *client, const char *line, struct jsonrpc_error *err)
{
	size_t size = strlen(line);

	if (send(client->fd, line, size, MSG_NOSIGNAL | MSG_DONTWAIT) == (ssize_t)size)
		return 0;
	break_locked(client); /* what was sent of it is void with the connection */
	return unavailable(client, err, "takes no more requests");
}

int hostd_client_begin(struct hostd_client *client, const char *method, const cJSON *params,
	unsigned long *id, struct jsonrpc_error *err)
{
	struct pending *pending = calloc(1, sizeof(*pending));
	char *line = NULL;
	int rc = -1;

	pthread_mutex_lock(&client->lock);
	*id = ++client->last_id;
	if (pending)
		line = jsonrpc_format_request(*id, method, params);
	if (!line)
		jsonrpc_fail(err, JSONRPC_INTERNAL_ERROR, "", "out of memory");
	else if (connect_locked(client, err) == 0)
		rc = send_locked(client, line, err);
	/* Its answer is taken under the lock, so not before this. */
	if (rc == 0) {
		pending->id = *id;
		pending->next = client->pending;
		client->pending = pending;
	}
	pthread_mutex_unlock(&client->lock);
	free(line);
	if (rc != 0)
		free(pending);
	return rc;
}

int hostd_client_finish(struct hostd_client *client, unsigned long id, int timeout_ms,
	cJSON **result, struct jsonrpc_error *err)
{
	struct timespec until = deadline_in(timeout_ms);
	struct pending *pending;
	char what[64];
	int rc;

	pthread_mutex_lock(&client->lock);
	pending = find_locked(client, id);
	assert(pending);
	while (!pending->done)
		if (pthread_cond_timedwait(&client->news, &client->lock, &until) == ETIMEDOUT)
			break;
	remove_locked(client, pending);
	if (!pending->done) {
		snprintf(what, sizeof(what), "didn't answer within %d ms", timeout_ms);
		unavailable(client, &pending->err, what);
		break_locked(client);
	}
	pthread_mutex_unlock(&client->lock);
	rc = pending->err.code == 0 ? 0 : -1;
	if (rc != 0)
		*err = pending->err;
	if (rc == 0 && result)
		*result = pending->result;
	else
		cJSON_Delete(pending->result);
	free(pending);
	return rc;
}

int hostd_client_call(struct hostd_client *client, const char *method, const cJSON *params,
	int timeout_ms, cJSON **result, struct jsonrpc_error *err)
{
	unsigned long id;

	if (hostd_client_begin(client, method, params, &id, err) != 0)
		return -1;
	return hostd_client_finish(client, id, timeout_ms, result, err);
}

/* ---- open, close --------------------------------------------------------------------------- */

int hostd_client_check_target(const char *target, struct why *why)
{
	size_t max = sizeof(((struct sockaddr_un *)0)->sun_path) - 1;

	if (strncmp(target, "unix:/", 6) != 0 || target[6] == '\0' || strlen(target + 5) > max)
		return why_set(why, EINVAL,
			"\"%.120s\" is not the address of a hostd: unix: and a socket's absolute "
			"path of at most %zu bytes",
			target, max);
	return 0;
}

/* Signals are the main thread's business. */
static int start_reader(struct hostd_client *client)
{
	sigset_t all, before;
	int error;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	error = pthread_create(&client->reader, NULL, reader_main, client);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	return error;
}

struct hostd_client *hostd_client_open(
	const char *target, hostd_changed_fn changed, void *ctx, struct why *why)
{
	struct hostd_client *client;
	pthread_condattr_t attr;

	if (hostd_client_check_target(target, why) != 0)
		return NULL;
	client = calloc(1, sizeof(*client));
	if (!client) {
		why_set(why, ENOMEM, "out of memory");
		return NULL;
	}
	client->address.sun_family = AF_UNIX;
	snprintf(client->address.sun_path, sizeof(client->address.sun_path), "%s", target + 5);
	client->changed = changed;
	client->ctx = ctx;
	client->fd = -1;
	client->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	pthread_mutex_init(&client->lock, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&client->news, &attr);
	pthread_condattr_destroy(&attr);
	if (client->wake_fd < 0 || start_reader(client) != 0) {
		if (client->wake_fd >= 0)
			close(client->wake_fd);
		free(client);
		why_set(why, EAGAIN, "no descriptor or no thread is left");
		return NULL;
	}
	return client;
}

void hostd_client_close(struct hostd_client *client)
{
	if (!client)
		return;
	assert(!client->pending);
	pthread_mutex_lock(&client->lock);
	client->closing = true;
	wake(client);
	pthread_mutex_unlock(&client->lock);
	pthread_join(client->reader, NULL);
	if (client->fd >= 0)
		close(client->fd);
	close(client->wake_fd);
	jsonrpc_lines_free(&client->lines);
	pthread_mutex_destroy(&client->lock);
	pthread_cond_destroy(&client->news);
	free(client);
}
