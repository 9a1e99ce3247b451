/* SPDX-License-Identifier: GPL-2.0-or-later */

#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <arpa/inet.h>
#include <sys/queue.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "common/bgp/bgp_host.h"
#include "common/bgp/prefix_map.h"
#include "common/log.h"
#include "pvm/fib_feed.h"

#define BUFFER_SIZE (256u << 10)
#define ROUTES_PER_TURN 1000 /* then BGP has its turn */
#define RETRY_MIN_MS 100
#define RETRY_MAX_MS 1000

struct fib_entry {
	struct prefix_entry entry; /* first */
	TAILQ_ENTRY(fib_entry) in_queue;
	bool queued;
	bool sent;     /* on this connection */
	uint32_t hash; /* of what was sent */
};

struct fib_feed {
	char path[sizeof(((struct sockaddr_un *)0)->sun_path)];
	fib_feed_resolver resolve;
	void *ctx;
	int fd;
	bool whole, end_sent, announced_failure;
	unsigned retry_ms;
	struct prefix_map map;
	TAILQ_HEAD(fib_queue, fib_entry) queue;
	size_t n_queued, n_sent;
	struct host_event *on_read, *on_write, *on_retry;
	uint8_t buffer[BUFFER_SIZE];
	size_t begin, end; /* bytes of the buffer that aren't written yet */
};

struct ep_prefix fib_feed_label_key(uint32_t label)
{
	struct ep_prefix key = {.family = AF_MPLS, .len = 20};

	label = htonl(label);
	memcpy(key.addr.bytes, &label, sizeof(label));
	return key;
}

static void enqueue(struct fib_feed *feed, struct fib_entry *e)
{
	if (e->queued)
		return;
	e->queued = true;
	feed->n_queued++;
	TAILQ_INSERT_TAIL(&feed->queue, e, in_queue);
}

static void dequeue(struct fib_feed *feed, struct fib_entry *e)
{
	if (!e->queued)
		return;
	e->queued = false;
	feed->n_queued--;
	TAILQ_REMOVE(&feed->queue, e, in_queue);
}

static void forget(struct fib_feed *feed, struct fib_entry *e)
{
	dequeue(feed, e);
	if (e->sent)
		feed->n_sent--;
	prefix_map_remove(&feed->map, &e->entry);
	free(e);
}

static void mark_unsent(void *ctx, struct prefix_entry *entry)
{
	struct fib_feed *feed = ctx;
	struct fib_entry *e = (struct fib_entry *)entry;

	e->sent = false;
	enqueue(feed, e);
}

static void disconnect(struct fib_feed *feed, const char *why)
{
	if (feed->fd < 0)
		return;
	log_warn("the forwarder's FIB socket is closed: %s; connecting again", why);
	host_event_cancel(feed->on_read);
	host_event_cancel(feed->on_write);
	close(feed->fd);
	feed->fd = -1;
	feed->begin = feed->end = 0;
	feed->n_sent = 0;
	feed->end_sent = false;
	prefix_map_each(&feed->map, mark_unsent, feed);
	feed->retry_ms = RETRY_MIN_MS;
	host_event_after(feed->on_retry, feed->retry_ms);
}

static uint32_t hash_bytes(const uint8_t *data, size_t n)
{
	uint32_t hash = 2166136261u;

	for (size_t i = 0; i < n; i++)
		hash = (hash ^ data[i]) * 16777619u;
	return hash;
}

static void set_destination(const struct ep_prefix *key, struct fib_route *route)
{
	uint32_t label;

	route->family = key->family;
	route->prefix_len = key->len;
	if (key->family == AF_MPLS) {
		memcpy(&label, key->addr.bytes, sizeof(label));
		route->dst.label = ntohl(label);
	} else if (key->family == AF_INET) {
		route->dst.v4 = key->addr.v4;
	} else {
		route->dst.v6 = key->addr.v6;
	}
}

/* Writes the message for one entry into the buffer, which has room, if there is anything to tell.
 */
static void encode(struct fib_feed *feed, struct fib_entry *e)
{
	static struct fib_route route; /* too big for a stack */
	uint8_t *at = feed->buffer + feed->end;
	bool exists;
	int n;

	memset(&route, 0, sizeof(route));
	exists = feed->resolve(feed->ctx, &e->entry.prefix, &route);
	if (!exists && !e->sent) {
		forget(feed, e);
		return;
	}
	set_destination(&e->entry.prefix, &route);
	n = fib_msg_encode(exists ? FIB_ADD : FIB_DELETE, &route, at, BUFFER_SIZE - feed->end);
	if (n < 0) {
		char text[EP_PREFIX_STRLEN];

		log_error("can't encode the route of %s: %s",
			e->entry.prefix.family == AF_MPLS
				? "a label"
				: ep_prefix_format(&e->entry.prefix, text),
			strerror(errno));
		return;
	}
	if (exists) {
		uint32_t hash = hash_bytes(at, n);

		/* Attributes changed that forwarding doesn't see. */
		if (e->sent && e->hash == hash)
			return;
		if (!e->sent)
			feed->n_sent++;
		e->sent = true;
		e->hash = hash;
		feed->end += n;
	} else {
		feed->end += n;
		forget(feed, e);
	}
}

static void fill(struct fib_feed *feed)
{
	struct fib_entry *e;
	int n;

	if (feed->begin) {
		memmove(feed->buffer, feed->buffer + feed->begin, feed->end - feed->begin);
		feed->end -= feed->begin;
		feed->begin = 0;
	}
	for (unsigned i = 0; i < ROUTES_PER_TURN && BUFFER_SIZE - feed->end >= FIB_MSG_MAX; i++) {
		e = TAILQ_FIRST(&feed->queue);
		if (!e)
			break;
		dequeue(feed, e);
		encode(feed, e);
	}
	if (!feed->n_queued && feed->whole && !feed->end_sent &&
		BUFFER_SIZE - feed->end >= FIB_MSG_MAX) {
		n = fib_msg_encode(
			FIB_END, NULL, feed->buffer + feed->end, BUFFER_SIZE - feed->end);
		if (n > 0) {
			feed->end += n;
			feed->end_sent = true;
			log_info("the forwarder has the whole FIB routes=%zu", feed->n_sent);
		}
	}
}

static void write_some(void *ctx)
{
	struct fib_feed *feed = ctx;
	ssize_t n;

	if (feed->fd < 0)
		return;
	fill(feed);
	if (feed->end > feed->begin) {
		n = send(feed->fd, feed->buffer + feed->begin, feed->end - feed->begin,
			MSG_NOSIGNAL | MSG_DONTWAIT);
		if (n < 0 && errno != EAGAIN && errno != EINTR) {
			disconnect(feed, strerror(errno));
			return;
		}
		if (n > 0)
			feed->begin += n;
	}
	if (feed->end > feed->begin || feed->n_queued || (feed->whole && !feed->end_sent))
		host_event_on_write(feed->on_write, feed->fd);
}

static void read_some(void *ctx)
{
	struct fib_feed *feed = ctx;
	char ignored[512];
	ssize_t n = recv(feed->fd, ignored, sizeof(ignored), MSG_DONTWAIT);

	/* The forwarder says nothing on this socket; what it may say one day is not for us. */
	if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR)) {
		disconnect(feed, n ? strerror(errno) : "the forwarder ended it");
		return;
	}
	host_event_on_read(feed->on_read, feed->fd);
}

static void connect_again(void *ctx)
{
	struct fib_feed *feed = ctx;
	struct sockaddr_un address = {.sun_family = AF_UNIX};

	snprintf(address.sun_path, sizeof(address.sun_path), "%s", feed->path);
	feed->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (feed->fd >= 0 && !connect(feed->fd, (struct sockaddr *)&address, sizeof(address))) {
		log_info(
			"connected to the forwarder socket=%s routes=%zu", feed->path, feed->map.n);
		feed->announced_failure = false;
		host_event_on_read(feed->on_read, feed->fd);
		host_event_on_write(feed->on_write, feed->fd);
		return;
	}
	if (!feed->announced_failure)
		log_warn("can't connect to the forwarder socket=%s error=\"%s\"; is edgeplex-fwd "
			 "running? Trying on",
			feed->path, strerror(errno));
	feed->announced_failure = true;
	if (feed->fd >= 0)
		close(feed->fd);
	feed->fd = -1;
	host_event_after(feed->on_retry, feed->retry_ms);
	if (feed->retry_ms < RETRY_MAX_MS)
		feed->retry_ms *= 2;
}

struct fib_feed *fib_feed_create(const char *path, fib_feed_resolver resolver, void *ctx)
{
	struct fib_feed *feed = calloc(1, sizeof(*feed));

	if (!feed || strlen(path) >= sizeof(feed->path)) {
		free(feed);
		return NULL;
	}
	snprintf(feed->path, sizeof(feed->path), "%s", path);
	feed->resolve = resolver;
	feed->ctx = ctx;
	feed->fd = -1;
	feed->retry_ms = RETRY_MIN_MS;
	TAILQ_INIT(&feed->queue);
	feed->on_read = host_event_new(read_some, feed);
	feed->on_write = host_event_new(write_some, feed);
	feed->on_retry = host_event_new(connect_again, feed);
	host_event_soon(feed->on_retry);
	return feed;
}

void fib_feed_touch(struct fib_feed *feed, const struct ep_prefix *key)
{
	struct prefix_entry *entry = prefix_map_find(&feed->map, key);
	struct fib_entry *e = (struct fib_entry *)entry;

	if (!e) {
		e = calloc(1, sizeof(*e));
		if (!e)
			abort();
		e->entry.prefix = *key;
		if (prefix_map_add(&feed->map, &e->entry))
			abort();
	}
	if (feed->fd >= 0) {
		enqueue(feed, e);
		host_event_on_write(feed->on_write, feed->fd);
	} else {
		static struct fib_route route;

		/* Keys that come and go while nobody listens must not pile up. */
		memset(&route, 0, sizeof(route));
		if (feed->resolve(feed->ctx, key, &route))
			enqueue(feed, e);
		else
			forget(feed, e);
	}
}

static void touch_entry(void *ctx, struct prefix_entry *entry)
{
	enqueue(ctx, (struct fib_entry *)entry);
}

void fib_feed_touch_all(struct fib_feed *feed)
{
	prefix_map_each(&feed->map, touch_entry, feed);
	if (feed->fd >= 0 && feed->n_queued)
		host_event_on_write(feed->on_write, feed->fd);
}

void fib_feed_whole(struct fib_feed *feed)
{
	feed->whole = true;
	if (feed->fd >= 0)
		host_event_on_write(feed->on_write, feed->fd);
}

struct fib_feed_state fib_feed_state(const struct fib_feed *feed)
{
	return (struct fib_feed_state){
		.connected = feed->fd >= 0,
		.complete = feed->end_sent && feed->begin == feed->end,
		.routes = feed->n_sent,
		.waiting = feed->n_queued,
	};
}
