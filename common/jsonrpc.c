/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "common/jsonrpc.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "common/log.h"

/* A peer that doesn't read may cost this much memory, no more. */
#define MAX_PENDING_OUTPUT (4 * JSONRPC_MAX_LINE)
#define READ_CHUNK 16384
/* Reads per connection and turn, so that one busy peer doesn't starve the others. */
#define READS_PER_TURN 16

struct connection {
	struct connection *next;
	struct jsonrpc_server *server;
	int fd;
	bool broken; /* to be closed at the end of the turn */
	bool wants_write;
	struct jsonrpc_lines in;
	char *out;
	size_t out_len, out_size;
};

struct jsonrpc_server {
	jsonrpc_handler handler;
	void *ctx;
	int epoll_fd;
	int listen_fd;
	char path[sizeof(((struct sockaddr_un *)0)->sun_path)];
	struct connection *connections;
};

int jsonrpc_fail(struct jsonrpc_error *err, int code, const char *field, const char *fmt, ...)
{
	va_list args;

	err->code = code;
	snprintf(err->field, sizeof(err->field), "%s", field);
	va_start(args, fmt);
	vsnprintf(err->message, sizeof(err->message), fmt, args);
	va_end(args);
	return -1;
}

/* ---- framing ------------------------------------------------------------------------------- */

static int lines_append(struct jsonrpc_lines *lines, const char *data, size_t n)
{
	if (lines->len + n + 1 > lines->size) {
		size_t size = lines->size != 0 ? lines->size : 1024;
		char *buf;

		while (size < lines->len + n + 1)
			size *= 2;
		buf = realloc(lines->buf, size);
		if (buf == NULL)
			return ENOMEM;
		lines->buf = buf;
		lines->size = size;
	}
	memcpy(lines->buf + lines->len, data, n);
	lines->len += n;
	lines->buf[lines->len] = '\0';
	return 0;
}

int jsonrpc_lines_feed(struct jsonrpc_lines *lines, const void *data, size_t n,
	void (*line)(void *ctx, char *text), void *ctx)
{
	const char *p = data, *end = p + n;
	int result = 0;

	while (p < end) {
		const char *newline = memchr(p, '\n', (size_t)(end - p));
		size_t part = (size_t)((newline != NULL ? newline : end) - p);

		if (!lines->skipping) {
			int error = lines->len + part >= JSONRPC_MAX_LINE
					    ? EMSGSIZE
					    : lines_append(lines, p, part);
			if (error != 0) {
				result = error;
				lines->skipping = true;
				lines->len = 0;
			}
		}
		if (newline == NULL)
			break;
		if (!lines->skipping && lines->len > 0) {
			lines->len = 0;
			line(ctx, lines->buf);
		}
		lines->len = 0;
		lines->skipping = false;
		p = newline + 1;
	}
	/* Give the memory of a rare long line back. */
	if (lines->len == 0 && lines->size > 1u << 20)
		jsonrpc_lines_free(lines);
	return result;
}

void jsonrpc_lines_free(struct jsonrpc_lines *lines)
{
	free(lines->buf);
	lines->buf = NULL;
	lines->len = lines->size = 0;
}

/* ---- messages ------------------------------------------------------------------------------ */

/* Prints `message` as one line with its newline. Frees `message`. NULL when memory ran out. */
static char *print_line(cJSON *message)
{
	char *text = message != NULL ? cJSON_PrintUnformatted(message) : NULL;
	char *line = NULL;

	cJSON_Delete(message);
	if (text != NULL) {
		size_t n = strlen(text);

		line = realloc(text, n + 2);
		if (line == NULL) {
			free(text);
			return NULL;
		}
		line[n] = '\n';
		line[n + 1] = '\0';
	}
	return line;
}

static cJSON *new_message(void)
{
	cJSON *message = cJSON_CreateObject();

	if (message != NULL && cJSON_AddStringToObject(message, "jsonrpc", "2.0") == NULL) {
		cJSON_Delete(message);
		return NULL;
	}
	return message;
}

static void add_params(cJSON *message, const cJSON *params)
{
	/* A reference: the caller's value is printed, not taken. */
	if (message != NULL && params != NULL)
		cJSON_AddItemReferenceToObject(message, "params", (cJSON *)(uintptr_t)params);
}

char *jsonrpc_format_request(unsigned long id, const char *method, const cJSON *params)
{
	cJSON *message = new_message();

	if (message == NULL)
		return NULL;
	cJSON_AddNumberToObject(message, "id", (double)id);
	cJSON_AddStringToObject(message, "method", method);
	add_params(message, params);
	return print_line(message);
}

/* Takes `id` and `result`. */
static char *format_response(cJSON *id, cJSON *result, const struct jsonrpc_error *err)
{
	cJSON *message = new_message(), *error;

	if (message == NULL) {
		cJSON_Delete(id);
		cJSON_Delete(result);
		return NULL;
	}
	cJSON_AddItemToObject(message, "id", id != NULL ? id : cJSON_CreateNull());
	if (err == NULL) {
		cJSON_AddItemToObject(
			message, "result", result != NULL ? result : cJSON_CreateNull());
		return print_line(message);
	}
	error = cJSON_AddObjectToObject(message, "error");
	cJSON_AddNumberToObject(error, "code", err->code);
	cJSON_AddStringToObject(error, "message", err->message);
	if (err->field[0] != '\0') {
		cJSON *data = cJSON_AddObjectToObject(error, "data");

		cJSON_AddStringToObject(data, "field", err->field);
	}
	return print_line(message);
}

static void read_error(const cJSON *error, struct jsonrpc_error *err)
{
	const cJSON *code = cJSON_GetObjectItemCaseSensitive(error, "code");
	const cJSON *text = cJSON_GetObjectItemCaseSensitive(error, "message");
	const cJSON *data = cJSON_GetObjectItemCaseSensitive(error, "data");
	const char *field = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(data, "field"));

	jsonrpc_fail(err,
		cJSON_IsNumber(code) && code->valueint != 0 ? code->valueint
							    : JSONRPC_INTERNAL_ERROR,
		field != NULL ? field : "", "%s",
		cJSON_IsString(text) ? text->valuestring : "unspecified error");
}

int jsonrpc_parse_response(
	const char *line, unsigned long *id, cJSON **result, struct jsonrpc_error *err)
{
	cJSON *message = cJSON_Parse(line);
	const cJSON *number = cJSON_GetObjectItemCaseSensitive(message, "id");
	const cJSON *error = cJSON_GetObjectItemCaseSensitive(message, "error");
	cJSON *value;
	int status = EBADMSG;

	memset(err, 0, sizeof(*err));
	*result = NULL;
	if (!cJSON_IsNumber(number) || !(number->valuedouble >= 0 && number->valuedouble <= 1e15))
		goto out;
	*id = (unsigned long)number->valuedouble;
	if (cJSON_IsObject(error)) {
		read_error(error, err);
		status = 0;
		goto out;
	}
	value = cJSON_DetachItemFromObjectCaseSensitive(message, "result");
	if (value == NULL)
		goto out;
	*result = value;
	status = 0;
out:
	cJSON_Delete(message);
	return status;
}

/* ---- server -------------------------------------------------------------------------------- */

static int set_nonblocking(int fd)
{
	int flags = fcntl(fd, F_GETFL);

	if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0)
		return errno;
	return 0;
}

struct jsonrpc_server *jsonrpc_server_create(jsonrpc_handler handler, void *ctx)
{
	struct jsonrpc_server *server = calloc(1, sizeof(*server));

	if (server == NULL)
		return NULL;
	server->handler = handler;
	server->ctx = ctx;
	server->listen_fd = -1;
	server->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	if (server->epoll_fd < 0) {
		free(server);
		return NULL;
	}
	return server;
}

int jsonrpc_server_listen_unix(struct jsonrpc_server *server, const char *path)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL};
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
	if (error == 0 &&
		(listen(fd, 16) < 0 || epoll_ctl(server->epoll_fd, EPOLL_CTL_ADD, fd, &event) < 0))
		error = errno;
	if (error != 0) {
		close(fd);
		return error;
	}
	server->listen_fd = fd;
	memcpy(server->path, addr.sun_path, sizeof(server->path));
	return 0;
}

/* Takes `fd`. Returns 0 or errno. */
static int add_connection(struct jsonrpc_server *server, int fd)
{
	struct connection *conn = calloc(1, sizeof(*conn));
	struct epoll_event event = {.events = EPOLLIN, .data.ptr = conn};
	int error = conn == NULL ? ENOMEM : set_nonblocking(fd);

	if (error == 0 && epoll_ctl(server->epoll_fd, EPOLL_CTL_ADD, fd, &event) < 0)
		error = errno;
	if (error != 0) {
		free(conn);
		close(fd);
		return error;
	}
	conn->server = server;
	conn->fd = fd;
	conn->next = server->connections;
	server->connections = conn;
	return 0;
}

int jsonrpc_server_fd(const struct jsonrpc_server *server)
{
	return server->epoll_fd;
}

static void watch_writable(struct connection *conn, bool on)
{
	struct epoll_event event = {
		.events = EPOLLIN | (on ? EPOLLOUT : 0u),
		.data.ptr = conn,
	};

	if (conn->wants_write == on)
		return;
	conn->wants_write = on;
	if (epoll_ctl(conn->server->epoll_fd, EPOLL_CTL_MOD, conn->fd, &event) < 0)
		conn->broken = true;
}

static void flush(struct connection *conn)
{
	size_t done = 0;

	while (done < conn->out_len) {
		ssize_t n = send(conn->fd, conn->out + done, conn->out_len - done, MSG_NOSIGNAL);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno != EAGAIN)
			conn->broken = true;
		if (n <= 0)
			break;
		done += (size_t)n;
	}
	memmove(conn->out, conn->out + done, conn->out_len - done);
	conn->out_len -= done;
	watch_writable(conn, conn->out_len > 0);
}

static void send_text(struct connection *conn, const char *text)
{
	size_t n = strlen(text);

	if (conn->broken)
		return;
	if (conn->out_len + n > MAX_PENDING_OUTPUT) {
		conn->broken = true;
		return;
	}
	if (conn->out_len + n > conn->out_size) {
		size_t size = conn->out_size != 0 ? conn->out_size : 4096;
		char *out;

		while (size < conn->out_len + n)
			size *= 2;
		out = realloc(conn->out, size);
		if (out == NULL) {
			conn->broken = true;
			return;
		}
		conn->out = out;
		conn->out_size = size;
	}
	memcpy(conn->out + conn->out_len, text, n);
	conn->out_len += n;
	flush(conn);
}

static void respond(struct connection *conn, cJSON *id, cJSON *result, struct jsonrpc_error *err)
{
	char *text = format_response(id, result, err);

	if (text == NULL) {
		conn->broken = true;
		return;
	}
	send_text(conn, text);
	free(text);
}

static void serve_line(void *ctx, char *text)
{
	struct connection *conn = ctx;
	struct jsonrpc_error err = {0};
	cJSON *request = cJSON_Parse(text), *result = NULL, *id = NULL, *empty = NULL;
	const cJSON *method, *params;

	if (request == NULL) {
		jsonrpc_fail(&err, JSONRPC_PARSE_ERROR, "", "not a JSON text");
		respond(conn, NULL, NULL, &err);
		return;
	}
	method = cJSON_GetObjectItemCaseSensitive(request, "method");
	params = cJSON_GetObjectItemCaseSensitive(request, "params");
	if (!cJSON_IsObject(request) || !cJSON_IsString(method) ||
		(params != NULL && !cJSON_IsObject(params))) {
		id = cJSON_DetachItemFromObjectCaseSensitive(request, "id");
		jsonrpc_fail(&err, JSONRPC_INVALID_REQUEST, "",
			"a request is an object with a text \"method\" and an object \"params\"");
		respond(conn, id, NULL, &err);
		goto out;
	}
	if (params == NULL)
		params = empty = cJSON_CreateObject();
	if (params == NULL)
		goto out;
	if (conn->server->handler(conn->server->ctx, method->valuestring, params, &result, &err) ==
		0)
		err.code = 0;
	else if (err.code == 0)
		jsonrpc_fail(&err, JSONRPC_INTERNAL_ERROR, "", "unspecified error");
	id = cJSON_DetachItemFromObjectCaseSensitive(request, "id");
	if (id == NULL) /* a notification: nobody waits for an answer */
		cJSON_Delete(result);
	else
		respond(conn, id, result, err.code != 0 ? &err : NULL);
out:
	cJSON_Delete(empty);
	cJSON_Delete(request);
}

static void read_requests(struct connection *conn)
{
	char chunk[READ_CHUNK];

	for (int i = 0; i < READS_PER_TURN && !conn->broken; i++) {
		ssize_t n = read(conn->fd, chunk, sizeof(chunk));

		if (n < 0 && errno == EINTR)
			continue;
		if (n > 0) {
			if (jsonrpc_lines_feed(&conn->in, chunk, (size_t)n, serve_line, conn) != 0)
				conn->broken = true;
			continue;
		}
		if (n < 0 && errno == EAGAIN)
			return;
		conn->broken = true;
		return;
	}
}

static void accept_connections(struct jsonrpc_server *server)
{
	for (;;) {
		int fd = accept4(server->listen_fd, NULL, NULL, SOCK_CLOEXEC);

		if (fd < 0)
			return;
		if (add_connection(server, fd) != 0)
			log_warn("connection refused, resources ran out socket=%s", server->path);
	}
}

static void free_connection(struct connection *conn)
{
	close(conn->fd);
	jsonrpc_lines_free(&conn->in);
	free(conn->out);
	free(conn);
}

static void drop_broken(struct jsonrpc_server *server)
{
	struct connection **link = &server->connections;

	while (*link != NULL) {
		struct connection *conn = *link;

		if (!conn->broken) {
			link = &conn->next;
			continue;
		}
		*link = conn->next;
		free_connection(conn);
	}
}

void jsonrpc_server_run(struct jsonrpc_server *server)
{
	struct epoll_event events[16];
	int n = epoll_wait(server->epoll_fd, events, 16, 0);

	for (int i = 0; i < n; i++) {
		struct connection *conn = events[i].data.ptr;

		if (conn == NULL) {
			accept_connections(server);
			continue;
		}
		if (events[i].events & EPOLLOUT)
			flush(conn);
		if (events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR))
			read_requests(conn);
	}
	drop_broken(server);
}

void jsonrpc_server_notify(struct jsonrpc_server *server, const char *method, const cJSON *params)
{
	cJSON *message = new_message();
	char *text;

	if (message == NULL)
		return;
	cJSON_AddStringToObject(message, "method", method);
	add_params(message, params);
	text = print_line(message);
	if (text == NULL)
		return;
	/* Broken ones are dropped by the next run: a handler may be iterating right now. */
	for (struct connection *conn = server->connections; conn != NULL; conn = conn->next)
		send_text(conn, text);
	free(text);
}

void jsonrpc_server_destroy(struct jsonrpc_server *server)
{
	if (server == NULL)
		return;
	while (server->connections != NULL) {
		struct connection *conn = server->connections;

		server->connections = conn->next;
		free_connection(conn);
	}
	if (server->listen_fd >= 0) {
		close(server->listen_fd);
		unlink(server->path);
	}
	close(server->epoll_fd);
	free(server);
}

/* ---- client -------------------------------------------------------------------------------- */

int jsonrpc_connect_unix(const char *path)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	int fd, error;

	if (strlen(path) >= sizeof(addr.sun_path)) {
		errno = ENAMETOOLONG;
		return -1;
	}
	snprintf(addr.sun_path, sizeof(addr.sun_path), "%s", path);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -1;
	if (connect(fd, (struct sockaddr *)&addr, sizeof(addr)) < 0) {
		error = errno;
		close(fd);
		errno = error;
		return -1;
	}
	return fd;
}

static int64_t now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* Waits for `events`. Returns 0 or -1 with `err` filled. */
static int wait_for(int fd, short events, int64_t deadline, struct jsonrpc_error *err)
{
	struct pollfd p = {.fd = fd, .events = events};

	for (;;) {
		int64_t left = deadline - now_ms();
		int n;

		if (left <= 0)
			return jsonrpc_fail(err, JSONRPC_UNAVAILABLE, "", "no answer in time");
		n = poll(&p, 1, (int)left);
		if (n > 0)
			return 0;
		if (n < 0 && errno != EINTR)
			return jsonrpc_fail(
				err, JSONRPC_UNAVAILABLE, "", "poll: %s", strerror(errno));
	}
}

static int send_all(int fd, const char *text, int64_t deadline, struct jsonrpc_error *err)
{
	size_t left = strlen(text);

	while (left > 0) {
		ssize_t n = send(fd, text, left, MSG_NOSIGNAL | MSG_DONTWAIT);

		if (n > 0) {
			text += n;
			left -= (size_t)n;
		} else if (n < 0 && errno == EAGAIN) {
			if (wait_for(fd, POLLOUT, deadline, err) != 0)
				return -1;
		} else if (n < 0 && errno != EINTR) {
			return jsonrpc_fail(
				err, JSONRPC_UNAVAILABLE, "", "send: %s", strerror(errno));
		}
	}
	return 0;
}

struct awaited {
	unsigned long id;
	bool arrived;
	cJSON *result;
	struct jsonrpc_error err;
};

static void check_line(void *ctx, char *text)
{
	struct awaited *awaited = ctx;
	unsigned long id;
	cJSON *result;
	struct jsonrpc_error err;

	if (awaited->arrived || jsonrpc_parse_response(text, &id, &result, &err) != 0)
		return;
	if (id != awaited->id) {
		cJSON_Delete(result);
		return;
	}
	awaited->arrived = true;
	awaited->result = result;
	awaited->err = err;
}

/*
 * Reads up to the end of one line, never beyond it: the caller may give the same descriptor to the
 * next call, which must find the stream at the start of a line.
 */
static int read_line_part(int fd, struct jsonrpc_lines *lines, struct awaited *awaited)
{
	char chunk[READ_CHUNK];
	const char *newline;
	ssize_t n = recv(fd, chunk, sizeof(chunk), MSG_PEEK | MSG_DONTWAIT);

	if (n == 0) {
		errno = ECONNRESET;
		return -1;
	}
	if (n < 0)
		return errno == EAGAIN || errno == EINTR ? 0 : -1;
	newline = memchr(chunk, '\n', (size_t)n);
	n = recv(fd, chunk, newline != NULL ? (size_t)(newline - chunk) + 1 : (size_t)n,
		MSG_DONTWAIT);
	if (n < 0)
		return -1;
	errno = jsonrpc_lines_feed(lines, chunk, (size_t)n, check_line, awaited);
	return errno != 0 ? -1 : 0;
}

int jsonrpc_call(int fd, const char *method, const cJSON *params, int timeout_ms, cJSON **result,
	struct jsonrpc_error *err)
{
	static _Atomic unsigned long last_id;
	struct awaited awaited = {.id = ++last_id};
	struct jsonrpc_lines lines = {0};
	int64_t deadline = now_ms() + timeout_ms;
	char *text = jsonrpc_format_request(awaited.id, method, params);
	int status = -1;

	memset(err, 0, sizeof(*err));
	*result = NULL;
	if (text == NULL)
		return jsonrpc_fail(err, JSONRPC_INTERNAL_ERROR, "", "out of memory");
	if (send_all(fd, text, deadline, err) != 0)
		goto out;
	while (!awaited.arrived) {
		if (wait_for(fd, POLLIN, deadline, err) != 0)
			goto out;
		if (read_line_part(fd, &lines, &awaited) != 0) {
			jsonrpc_fail(err, JSONRPC_UNAVAILABLE, "", "connection lost: %s",
				strerror(errno));
			goto out;
		}
	}
	*result = awaited.result;
	*err = awaited.err;
	status = err->code != 0 ? -1 : 0;
out:
	free(text);
	jsonrpc_lines_free(&lines);
	return status;
}
