/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef EDGEPLEX_PREFIX_H
#define EDGEPLEX_PREFIX_H

/* IPv4 and IPv6 prefixes, interface addresses and MAC addresses as text. Thread-safe. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <netinet/in.h>

#define EP_PREFIX_STRLEN (INET6_ADDRSTRLEN + 4)
#define EP_MAC_STRLEN 18

struct ep_prefix {
	uint8_t family; /* AF_INET or AF_INET6 */
	uint8_t len;    /* bits */
	union {
		struct in_addr v4;
		struct in6_addr v6;
		uint8_t bytes[16];
	} addr;
};

struct ep_mac {
	uint8_t bytes[6];
};

/*
 * Parses "ADDRESS/LENGTH". With `host_bits` the address may have bits set beyond the length (an
 * interface address); without it that is an error. Returns 0, or EINVAL with `why` (may be NULL)
 * set to a static text that tells what would be right.
 */
int ep_prefix_parse(const char *text, bool host_bits, struct ep_prefix *prefix, const char **why);

/* Parses a bare address to a prefix of full length. Returns 0 or EINVAL. */
int ep_addr_parse(const char *text, struct ep_prefix *addr);

/* "ADDRESS/LENGTH" and "ADDRESS". Return `buf`. */
char *ep_prefix_format(const struct ep_prefix *prefix, char buf[EP_PREFIX_STRLEN]);
char *ep_addr_format(const struct ep_prefix *addr, char buf[EP_PREFIX_STRLEN]);

/* Clears the bits beyond the length. */
void ep_prefix_mask(struct ep_prefix *prefix);

bool ep_prefix_equal(const struct ep_prefix *a, const struct ep_prefix *b);

/* Does `outer` hold every address of `inner`? Different families: never. */
bool ep_prefix_contains(const struct ep_prefix *outer, const struct ep_prefix *inner);

bool ep_prefix_overlaps(const struct ep_prefix *a, const struct ep_prefix *b);

/* Parses "aa:bb:cc:dd:ee:ff". Returns 0 or EINVAL. */
int ep_mac_parse(const char *text, struct ep_mac *mac);
char *ep_mac_format(const struct ep_mac *mac, char buf[EP_MAC_STRLEN]);

#endif
