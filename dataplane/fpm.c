/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "dataplane/fpm.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/timerfd.h>
#include <sys/un.h>

#include "common/fib_msg.h"
#include "common/log.h"
#include "dataplane/routes.h"

#define READ_SIZE (256u << 10)

struct fpm {
	struct routes *routes;
	uint64_t stale_ms;
	int epoll_fd, listen_fd, peer_fd, timer_fd;
	bool complete;
	size_t n; /* bytes in `buf` */
	char path[sizeof(((struct sockaddr_un *)0)->sun_path)];
	char buf[READ_SIZE];
};

static int watch(struct fpm *fpm, int fd)
{
	struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};

	return epoll_ctl(fpm->epoll_fd, EPOLL_CTL_ADD, fd, &event);
}

static int listen_on(const char *path)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	mode_t mask;
	int fd, error;

	if (strlen(path) >= sizeof(addr.sun_path)) {
		errno = ENAMETOOLONG;
		return -1;
	}
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -1;
	snprintf(addr.sun_path, sizeof(addr.sun_path), "%s", path);
	unlink(path);
	/* The mode must hold from the first instant: set it by umask, not by a later chmod. */
	mask = umask(0177);
	error = bind(fd, (struct sockaddr *)&addr, sizeof(addr)) < 0 ? errno : 0;
	umask(mask);
	if (error == 0 && listen(fd, 4) < 0)
		error = errno;
	if (error != 0) {
		close(fd);
		errno = error;
		return -1;
	}
	return fd;
}

struct fpm *fpm_create(const char *path, struct routes *routes, uint64_t stale_ms)
{
	struct fpm *fpm = calloc(1, sizeof(*fpm));
	int error;

	if (!fpm)
		return NULL;
	fpm->routes = routes;
	fpm->stale_ms = stale_ms;
	fpm->peer_fd = fpm->timer_fd = -1;
	fpm->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	fpm->listen_fd = listen_on(path);
	if (fpm->listen_fd >= 0)
		snprintf(fpm->path, sizeof(fpm->path), "%s", path);
	fpm->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
	if (fpm->epoll_fd >= 0 && fpm->listen_fd >= 0 && fpm->timer_fd >= 0 &&
		watch(fpm, fpm->listen_fd) == 0 && watch(fpm, fpm->timer_fd) == 0)
		return fpm;
	error = errno;
	log_error("can't listen for routes on path=%s: %s; is its directory there?", path,
		strerror(error));
	fpm_destroy(fpm);
	errno = error;
	return NULL;
}

void fpm_destroy(struct fpm *fpm)
{
	if (!fpm)
		return;
	if (fpm->path[0])
		unlink(fpm->path);
	if (fpm->listen_fd >= 0)
		close(fpm->listen_fd);
	if (fpm->peer_fd >= 0)
		close(fpm->peer_fd);
	if (fpm->timer_fd >= 0)
		close(fpm->timer_fd);
	if (fpm->epoll_fd >= 0)
		close(fpm->epoll_fd);
	free(fpm);
}

int fpm_fd(const struct fpm *fpm)
{
	return fpm->epoll_fd;
}

bool fpm_connected(const struct fpm *fpm)
{
	return fpm->peer_fd >= 0;
}

bool fpm_complete(const struct fpm *fpm)
{
	return fpm->complete;
}

static void set_timer(struct fpm *fpm, uint64_t ms)
{
	struct itimerspec when = {
		.it_value.tv_sec = (time_t)(ms / 1000),
		.it_value.tv_nsec = (long)(ms % 1000) * 1000000,
	};

	timerfd_settime(fpm->timer_fd, 0, &when, NULL);
}

static void disconnect(struct fpm *fpm)
{
	if (fpm->peer_fd < 0)
		return;
	close(fpm->peer_fd);
	fpm->peer_fd = -1;
	fpm->n = 0;
	fpm->complete = false;
	set_timer(fpm, 0);
}

static void accept_peer(struct fpm *fpm)
{
	int fd = accept4(fpm->listen_fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);

	if (fd < 0)
		return;
	if (fpm->peer_fd >= 0)
		log_info("a new peer on the FIB socket replaces the old one");
	disconnect(fpm);
	if (watch(fpm, fd) < 0) {
		log_error("can't take a peer on the FIB socket: %s", strerror(errno));
		close(fd);
		return;
	}
	fpm->peer_fd = fd;
	routes_mark_stale(fpm->routes);
	set_timer(fpm, fpm->stale_ms > 0 ? fpm->stale_ms : 1);
	log_info("peer connected to the FIB socket stale=%zu", routes_count(fpm->routes).stale);
}

static void sweep(struct fpm *fpm, const char *why)
{
	size_t n = routes_sweep(fpm->routes);

	set_timer(fpm, 0);
	if (n > 0)
		log_info("removed stale routes n=%zu because=\"%s\"", n, why);
}

/* Returns whether the connection may go on. */
static bool take_frame(struct fpm *fpm, const char *frame, size_t n)
{
	struct fib_route route;
	enum fib_msg_op op;
	const char *why;

	if (fib_msg_decode(frame, n, &op, &route, &why) < 0) {
		log_error("closing the FIB socket's connection: %s", why);
		return false;
	}
	if (op == FIB_IGNORED)
		return true;
	if (op == FIB_END) {
		sweep(fpm, "end of table");
		fpm->complete = true;
		log_info("the FIB is complete ipv4=%zu ipv6=%zu mpls=%zu",
			routes_count(fpm->routes).ipv4, routes_count(fpm->routes).ipv6,
			routes_count(fpm->routes).mpls);
		return true;
	}
	if (routes_apply(fpm->routes, op, &route) != 0) {
		/* The peer connects again and repeats everything: better than a hole in the table.
		 */
		log_error("closing the FIB socket's connection: no memory for a route; "
			  "give the machine more memory or filter routes");
		return false;
	}
	return true;
}

static void read_peer(struct fpm *fpm)
{
	ssize_t got = read(fpm->peer_fd, fpm->buf + fpm->n, sizeof(fpm->buf) - fpm->n);
	size_t at = 0;

	if (got < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (got <= 0) {
		log_info("peer left the FIB socket, its routes stay");
		disconnect(fpm);
		return;
	}
	fpm->n += (size_t)got;
	for (;;) {
		int length = fib_msg_frame_len(fpm->buf + at, fpm->n - at);

		if (length < 0) {
			log_error("closing the FIB socket's connection: not an FPM header");
			disconnect(fpm);
			return;
		}
		if (length == 0 || (size_t)length > fpm->n - at)
			break;
		if (!take_frame(fpm, fpm->buf + at, (size_t)length)) {
			disconnect(fpm);
			return;
		}
		at += (size_t)length;
	}
	memmove(fpm->buf, fpm->buf + at, fpm->n - at);
	fpm->n -= at;
}

void fpm_run(struct fpm *fpm)
{
	struct epoll_event events[4];
	int n = epoll_wait(fpm->epoll_fd, events, 4, 0);
	uint64_t ticks;

	for (int i = 0; i < n; i++) {
		int fd = events[i].data.fd;

		if (fd == fpm->listen_fd)
			accept_peer(fpm);
		else if (fd == fpm->timer_fd && read(fd, &ticks, sizeof(ticks)) > 0)
			sweep(fpm, "stale time over");
		else if (fd == fpm->peer_fd)
			read_peer(fpm);
	}
}
