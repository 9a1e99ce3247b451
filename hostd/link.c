/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "hostd/link.h"

#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>
#include <openssl/err.h>
#include <openssl/ssl.h>

#include "hostd/bytes.h"

struct link_keys {
	SSL_CTX *server, *client;
};

struct link {
	int fd;
	SSL *ssl;
	size_t have; /* bytes in `in` */
	uint8_t in[FRAME_HEADER + FRAME_MAX_PAYLOAD];
	uint8_t out[FRAME_HEADER + FRAME_MAX_PAYLOAD];
	char why[256];
};

static int64_t now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

/* ---- certificates ------------------------------------------------------------------------ */

static SSL_CTX *make_context(const SSL_METHOD *method, const char *cert, const char *key,
	const char *ca, const char **wrong)
{
	SSL_CTX *ctx = SSL_CTX_new(method);

	*wrong = "memory";
	if (ctx == NULL)
		return NULL;
	SSL_CTX_set_min_proto_version(ctx, TLS1_3_VERSION);
	SSL_CTX_set_verify(ctx, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, NULL);
	SSL_CTX_set_mode(ctx, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
	/* No session is ever resumed: each connection shows certificates. */
	SSL_CTX_set_num_tickets(ctx, 0);
	SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_OFF);
	if (SSL_CTX_use_certificate_chain_file(ctx, cert) != 1)
		*wrong = cert;
	else if (SSL_CTX_use_PrivateKey_file(ctx, key, SSL_FILETYPE_PEM) != 1 ||
		 SSL_CTX_check_private_key(ctx) != 1)
		*wrong = key;
	else if (SSL_CTX_load_verify_locations(ctx, ca, NULL) != 1)
		*wrong = ca;
	else
		return ctx;
	SSL_CTX_free(ctx);
	return NULL;
}

static void tls_reason(char *text, size_t size)
{
	unsigned long code = ERR_peek_last_error();
	const char *reason = code != 0 ? ERR_reason_error_string(code) : NULL;

	snprintf(text, size, "%s", reason != NULL ? reason : "unreadable");
	ERR_clear_error();
}

int link_keys_load(const char *cert_path, const char *key_path, const char *ca_path,
	struct link_keys **out, char why[256])
{
	struct link_keys *keys = calloc(1, sizeof(*keys));
	const char *wrong = "memory";

	if (keys != NULL)
		keys->server =
			make_context(TLS_server_method(), cert_path, key_path, ca_path, &wrong);
	if (keys != NULL && keys->server != NULL)
		keys->client =
			make_context(TLS_client_method(), cert_path, key_path, ca_path, &wrong);
	if (keys == NULL || keys->client == NULL) {
		char reason[100];

		tls_reason(reason, sizeof(reason));
		snprintf(why, 256, "%.140s: %s", wrong, reason);
		link_keys_free(keys);
		return EINVAL;
	}
	*out = keys;
	return 0;
}

void link_keys_free(struct link_keys *keys)
{
	if (keys == NULL)
		return;
	SSL_CTX_free(keys->server);
	SSL_CTX_free(keys->client);
	free(keys);
}

/* ---- sockets ----------------------------------------------------------------------------- */

/* Splits "HOST:PORT" and looks it up. Addresses only: a name server can't stop a move. */
static struct addrinfo *resolve(const char *address, bool passive, char why[256])
{
	struct addrinfo hints = {
		.ai_socktype = SOCK_STREAM,
		.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV | (passive ? AI_PASSIVE : 0),
	};
	struct addrinfo *list = NULL;
	const char *colon = strrchr(address, ':');
	char host[64];

	if (colon != NULL && (size_t)(colon - address) < sizeof(host)) {
		const char *begin = address;
		size_t n = (size_t)(colon - address);

		if (n >= 2 && begin[0] == '[' && begin[n - 1] == ']') {
			begin++;
			n -= 2;
		}
		memcpy(host, begin, n);
		host[n] = '\0';
		if (n > 0 && getaddrinfo(host, colon + 1, &hints, &list) == 0)
			return list;
	}
	snprintf(why, 256, "%.120s: not an ADDRESS:PORT (IPv6: [ADDRESS]:PORT)", address);
	errno = EINVAL;
	return NULL;
}

int link_listen(const char *address, char why[256])
{
	struct addrinfo *info = resolve(address, true, why);
	int on = 1, fd, error = 0;

	if (info == NULL)
		return -1;
	fd = socket(info->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) < 0 ||
		bind(fd, info->ai_addr, info->ai_addrlen) < 0 || listen(fd, 16) < 0)
		error = errno;
	freeaddrinfo(info);
	if (error != 0) {
		snprintf(why, 256, "%.120s: %s", address, strerror(error));
		if (fd >= 0)
			close(fd);
		errno = error;
		return -1;
	}
	return fd;
}

static int wait_for(int fd, short events, int64_t deadline)
{
	struct pollfd p = {.fd = fd, .events = events};
	int64_t left = deadline - now_ms();

	return poll(&p, 1, left > 0 ? (int)left : 0) > 0 ? 0 : ETIMEDOUT;
}

static int connect_socket(const char *address, int64_t deadline, int *out, char why[256])
{
	struct addrinfo *info = resolve(address, false, why);
	socklen_t length = sizeof(int);
	int fd, error = 0;

	if (info == NULL)
		return EINVAL;
	fd = socket(info->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0 || (connect(fd, info->ai_addr, info->ai_addrlen) < 0 && errno != EINPROGRESS))
		error = errno;
	freeaddrinfo(info);
	if (error == 0)
		error = wait_for(fd, POLLOUT, deadline);
	if (error == 0 && getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &length) < 0)
		error = errno;
	if (error != 0) {
		snprintf(why, 256, "hostd at %.120s: %s", address, strerror(error));
		if (fd >= 0)
			close(fd);
		return error;
	}
	*out = fd;
	return 0;
}

/* ---- TLS --------------------------------------------------------------------------------- */

/* What TLS said: 0 when the socket is ready to go on, else errno with link->why. */
static int go_on(struct link *link, int result, int64_t deadline)
{
	int error = SSL_get_error(link->ssl, result);
	long verified;

	if (error == SSL_ERROR_WANT_READ || error == SSL_ERROR_WANT_WRITE) {
		if (wait_for(link->fd, error == SSL_ERROR_WANT_READ ? POLLIN : POLLOUT, deadline) ==
			0)
			return 0;
		snprintf(link->why, sizeof(link->why), "the other hostd doesn't answer in time");
		return ETIMEDOUT;
	}
	verified = SSL_get_verify_result(link->ssl);
	if (error == SSL_ERROR_SSL && verified != X509_V_OK)
		snprintf(link->why, sizeof(link->why), "the other hostd's certificate: %s",
			X509_verify_cert_error_string(verified));
	else if (error == SSL_ERROR_SSL)
		tls_reason(link->why, sizeof(link->why));
	else
		snprintf(link->why, sizeof(link->why), "the other hostd closed the connection");
	ERR_clear_error();
	return ECONNRESET;
}

static int handshake(
	SSL_CTX *ctx, int fd, bool server, int64_t deadline, struct link **out, char why[256])
{
	struct link *link = calloc(1, sizeof(*link));
	int on = 1, flags = fcntl(fd, F_GETFL), error = 0, result;

	if (link == NULL) {
		close(fd);
		snprintf(why, 256, "out of memory");
		return ENOMEM;
	}
	link->fd = fd;
	link->ssl = SSL_new(ctx);
	if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0 ||
		setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on)) < 0)
		error = errno;
	if (link->ssl == NULL || SSL_set_fd(link->ssl, fd) != 1)
		error = ENOMEM;
	if (error != 0)
		snprintf(link->why, sizeof(link->why), "%s", strerror(error));
	ERR_clear_error();
	while (error == 0) {
		result = server ? SSL_accept(link->ssl) : SSL_connect(link->ssl);
		if (result == 1)
			break;
		error = go_on(link, result, deadline);
	}
	if (error != 0) {
		snprintf(why, 256, "%s", link->why);
		link_close(link);
		return error;
	}
	*out = link;
	return 0;
}

int link_connect(const struct link_keys *keys, const char *address, int timeout_ms,
	struct link **link, char why[256])
{
	int64_t deadline = now_ms() + timeout_ms;
	int fd = -1, error = connect_socket(address, deadline, &fd, why);

	if (error != 0)
		return error;
	return handshake(keys->client, fd, false, deadline, link, why);
}

int link_accept(
	const struct link_keys *keys, int fd, int timeout_ms, struct link **link, char why[256])
{
	return handshake(keys->server, fd, true, now_ms() + timeout_ms, link, why);
}

void link_close(struct link *link)
{
	if (link == NULL)
		return;
	SSL_free(link->ssl);
	close(link->fd);
	free(link);
}

int link_fd(const struct link *link)
{
	return link->fd;
}

bool link_pending(const struct link *link)
{
	return SSL_pending(link->ssl) > 0;
}

const char *link_why(const struct link *link)
{
	return link->why;
}

int link_send(struct link *link, const struct frame *frame, int timeout_ms)
{
	int64_t deadline = now_ms() + timeout_ms;
	size_t length = FRAME_HEADER + frame->length;
	const uint8_t *p = link->out;

	frame_put_header(frame, link->out);
	if (frame->length > 0)
		memcpy(link->out + FRAME_HEADER, frame->payload, frame->length);
	ERR_clear_error();
	while (length > 0) {
		int n = SSL_write(link->ssl, p, (int)length);

		if (n <= 0) {
			int error = go_on(link, n, deadline);

			if (error != 0)
				return error;
			continue;
		}
		p += n;
		length -= (size_t)n;
	}
	return 0;
}

int link_receive(struct link *link, struct frame *frame, int timeout_ms)
{
	int64_t deadline = now_ms() + timeout_ms;
	size_t want = FRAME_HEADER;

	ERR_clear_error();
	for (;;) {
		int n;

		if (link->have >= FRAME_HEADER) {
			if (frame_get_header(link->in, frame) != 0) {
				snprintf(link->why, sizeof(link->why),
					"the other hostd speaks another protocol or version");
				return EBADMSG;
			}
			want = FRAME_HEADER + frame->length;
		}
		if (link->have == want) {
			link->have = 0;
			frame->payload = link->in + FRAME_HEADER;
			return 0;
		}
		n = SSL_read(link->ssl, link->in + link->have, (int)(want - link->have));
		if (n <= 0) {
			int error = go_on(link, n, deadline);

			if (error != 0)
				return error;
			continue;
		}
		link->have += (size_t)n;
	}
}

int link_greet(struct link *link, const uint8_t uuid[16], const uint8_t ticket[32], size_t n_pages,
	int timeout_ms, char why[256])
{
	uint8_t payload[32 + 8];
	struct frame frame = {.type = FRAME_HELLO, .length = sizeof(payload), .payload = payload};
	int error;

	memcpy(frame.uuid, uuid, sizeof(frame.uuid));
	memcpy(payload, ticket, 32);
	put_be64(payload + 32, (uint64_t)n_pages);
	error = link_send(link, &frame, timeout_ms);
	if (error == 0)
		error = link_receive(link, &frame, timeout_ms);
	if (error != 0) {
		snprintf(why, 256, "%s", link->why);
		return error;
	}
	if (frame.type == FRAME_WELCOME)
		return 0;
	if (frame.type == FRAME_DISCARD) {
		snprintf(why, 256, "%.*s", (int)(frame.length < 120 ? frame.length : 120),
			(const char *)frame.payload);
		return EACCES;
	}
	snprintf(why, 256, "it answers wrongly");
	return EPROTO;
}
