/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef EDGEPLEX_FIB_FEED_H
#define EDGEPLEX_FIB_FEED_H

/*
 * Keeps the forwarder's FIB the same as the routes here, over the FIB socket (docs/protocols.md).
 * Remembers which keys changed, not how: a key that changes a thousand times while the forwarder is
 * slow is sent once, as it is then. Never blocks. Memory grows with the number of routes only.
 */

#include <stdbool.h>
#include <stddef.h>

#include "common/fib_msg.h"
#include "common/prefix.h"

struct fib_feed;

/*
 * A key is a prefix or, with family AF_MPLS, a label (20 bits, in network order in
 * addr.bytes[0..3], len 20). Tells what its route is now; returns false if there is none.
 */
typedef bool (*fib_feed_resolver)(void *ctx, const struct ep_prefix *key, struct fib_route *route);

/* Connects to `path`, again and again, for ever. NULL when memory ran out. */
struct fib_feed *fib_feed_create(const char *path, fib_feed_resolver resolver, void *ctx);

/* The route of `key` may have changed. */
void fib_feed_touch(struct fib_feed *feed, const struct ep_prefix *key);

/* All may have changed (a gateway, an interface's index). */
void fib_feed_touch_all(struct fib_feed *feed);

/* Until this is called no FIB_END is sent: the table here isn't whole yet. */
void fib_feed_whole(struct fib_feed *feed);

struct fib_feed_state {
	bool connected;
	bool complete;  /* FIB_END was sent on this connection */
	size_t routes;  /* that the forwarder was told and not told to remove */
	size_t waiting; /* keys to be sent */
};

struct fib_feed_state fib_feed_state(const struct fib_feed *feed);

/* The key of a label. */
struct ep_prefix fib_feed_label_key(uint32_t label);

#endif
