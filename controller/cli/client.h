/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef EDGEPLEX_CLI_CLIENT_H
#define EDGEPLEX_CLI_CLIENT_H

/*
 * HTTP to edgeplexd over its Unix socket (docs/api.md), with libcurl. Blocking; one thread per
 * client.
 */

#include <stdbool.h>
#include <cjson/cJSON.h>

#define CLIENT_DEFAULT_SOCKET "/run/edgeplex/edgeplexd.sock"

struct client;

/* `socket` is copied. Returns NULL if libcurl can't be used. */
struct client *client_new(const char *socket);
void client_free(struct client *client); /* accepts NULL */
const char *client_socket(const struct client *client);

enum client_result {
	CLIENT_ANSWERED,
	CLIENT_UNREACHABLE, /* no whole answer came; `why` tells what happened */
	CLIENT_ABORTED,     /* the waiter didn't want to wait any longer */
};

struct client_answer {
	int status;    /* of HTTP */
	cJSON *body;   /* NULL when there is none or it isn't JSON; the caller's */
	char why[512]; /* CLIENT_UNREACHABLE: what is wrong, in one line */
	char fix[512]; /* and what to do about it */
};

/* Called at least 4 times a second while an answer is awaited, and whenever `fd` is readable. */
struct client_waiter {
	int fd;                  /* -1: none */
	bool (*wait)(void *ctx); /* false: don't wait any longer */
	void *ctx;
};

/*
 * Sends a request; `path` begins with '/', its parts and query values made with client_escape().
 * `body` (may be NULL) stays the caller's, `waiter` may be NULL. An answer that begins within
 * `timeout_ms` is awaited.
 */
enum client_result client_request(struct client *client, const char *method, const char *path,
	const cJSON *body, int timeout_ms, const struct client_waiter *waiter,
	struct client_answer *answer);

/* Percent-encodes a part of a path or a query's value (RFC 3986); free() it. */
char *client_escape(const char *text);

#endif
