/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "controller/cli/client.h"

#include <ctype.h>
#include <curl/curl.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "controller/cli/mem.h"

#define CONNECT_TIMEOUT_MS 5000
#define MAX_ANSWER (64u << 20) /* bytes */
#define TICK_MS 250

struct client {
	CURL *curl;
	CURLM *multi;
	char *socket;
	char error[CURL_ERROR_SIZE];
};

struct client *client_new(const char *socket)
{
	struct client *client;

	if (curl_global_init(CURL_GLOBAL_NOTHING) != CURLE_OK)
		return NULL;
	client = mem_alloc(sizeof(*client));
	client->socket = mem_strdup(socket);
	client->curl = curl_easy_init();
	client->multi = curl_multi_init();
	if (!client->curl || !client->multi) {
		client_free(client);
		return NULL;
	}
	return client;
}

void client_free(struct client *client)
{
	if (!client)
		return;
	curl_easy_cleanup(client->curl);
	curl_multi_cleanup(client->multi);
	curl_global_cleanup();
	free(client->socket);
	free(client);
}

const char *client_socket(const struct client *client)
{
	return client->socket;
}

char *client_escape(const char *text)
{
	struct mem_stream stream;

	mem_stream_open(&stream);
	for (; *text; text++) {
		unsigned char c = (unsigned char)*text;

		if (isascii(c) && (isalnum(c) || strchr("-._~", c)))
			fputc(c, stream.file);
		else
			fprintf(stream.file, "%%%02X", c);
	}
	return mem_text(&stream);
}

/* ---- one transfer -------------------------------------------------------------------------- */

struct received {
	char *data;
	size_t len, room;
	bool too_long;
};

static size_t receive(char *data, size_t size, size_t n, void *ctx)
{
	struct received *received = ctx;

	n *= size;
	if (n > MAX_ANSWER - received->len) {
		received->too_long = true;
		return 0;
	}
	if (received->len + n > received->room) {
		received->room = 2 * (received->len + n);
		received->data = mem_grow(received->data, received->room);
	}
	memcpy(received->data + received->len, data, n);
	received->len += n;
	return n;
}

/* Why can't the socket be connected to? Returns an errno, 0 if it can. */
static int try_connect(const char *path)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	int fd, error = 0;

	if (strlen(path) >= sizeof(address.sun_path))
		return ENAMETOOLONG;
	memcpy(address.sun_path, path, strlen(path) + 1);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return errno;
	if (connect(fd, (struct sockaddr *)&address, sizeof(address)) != 0)
		error = errno;
	close(fd);
	return error;
}

static void explain(
	const struct client *client, CURLcode code, bool too_long, struct client_answer *answer)
{
	const char *path = client->socket;
	int error = try_connect(path);
	char *what = NULL;

	if (code == CURLE_OPERATION_TIMEDOUT) {
		what = mem_strdup("it took the request, but didn't answer in time");
		error = 0;
	} else if (too_long) {
		what = mem_strdup("its answer is longer than this program takes");
		error = 0;
	} else if (error) {
		what = mem_strdup(strerror(error));
	} else {
		what = mem_strdup(*client->error ? client->error : curl_easy_strerror(code));
	}
	snprintf(
		answer->why, sizeof(answer->why), "no answer from edgeplexd at %s: %s", path, what);
	free(what);
	switch (error) {
	case ENOENT:
	case ECONNREFUSED:
		snprintf(answer->fix, sizeof(answer->fix),
			"start edgeplexd (as root: edgeplexd --socket %s), or name the socket of "
			"the "
			"running one with --socket or EDGEPLEX_SOCKET",
			path);
		break;
	case EACCES:
	case EPERM:
		snprintf(answer->fix, sizeof(answer->fix),
			"who may open the socket may do everything: run this as root, or as a "
			"member "
			"of the group that owns it (ls -l %s)",
			path);
		break;
	case ENAMETOOLONG:
		snprintf(answer->fix, sizeof(answer->fix),
			"name a socket by a path of at most %zu characters",
			sizeof(((struct sockaddr_un *)0)->sun_path) - 1);
		break;
	default:
		snprintf(answer->fix, sizeof(answer->fix),
			"check that it is edgeplexd that listens there, and read its log");
		break;
	}
}

static void prepare(struct client *client, const char *method, const char *url, const char *body,
	struct curl_slist *headers, int timeout_ms, struct received *received)
{
	CURL *curl = client->curl;

	curl_easy_reset(curl); /* keeps the connection */
	client->error[0] = '\0';
	curl_easy_setopt(curl, CURLOPT_UNIX_SOCKET_PATH, client->socket);
	curl_easy_setopt(curl, CURLOPT_PROXY, ""); /* whatever the environment says */
	curl_easy_setopt(curl, CURLOPT_PROTOCOLS_STR, "http");
	curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
	curl_easy_setopt(curl, CURLOPT_URL, url);
	curl_easy_setopt(curl, CURLOPT_PATH_AS_IS, 1L);
	curl_easy_setopt(curl, CURLOPT_CUSTOMREQUEST, method);
	curl_easy_setopt(curl, CURLOPT_HTTPHEADER, headers);
	if (body)
		curl_easy_setopt(curl, CURLOPT_POSTFIELDS, body);
	curl_easy_setopt(curl, CURLOPT_CONNECTTIMEOUT_MS, (long)CONNECT_TIMEOUT_MS);
	curl_easy_setopt(curl, CURLOPT_TIMEOUT_MS, (long)timeout_ms);
	curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, receive);
	curl_easy_setopt(curl, CURLOPT_WRITEDATA, received);
	curl_easy_setopt(curl, CURLOPT_ERRORBUFFER, client->error);
	curl_easy_setopt(curl, CURLOPT_USERAGENT, "edgeplex");
}

/* Runs the prepared transfer. False: the waiter had enough. */
static bool transfer(struct client *client, const struct client_waiter *waiter, CURLcode *code)
{
	struct curl_waitfd fd = {.fd = waiter ? waiter->fd : -1, .events = CURL_WAIT_POLLIN};
	int running = 1, left;
	CURLMsg *message;

	*code = CURLE_FAILED_INIT;
	for (;;) {
		if (curl_multi_perform(client->multi, &running) != CURLM_OK)
			return true;
		if (running == 0)
			break;
		if (waiter && !waiter->wait(waiter->ctx))
			return false;
		if (curl_multi_poll(client->multi, fd.fd >= 0 ? &fd : NULL, fd.fd >= 0, TICK_MS,
			    NULL) != CURLM_OK)
			return true;
	}
	while ((message = curl_multi_info_read(client->multi, &left))) {
		if (message->msg == CURLMSG_DONE)
			*code = message->data.result;
	}
	return true;
}

enum client_result client_request(struct client *client, const char *method, const char *path,
	const cJSON *body, int timeout_ms, const struct client_waiter *waiter,
	struct client_answer *answer)
{
	char *url = mem_printf("http://edgeplexd%s", path);
	char *text = body ? mem_check(cJSON_PrintUnformatted(body)) : NULL;
	struct curl_slist *headers = mem_check(
		curl_slist_append(NULL, "Accept: application/json, application/problem+json"));
	struct received received = {0};
	enum client_result result = CLIENT_ANSWERED;
	CURLcode code;
	long status = 0;

	*answer = (struct client_answer){0};
	if (text)
		mem_check(curl_slist_append(headers, "Content-Type: application/json"));
	prepare(client, method, url, text, headers, timeout_ms, &received);
	curl_multi_add_handle(client->multi, client->curl);
	if (!transfer(client, waiter, &code)) {
		result = CLIENT_ABORTED;
	} else if (code != CURLE_OK) {
		explain(client, code, received.too_long, answer);
		result = CLIENT_UNREACHABLE;
	} else {
		curl_easy_getinfo(client->curl, CURLINFO_RESPONSE_CODE, &status);
		answer->status = (int)status;
		if (received.len > 0)
			answer->body = cJSON_ParseWithLength(received.data, received.len);
	}
	curl_multi_remove_handle(client->multi, client->curl);
	curl_slist_free_all(headers);
	cJSON_free(text);
	free(received.data);
	free(url);
	return result;
}
