/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "hostd/control.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "common/log.h"

#define URGENT_NICE (-10)
#define MAX_CLIENTS 64
#define MAX_NEWS 256 /* notifications that wait for a client which doesn't read */
#define SEND_MS 5000 /* a client that doesn't read an answer for so long is closed */

struct client {
	struct client *next;
	struct control *control;
	int fd, wake_fd;
	bool broken;
	cJSON *news; /* an array of messages, under the lock */
	struct jsonrpc_lines in;
};

struct control {
	jsonrpc_handler handler;
	void *ctx;
	int listen_fd, stop_fd; /* stop_fd is readable when all is to end */
	char path[sizeof(((struct sockaddr_un *)0)->sun_path)];
	pthread_mutex_t lock;
	pthread_cond_t left; /* a client has gone */
	struct client *clients;
	unsigned n_clients;
	/* Who left last, to be joined by who leaves next: no thread outlives control_stop(). */
	pthread_t last;
	bool has_last;
};

static void wake(int fd)
{
	uint64_t one = 1;

	if (write(fd, &one, sizeof(one)) < 0)
		log_debug("a thread was awake already");
}

/* ---- messages ----------------------------------------------------------------------------- */

/* Sends a message and its newline. Takes `message`. */
static void send_message(struct client *client, cJSON *message)
{
	char *text = cJSON_PrintUnformatted(message);
	size_t left, n = text != NULL ? strlen(text) : 0;
	const char *p = text;

	cJSON_Delete(message);
	if (text == NULL) {
		client->broken = true;
		return;
	}
	text[n] = '\n'; /* instead of the NUL: lengths are counted from here on */
	for (left = n + 1; left > 0 && !client->broken;) {
		struct pollfd poll_fd = {.fd = client->fd, .events = POLLOUT};
		ssize_t done = send(client->fd, p, left, MSG_NOSIGNAL | MSG_DONTWAIT);

		if (done > 0) {
			p += done;
			left -= (size_t)done;
		} else {
			client->broken = (errno != EAGAIN && errno != EINTR) ||
					 poll(&poll_fd, 1, SEND_MS) == 0;
		}
	}
	free(text);
}

static cJSON *new_message(void)
{
	cJSON *message = cJSON_CreateObject();

	cJSON_AddStringToObject(message, "jsonrpc", "2.0");
	return message;
}

/* Takes `id` and `result`. */
static void respond(
	struct client *client, cJSON *id, cJSON *result, const struct jsonrpc_error *err)
{
	cJSON *message = new_message(), *error, *data;

	cJSON_AddItemToObject(message, "id", id != NULL ? id : cJSON_CreateNull());
	if (err->code == 0) {
		cJSON_AddItemToObject(
			message, "result", result != NULL ? result : cJSON_CreateNull());
	} else {
		cJSON_Delete(result);
		error = cJSON_AddObjectToObject(message, "error");
		cJSON_AddNumberToObject(error, "code", err->code);
		cJSON_AddStringToObject(error, "message", err->message);
		if (err->field[0] != '\0') {
			data = cJSON_AddObjectToObject(error, "data");
			cJSON_AddStringToObject(data, "field", err->field);
		}
	}
	send_message(client, message);
}

static void serve_line(void *ctx, char *text)
{
	struct client *client = ctx;
	struct jsonrpc_error err = {0};
	cJSON *request = cJSON_Parse(text), *result = NULL, *empty = NULL, *id;
	const cJSON *method = cJSON_GetObjectItemCaseSensitive(request, "method");
	const cJSON *params = cJSON_GetObjectItemCaseSensitive(request, "params");

	if (params == NULL)
		params = empty = cJSON_CreateObject();
	if (request == NULL)
		jsonrpc_fail(&err, JSONRPC_PARSE_ERROR, "", "not a JSON text");
	else if (!cJSON_IsString(method) || !cJSON_IsObject(params))
		jsonrpc_fail(&err, JSONRPC_INVALID_REQUEST, "",
			"a request is an object with a text \"method\" and an object \"params\"");
	else if (client->control->handler(
			 client->control->ctx, method->valuestring, params, &result, &err) == 0)
		err.code = 0;
	id = cJSON_DetachItemFromObjectCaseSensitive(request, "id");
	/* A well-formed request without id is a notification: nobody waits for an answer. */
	if (id == NULL && request != NULL && cJSON_IsString(method))
		cJSON_Delete(result);
	else
		respond(client, id, result, &err);
	cJSON_Delete(empty);
	cJSON_Delete(request);
}

static void give_news(struct client *client)
{
	uint64_t ticks;
	cJSON *news, *item;

	if (read(client->wake_fd, &ticks, sizeof(ticks)) < 0)
		return;
	pthread_mutex_lock(&client->control->lock);
	news = client->news;
	client->news = cJSON_CreateArray();
	pthread_mutex_unlock(&client->control->lock);
	while ((item = cJSON_DetachItemFromArray(news, 0)) != NULL)
		send_message(client, item);
	cJSON_Delete(news);
}

void control_notify(struct control *control, const char *method, const cJSON *params)
{
	cJSON *message = new_message();

	cJSON_AddStringToObject(message, "method", method);
	cJSON_AddItemToObject(message, "params", cJSON_Duplicate(params, true));
	pthread_mutex_lock(&control->lock);
	for (struct client *client = control->clients; client != NULL; client = client->next) {
		if (cJSON_GetArraySize(client->news) >= MAX_NEWS)
			cJSON_DeleteItemFromArray(client->news, 0);
		cJSON_AddItemToArray(client->news, cJSON_Duplicate(message, true));
		wake(client->wake_fd);
	}
	pthread_mutex_unlock(&control->lock);
	cJSON_Delete(message);
}

/* ---- clients ------------------------------------------------------------------------------ */

/* `leaving`: called by the client's own thread, which ends then. */
static void remove_client(struct client *client, bool leaving)
{
	struct control *control = client->control;
	struct client **link = &control->clients;
	pthread_t before = pthread_self();
	bool join = false;

	pthread_mutex_lock(&control->lock);
	while (*link != client)
		link = &(*link)->next;
	*link = client->next;
	jsonrpc_lines_free(&client->in);
	cJSON_Delete(client->news);
	if (client->wake_fd >= 0)
		close(client->wake_fd);
	close(client->fd);
	free(client);
	control->n_clients--;
	if (leaving) {
		before = control->last;
		join = control->has_last;
		control->last = pthread_self();
		control->has_last = true;
	}
	pthread_cond_broadcast(&control->left);
	pthread_mutex_unlock(&control->lock);
	if (join)
		pthread_join(before, NULL);
}

static void read_requests(struct client *client)
{
	char chunk[16384];
	ssize_t n = recv(client->fd, chunk, sizeof(chunk), MSG_DONTWAIT);

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n <= 0 || jsonrpc_lines_feed(&client->in, chunk, (size_t)n, serve_line, client) != 0)
		client->broken = true;
}

static void *client_main(void *ctx)
{
	struct client *client = ctx;
	struct pollfd p[3] = {
		{.fd = client->fd, .events = POLLIN},
		{.fd = client->wake_fd, .events = POLLIN},
		{.fd = client->control->stop_fd, .events = POLLIN},
	};

	/* Whoever calls may have a VM standing still. The thread itself has little to do. */
	if (setpriority(PRIO_PROCESS, (id_t)gettid(), URGENT_NICE) < 0)
		log_debug("no privilege to be scheduled before others");
	while (!client->broken && p[2].revents == 0) {
		if (poll(p, 3, -1) < 0)
			continue;
		if (p[0].revents != 0)
			read_requests(client);
		if (p[1].revents != 0)
			give_news(client);
	}
	remove_client(client, true);
	return NULL;
}

/* Takes `fd`. */
static void add_client(struct control *control, int fd)
{
	struct client *client = calloc(1, sizeof(*client));
	pthread_t thread;
	bool full;

	if (client == NULL) {
		close(fd);
		return;
	}
	client->control = control;
	client->fd = fd;
	client->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	client->news = cJSON_CreateArray();
	pthread_mutex_lock(&control->lock);
	full = control->n_clients++ >= MAX_CLIENTS;
	client->next = control->clients;
	control->clients = client;
	pthread_mutex_unlock(&control->lock);
	if (full || client->wake_fd < 0 ||
		pthread_create(&thread, NULL, client_main, client) != 0) {
		log_warn("a client was refused: %s", full ? "too many" : "resources ran out");
		remove_client(client, false);
	}
}

void control_accept(struct control *control)
{
	int fd;

	while ((fd = accept4(control->listen_fd, NULL, NULL, SOCK_CLOEXEC)) >= 0)
		add_client(control, fd);
}

/* ---- the socket --------------------------------------------------------------------------- */

struct control *control_create(jsonrpc_handler handler, void *ctx)
{
	struct control *control = calloc(1, sizeof(*control));

	if (control == NULL)
		return NULL;
	control->handler = handler;
	control->ctx = ctx;
	control->listen_fd = -1;
	control->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	pthread_mutex_init(&control->lock, NULL);
	pthread_cond_init(&control->left, NULL);
	if (control->stop_fd < 0) {
		free(control);
		return NULL;
	}
	return control;
}

int control_listen(struct control *control, const char *path)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	mode_t mask;
	int fd, error;

	if (strlen(path) >= sizeof(addr.sun_path))
		return ENAMETOOLONG;
	snprintf(addr.sun_path, sizeof(addr.sun_path), "%s", path);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return errno;
	unlink(path);
	/* The mode must hold from the first instant: set it by umask, not by a later chmod. */
	mask = umask(0177);
	error = bind(fd, (struct sockaddr *)&addr, sizeof(addr)) < 0 ? errno : 0;
	umask(mask);
	if (error == 0 && listen(fd, 16) < 0)
		error = errno;
	if (error != 0) {
		close(fd);
		return error;
	}
	control->listen_fd = fd;
	memcpy(control->path, addr.sun_path, sizeof(control->path));
	return 0;
}

int control_fd(const struct control *control)
{
	return control->listen_fd;
}

void control_stop(struct control *control)
{
	if (control->listen_fd >= 0) {
		unlink(control->path);
		close(control->listen_fd);
		control->listen_fd = -1;
	}
	wake(control->stop_fd);
	pthread_mutex_lock(&control->lock);
	while (control->n_clients > 0)
		pthread_cond_wait(&control->left, &control->lock);
	pthread_mutex_unlock(&control->lock);
	if (control->has_last)
		pthread_join(control->last, NULL);
	control->has_last = false;
}

void control_destroy(struct control *control)
{
	if (control == NULL)
		return;
	control_stop(control);
	close(control->stop_fd);
	pthread_mutex_destroy(&control->lock);
	pthread_cond_destroy(&control->left);
	free(control);
}
