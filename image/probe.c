/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "image/probe.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/icmp6.h>
#include <netinet/in.h>
#include <netinet/ip_icmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>
#include <cjson/cJSON.h>

#include "common/jsonrpc.h"

#define MAX_ID 64
#define DEFAULT_MS 1000
/* Groups that may open ICMP sockets; none, by default. */
#define GROUPS "/proc/sys/net/ipv4/ping_group_range"

struct probe {
	int fd; /* -1: a free entry */
	int family;
	char id[MAX_ID + 1];
	char address[INET6_ADDRSTRLEN];
	int timeout_ms;
	int64_t begun_us;
};

struct probes {
	probe_answer_fn answer;
	void *ctx;
	int epoll_fd, timer_fd;
	struct probe probes[PROBES_MAX];
};

static int64_t now_us(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64_t)now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

static int64_t due_us(const struct probe *probe)
{
	return probe->begun_us + (int64_t)probe->timeout_ms * 1000;
}

/* ---- answers ------------------------------------------------------------------------------- */

__attribute__((format(printf, 5, 6))) static void fail(const struct probes *probes, const char *id,
	int code, const char *field, const char *fmt, ...)
{
	char line[512],
		text[256]; /* of addresses, numbers and plain words: no escapes are needed */
	va_list args;
	int n;

	va_start(args, fmt);
	vsnprintf(text, sizeof(text), fmt, args);
	va_end(args);
	n = snprintf(line, sizeof(line),
		"{\"jsonrpc\":\"2.0\",\"id\":%s,\"error\":{\"code\":%d,\"message\":\"%s\"%s%s%s}}"
		"\n",
		id, code, text, field ? ",\"data\":{\"field\":\"" : "", field ? field : "",
		field ? "\"}" : "");
	probes->answer(probes->ctx, line, (size_t)n);
}

static void end(struct probe *probe)
{
	if (probe->fd >= 0)
		close(probe->fd); /* which also takes it from the epoll set */
	probe->fd = -1;
}

static void succeed(const struct probes *probes, struct probe *probe)
{
	char line[256];
	int n = snprintf(line, sizeof(line),
		"{\"jsonrpc\":\"2.0\",\"id\":%s,\"result\":{\"rtt_us\":%lld}}\n", probe->id,
		(long long)(now_us() - probe->begun_us));

	probes->answer(probes->ctx, line, (size_t)n);
	end(probe);
}

static void fail_unreachable(const struct probes *probes, struct probe *probe, int error)
{
	fail(probes, probe->id, JSONRPC_CONFLICT, NULL, "%s can't be reached: %s", probe->address,
		strerror(error));
	end(probe);
}

/* ---- waiting ------------------------------------------------------------------------------- */

static void arm_timer(const struct probes *probes)
{
	struct itimerspec timer = {0};
	int64_t next = INT64_MAX;

	for (size_t i = 0; i < PROBES_MAX; i++) {
		const struct probe *probe = &probes->probes[i];

		if (probe->fd >= 0 && due_us(probe) < next)
			next = due_us(probe);
	}
	if (next != INT64_MAX) {
		timer.it_value.tv_sec = next / 1000000;
		timer.it_value.tv_nsec = next % 1000000 * 1000;
	}
	timerfd_settime(probes->timer_fd, TFD_TIMER_ABSTIME, &timer, NULL);
}

static bool is_reply(const struct probe *probe, const uint8_t *packet, ssize_t n)
{
	return n >= (ssize_t)sizeof(struct icmphdr) &&
	       packet[0] == (probe->family == AF_INET ? ICMP_ECHOREPLY : ICMP6_ECHO_REPLY);
}

static void serve(const struct probes *probes, struct probe *probe, uint32_t events)
{
	uint8_t packet[256];
	ssize_t n = recv(probe->fd, packet, sizeof(packet), 0);

	if (n >= 0) {
		if (is_reply(probe, packet, n))
			succeed(probes, probe);
	} else if (errno != EAGAIN && errno != EINTR) {
		fail_unreachable(probes, probe, errno);
	} else if (events & EPOLLERR) {
		fail_unreachable(probes, probe, EHOSTUNREACH);
	}
}

static void end_overdue(struct probes *probes)
{
	uint64_t expirations;
	int64_t now;

	if (read(probes->timer_fd, &expirations, sizeof(expirations)) < 0)
		return;
	now = now_us();
	for (size_t i = 0; i < PROBES_MAX; i++) {
		struct probe *probe = &probes->probes[i];

		if (probe->fd < 0 || due_us(probe) > now)
			continue;
		fail(probes, probe->id, JSONRPC_CONFLICT, NULL, "%s didn't answer within %d ms",
			probe->address, probe->timeout_ms);
		end(probe);
	}
}

void probes_run(struct probes *probes)
{
	struct epoll_event events[PROBES_MAX + 1];
	int n = epoll_wait(probes->epoll_fd, events, PROBES_MAX + 1, 0);

	/* Answers before time limits: both may have come. */
	for (int i = 0; i < n; i++) {
		struct probe *probe = events[i].data.ptr;

		if (probe != NULL && probe->fd >= 0)
			serve(probes, probe, events[i].events);
	}
	end_overdue(probes);
	arm_timer(probes);
}

/* ---- beginning ----------------------------------------------------------------------------- */

/* Parses what may be probed: one machine. Returns the address's size, or 0. */
static socklen_t parse_address(const char *text, struct sockaddr_storage *to)
{
	struct sockaddr_in *v4 = (struct sockaddr_in *)to;
	struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)to;

	memset(to, 0, sizeof(*to));
	if (text != NULL && inet_pton(AF_INET, text, &v4->sin_addr) == 1) {
		uint32_t number = ntohl(v4->sin_addr.s_addr);

		v4->sin_family = AF_INET;
		return number == INADDR_ANY || number >= 0xe0000000 ? 0 : sizeof(*v4);
	}
	if (text != NULL && inet_pton(AF_INET6, text, &v6->sin6_addr) == 1) {
		v6->sin6_family = AF_INET6;
		return IN6_IS_ADDR_UNSPECIFIED(&v6->sin6_addr) ||
				       IN6_IS_ADDR_MULTICAST(&v6->sin6_addr) ||
				       IN6_IS_ADDR_LINKLOCAL(&v6->sin6_addr)
			       ? 0
			       : sizeof(*v6);
	}
	return 0;
}

static void allow_icmp_sockets(void)
{
	int fd = open(GROUPS, O_WRONLY | O_CLOEXEC);

	/* What goes wrong is seen when the socket is opened. */
	if (fd < 0)
		return;
	if (write(fd, "0 0", 3) != 3) {
		close(fd);
		return;
	}
	close(fd);
}

/* Opens the socket and sends the request. Returns 0 or errno. */
static int launch(
	struct probes *probes, struct probe *probe, const struct sockaddr *to, socklen_t to_size)
{
	bool v4 = to->sa_family == AF_INET;
	struct icmphdr request = {.type = v4 ? ICMP_ECHO : ICMP6_ECHO_REQUEST};
	struct epoll_event event = {.events = EPOLLIN, .data.ptr = probe};
	int on = 1, error = 0;

	request.un.echo.sequence = htons(1);
	probe->family = to->sa_family;
	probe->fd = socket(to->sa_family, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK,
		v4 ? IPPROTO_ICMP : (int)IPPROTO_ICMPV6);
	if (probe->fd < 0)
		return errno;
	/* Errors that come back by ICMP, or from ARP, are to be told. */
	setsockopt(probe->fd, v4 ? IPPROTO_IP : IPPROTO_IPV6, v4 ? IP_RECVERR : IPV6_RECVERR, &on,
		sizeof(on));
	probe->begun_us = now_us();
	/* The kernel chooses the identifier and fills in the checksum. */
	if (connect(probe->fd, to, to_size) < 0 ||
		epoll_ctl(probes->epoll_fd, EPOLL_CTL_ADD, probe->fd, &event) < 0 ||
		send(probe->fd, &request, sizeof(request), 0) < 0)
		error = errno;
	return error;
}

static void begin(struct probes *probes, const cJSON *params, const char *id)
{
	const cJSON *address = cJSON_GetObjectItemCaseSensitive(params, "address");
	const cJSON *timeout = cJSON_GetObjectItemCaseSensitive(params, "timeout_ms");
	struct sockaddr_storage to;
	socklen_t to_size = parse_address(cJSON_GetStringValue(address), &to);
	struct probe *probe = NULL;
	int error;

	for (size_t i = 0; i < PROBES_MAX && probe == NULL; i++) {
		if (probes->probes[i].fd < 0)
			probe = &probes->probes[i];
	}
	if (to_size == 0) {
		fail(probes, id, JSONRPC_INVALID_PARAMS, "/address",
			"must be the IPv4 or IPv6 address of one machine");
	} else if (timeout != NULL && (!cJSON_IsNumber(timeout) || !(timeout->valuedouble >= 1) ||
					      timeout->valuedouble > PROBE_MAX_MS)) {
		fail(probes, id, JSONRPC_INVALID_PARAMS, "/timeout_ms",
			"must be a number of 1 to %d", PROBE_MAX_MS);
	} else if (probe == NULL) {
		fail(probes, id, JSONRPC_CONFLICT, NULL,
			"%d probes are under way: wait for their answers", PROBES_MAX);
	} else {
		snprintf(probe->id, sizeof(probe->id), "%s", id);
		snprintf(probe->address, sizeof(probe->address), "%s", address->valuestring);
		probe->timeout_ms = timeout != NULL ? (int)timeout->valuedouble : DEFAULT_MS;
		error = launch(probes, probe, (const struct sockaddr *)&to, to_size);
		if (error != 0)
			fail_unreachable(probes, probe, error);
		arm_timer(probes);
	}
}

void probes_begin(struct probes *probes, const char *line, const char *id)
{
	cJSON *request = cJSON_Parse(line);

	begin(probes, cJSON_GetObjectItemCaseSensitive(request, "params"), id);
	cJSON_Delete(request);
}

/* ---- set-up -------------------------------------------------------------------------------- */

struct probes *probes_create(probe_answer_fn answer, void *ctx)
{
	struct probes *probes = calloc(1, sizeof(*probes));
	struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL};

	if (probes == NULL)
		return NULL;
	probes->answer = answer;
	probes->ctx = ctx;
	for (size_t i = 0; i < PROBES_MAX; i++)
		probes->probes[i].fd = -1;
	probes->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	probes->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	if (probes->epoll_fd < 0 || probes->timer_fd < 0 ||
		epoll_ctl(probes->epoll_fd, EPOLL_CTL_ADD, probes->timer_fd, &event) < 0) {
		free(probes); /* the agent ends, and its descriptors with it */
		return NULL;
	}
	allow_icmp_sockets();
	return probes;
}

int probes_fd(const struct probes *probes)
{
	return probes->epoll_fd;
}

void probes_forget(struct probes *probes)
{
	for (size_t i = 0; i < PROBES_MAX; i++)
		end(&probes->probes[i]);
	arm_timer(probes);
}
