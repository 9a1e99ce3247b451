/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "common/prefix.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

static uint8_t max_len(uint8_t family)
{
	return family == AF_INET ? 32 : 128;
}

/* The bits of byte `i` that lie within the first `len` bits. */
static uint8_t byte_mask(uint8_t len, unsigned i)
{
	if (len >= 8 * (i + 1))
		return 0xff;
	if (len <= 8 * i)
		return 0;
	return (uint8_t)(0xff << (8 - (len - 8 * i)));
}

int ep_addr_parse(const char *text, struct ep_prefix *addr)
{
	memset(addr, 0, sizeof(*addr));
	if (inet_pton(AF_INET, text, &addr->addr.v4) == 1)
		addr->family = AF_INET;
	else if (inet_pton(AF_INET6, text, &addr->addr.v6) == 1)
		addr->family = AF_INET6;
	else
		return EINVAL;
	addr->len = max_len(addr->family);
	return 0;
}

/* A decimal number without sign, space or leading zero, at most 128. Returns -1 if it isn't. */
static int parse_len(const char *text)
{
	int value = 0;

	if (text[0] == '\0' || (text[0] == '0' && text[1] != '\0'))
		return -1;
	for (; *text != '\0'; text++) {
		if (*text < '0' || *text > '9')
			return -1;
		value = value * 10 + (*text - '0');
		if (value > 128)
			return -1;
	}
	return value;
}

static int fail(const char **why, const char *text)
{
	if (why != NULL)
		*why = text;
	return EINVAL;
}

int ep_prefix_parse(const char *text, bool host_bits, struct ep_prefix *prefix, const char **why)
{
	const char *slash = strchr(text, '/');
	char addr[INET6_ADDRSTRLEN];
	struct ep_prefix masked;
	int len;

	if (slash == NULL)
		return fail(why, "has no length: write ADDRESS/LENGTH, as in 10.1.0.0/16");
	if ((size_t)(slash - text) >= sizeof(addr))
		return fail(why, "is too long to be an address");
	memcpy(addr, text, (size_t)(slash - text));
	addr[slash - text] = '\0';
	if (ep_addr_parse(addr, prefix) != 0)
		return fail(why, "doesn't begin with an IPv4 or IPv6 address");
	len = parse_len(slash + 1);
	if (len < 0 || len > prefix->len)
		return fail(why, prefix->family == AF_INET ? "needs a length from 0 to 32"
							   : "needs a length from 0 to 128");
	prefix->len = (uint8_t)len;
	if (!host_bits) {
		masked = *prefix;
		ep_prefix_mask(&masked);
		if (!ep_prefix_equal(&masked, prefix))
			return fail(why, "has bits set beyond its length");
	}
	return 0;
}

char *ep_addr_format(const struct ep_prefix *addr, char buf[EP_PREFIX_STRLEN])
{
	if (inet_ntop(addr->family, &addr->addr, buf, EP_PREFIX_STRLEN) == NULL)
		snprintf(buf, EP_PREFIX_STRLEN, "(invalid)");
	return buf;
}

char *ep_prefix_format(const struct ep_prefix *prefix, char buf[EP_PREFIX_STRLEN])
{
	size_t n;

	ep_addr_format(prefix, buf);
	n = strlen(buf);
	snprintf(buf + n, EP_PREFIX_STRLEN - n, "/%u", prefix->len);
	return buf;
}

void ep_prefix_mask(struct ep_prefix *prefix)
{
	for (unsigned i = 0; i < sizeof(prefix->addr.bytes); i++)
		prefix->addr.bytes[i] &= byte_mask(prefix->len, i);
}

bool ep_prefix_equal(const struct ep_prefix *a, const struct ep_prefix *b)
{
	return a->family == b->family && a->len == b->len &&
	       memcmp(a->addr.bytes, b->addr.bytes, max_len(a->family) / 8) == 0;
}

bool ep_prefix_contains(const struct ep_prefix *outer, const struct ep_prefix *inner)
{
	if (outer->family != inner->family || outer->len > inner->len)
		return false;
	for (unsigned i = 0; i < sizeof(outer->addr.bytes); i++) {
		if ((outer->addr.bytes[i] ^ inner->addr.bytes[i]) & byte_mask(outer->len, i))
			return false;
	}
	return true;
}

bool ep_prefix_overlaps(const struct ep_prefix *a, const struct ep_prefix *b)
{
	return ep_prefix_contains(a, b) || ep_prefix_contains(b, a);
}

static int hex_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	if (c >= 'A' && c <= 'F')
		return c - 'A' + 10;
	return -1;
}

int ep_mac_parse(const char *text, struct ep_mac *mac)
{
	if (strlen(text) != EP_MAC_STRLEN - 1)
		return EINVAL;
	for (unsigned i = 0; i < 6; i++, text += 3) {
		int high = hex_digit(text[0]), low = hex_digit(text[1]);

		if (high < 0 || low < 0 || (i < 5 && text[2] != ':'))
			return EINVAL;
		mac->bytes[i] = (uint8_t)(high << 4 | low);
	}
	return 0;
}

char *ep_mac_format(const struct ep_mac *mac, char buf[EP_MAC_STRLEN])
{
	snprintf(buf, EP_MAC_STRLEN, "%02x:%02x:%02x:%02x:%02x:%02x", mac->bytes[0], mac->bytes[1],
		mac->bytes[2], mac->bytes[3], mac->bytes[4], mac->bytes[5]);
	return buf;
}
