/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef EDGEPLEX_HOSTD_LINK_H
#define EDGEPLEX_HOSTD_LINK_H

/*
 * A connection between two hostds: frames over TLS 1.3. Both sides show a certificate, which must
 * be signed by the CA that the site made for its hostds and for nothing else.
 *
 * Functions return 0 or errno. ETIMEDOUT of link_receive() leaves the connection usable; any other
 * error, and every error of link_send(), is its end. A link is to be used from one thread at a
 * time, a link_keys by any number.
 */

#include "hostd/frame.h"

struct link_keys;
struct link;

/* Reads PEM files. Returns 0, or EINVAL with `why` naming the file that is wrong. */
int link_keys_load(const char *cert_path, const char *key_path, const char *ca_path,
	struct link_keys **keys, char why[256]);

/* Accepts NULL. Links made with them may live on. */
void link_keys_free(struct link_keys *keys);

/* A listening socket on "ADDRESS:PORT" or "[ADDRESS6]:PORT", or -1 with errno and `why`. */
int link_listen(const char *address, char why[256]);

/* Connects to "ADDRESS:PORT". `timeout_ms` bounds the connection and the handshake together. */
int link_connect(const struct link_keys *keys, const char *address, int timeout_ms,
	struct link **link, char why[256]);

/* The server's side of a handshake on an accepted socket, which it takes. */
int link_accept(
	const struct link_keys *keys, int fd, int timeout_ms, struct link **link, char why[256]);

/* Closes at once. Accepts NULL. */
void link_close(struct link *link);

/* The descriptor to poll for reading, and whether a frame may be there already. */
int link_fd(const struct link *link);
bool link_pending(const struct link *link);

/* Sends a frame whole, within `timeout_ms`. */
int link_send(struct link *link, const struct frame *frame, int timeout_ms);

/*
 * Waits up to `timeout_ms` (0: doesn't) for the next frame. Its payload is good until the next
 * call. ETIMEDOUT, ECONNRESET (closed, or TLS failed), EBADMSG (not our protocol).
 */
int link_receive(struct link *link, struct frame *frame, int timeout_ms);

/*
 * The source's first words: shows the ticket for a VM of `n_pages` and waits for WELCOME. Returns
 * 0, EACCES (refused, `why` has the other side's text), or errno with `why`.
 */
int link_greet(struct link *link, const uint8_t uuid[16], const uint8_t ticket[32], size_t n_pages,
	int timeout_ms, char why[256]);

/* Why the last function failed, in a sentence. */
const char *link_why(const struct link *link);

#endif
