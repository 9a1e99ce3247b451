/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef EDGEPLEX_JSONRPC_H
#define EDGEPLEX_JSONRPC_H

/*
 * JSON-RPC 2.0 (https://www.jsonrpc.org/specification), one message per line. Server and client
 * speak it over Unix stream sockets; the framing functions below serve any other byte stream.
 * Batches are not supported (refused with JSONRPC_INVALID_REQUEST). A line longer than
 * JSONRPC_MAX_LINE ends the connection.
 *
 * Nothing here is thread-safe: use an object from one thread only.
 */

#include <stdbool.h>
#include <stddef.h>
#include <cjson/cJSON.h>

#define JSONRPC_MAX_LINE (4u << 20) /* bytes, newline included */

/* Error codes: those of the specification, then ours. */
enum jsonrpc_code {
	JSONRPC_PARSE_ERROR = -32700,
	JSONRPC_INVALID_REQUEST = -32600,
	JSONRPC_METHOD_NOT_FOUND = -32601,
	JSONRPC_INVALID_PARAMS = -32602, /* data.field names the parameter (JSON pointer) */
	JSONRPC_INTERNAL_ERROR = -32603,
	JSONRPC_UNAVAILABLE = -32000, /* the program behind this method is not running */
	JSONRPC_CONFLICT = -32001,    /* right in form, but not possible in the present state */
	JSONRPC_NOT_FOUND = -32002,   /* the named object doesn't exist */
};

struct jsonrpc_error {
	int code;          /* 0: no error */
	char message[256]; /* what is wrong and what would be right */
	char field[128];   /* JSON pointer of the wrong parameter, or "" */
};

/* Fills `err`; returns -1, so that a handler can `return jsonrpc_fail(err, ...)`. */
__attribute__((format(printf, 4, 5))) int jsonrpc_fail(
	struct jsonrpc_error *err, int code, const char *field, const char *fmt, ...);

/*
 * Serves one method. `params` is an object (never NULL; empty if the request had none) and stays
 * the caller's. On success stores a new value in `*result` (NULL is sent as null) and returns 0;
 * on failure fills `err` and returns -1.
 */
typedef int (*jsonrpc_handler)(void *ctx, const char *method, const cJSON *params, cJSON **result,
	struct jsonrpc_error *err);

/* ---- server ------------------------------------------------------------------------------ */

struct jsonrpc_server;

/*
 * Creates a server without any connection. `handler` gets every request; it answers
 * jsonrpc_fail(err, JSONRPC_METHOD_NOT_FOUND, ...) for methods it doesn't know.
 * Returns NULL with errno set when resources ran out.
 */
struct jsonrpc_server *jsonrpc_server_create(jsonrpc_handler handler, void *ctx);

/* Listens on a Unix stream socket with mode 0600, replacing a stale one. Returns 0 or errno. */
int jsonrpc_server_listen_unix(struct jsonrpc_server *server, const char *path);

/* A descriptor that polls readable when jsonrpc_server_run() has something to do. */
int jsonrpc_server_fd(const struct jsonrpc_server *server);

/* Does what can be done without blocking. Call when jsonrpc_server_fd() is readable. */
void jsonrpc_server_run(struct jsonrpc_server *server);

/* Sends a notification (no id) to every connection. `params` stays the caller's. */
void jsonrpc_server_notify(struct jsonrpc_server *server, const char *method, const cJSON *params);

/* Closes everything, removes the socket's file. Accepts NULL. */
void jsonrpc_server_destroy(struct jsonrpc_server *server);

/* ---- client ------------------------------------------------------------------------------ */

/*
 * Calls `method` on a connected stream and waits for its answer; notifications and answers to
 * older, timed-out calls that arrive meanwhile are dropped. `params` (may be NULL) stays the
 * caller's; `*result` becomes the caller's. `timeout_ms` bounds the whole call.
 * Returns 0; on failure -1 with `err` filled: an error answer as it came, or code
 * JSONRPC_UNAVAILABLE when the stream broke or timed out (then close `fd`: it may be out of step).
 */
int jsonrpc_call(int fd, const char *method, const cJSON *params, int timeout_ms, cJSON **result,
	struct jsonrpc_error *err);

/* Connects to a Unix socket. Returns a descriptor, or -1 with errno. */
int jsonrpc_connect_unix(const char *path);

/* ---- framing, for streams that are neither (libvirt's) ------------------------------------- */

/* Cuts a byte stream into lines. */
struct jsonrpc_lines {
	char *buf;
	size_t len, size;
	bool skipping; /* inside a line that was too long */
};

/*
 * Appends `n` bytes, then calls `line` for each whole line (NUL-terminated, without newline).
 * Returns 0, ENOMEM, or EMSGSIZE when a line over JSONRPC_MAX_LINE was dropped (the rest goes on).
 */
int jsonrpc_lines_feed(struct jsonrpc_lines *lines, const void *data, size_t n,
	void (*line)(void *ctx, char *text), void *ctx);
void jsonrpc_lines_free(struct jsonrpc_lines *lines);

/* The text of a request, newline included; free() it. NULL when memory ran out. */
char *jsonrpc_format_request(unsigned long id, const char *method, const cJSON *params);

/*
 * Reads one answer. Returns 0 (then `*id` and either `*result` or `err` are set), or EBADMSG when
 * the line is not an answer.
 */
int jsonrpc_parse_response(
	const char *line, unsigned long *id, cJSON **result, struct jsonrpc_error *err);

#endif
