/* SPDX-License-Identifier: GPL-2.0-or-later */

#include <ctype.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <arpa/inet.h>

#include "common/bgp/conf_json.h"

void conf_mistake(struct conf_reader *r, const char *key, const char *fmt, ...)
{
	char text[sizeof(r->err->message)], pointer[256];
	va_list args;

	if (r->err->code)
		return;
	va_start(args, fmt);
	vsnprintf(text, sizeof(text), fmt, args);
	va_end(args);
	snprintf(pointer, sizeof(pointer), "%s%s%s", r->path, *key ? "/" : "", key);
	jsonrpc_fail(r->err, JSONRPC_INVALID_PARAMS, pointer, "%s", text);
}

bool conf_failed(const struct conf_reader *r)
{
	return r->err->code != 0;
}

size_t conf_enter(struct conf_reader *r, const char *key)
{
	size_t mark = strlen(r->path);

	snprintf(r->path + mark, sizeof(r->path) - mark, "/%s", key);
	return mark;
}

size_t conf_enter_index(struct conf_reader *r, size_t index)
{
	char key[24];

	snprintf(key, sizeof(key), "%zu", index);
	return conf_enter(r, key);
}

void conf_leave(struct conf_reader *r, size_t mark)
{
	r->path[mark] = '\0';
}

static const cJSON *member(struct conf_reader *r, const cJSON *object, const char *key,
	bool required, const char *what)
{
	const cJSON *item;

	if (conf_failed(r))
		return NULL;
	item = cJSON_GetObjectItemCaseSensitive(object, key);
	if (item && !cJSON_IsNull(item))
		return item;
	if (required)
		conf_mistake(r, key, "is missing: give %s", what);
	return NULL;
}

const cJSON *conf_object(struct conf_reader *r, const cJSON *object, const char *key, bool required)
{
	const cJSON *item = member(r, object, key, required, "an object");

	if (!item || cJSON_IsObject(item))
		return item;
	conf_mistake(r, key, "must be an object");
	return NULL;
}

const cJSON *conf_array(
	struct conf_reader *r, const cJSON *object, const char *key, bool required, size_t max)
{
	const cJSON *item = member(r, object, key, required, "an array");

	if (!item)
		return NULL;
	if (!cJSON_IsArray(item))
		conf_mistake(r, key, "must be an array");
	else if ((size_t)cJSON_GetArraySize(item) > max)
		conf_mistake(r, key, "has more than %zu elements: remove some", max);
	else
		return item;
	return NULL;
}

static const char *string(struct conf_reader *r, const cJSON *object, const char *key,
	bool required, const char *what)
{
	const cJSON *item = member(r, object, key, required, what);

	if (!item)
		return NULL;
	if (cJSON_IsString(item))
		return item->valuestring;
	conf_mistake(r, key, "must be a string: %s", what);
	return NULL;
}

void conf_word(struct conf_reader *r, const cJSON *object, const char *key, bool required,
	char *text, size_t size)
{
	const char *value = string(r, object, key, required, "a word");

	if (!value)
		return;
	if (!*value || strlen(value) >= size) {
		conf_mistake(r, key, "must have 1 to %zu characters", size - 1);
		return;
	}
	for (const char *c = value; *c; c++)
		if (*c <= ' ' || *c > '~' || strchr("\"'\\|", *c)) {
			conf_mistake(r, key,
				"must be letters, digits and punctuation, without spaces, quotes, "
				"| and \\");
			return;
		}
	snprintf(text, size, "%s", value);
}

void conf_hostname(struct conf_reader *r, const cJSON *object, const char *key, char *text)
{
	conf_word(r, object, key, true, text, CONF_NAME_STRLEN);
	if (conf_failed(r))
		return;
	for (const char *c = text; *c; c++)
		if (!isalnum((unsigned char)*c) &&
			((*c != '-' && *c != '.') || c == text || !c[1])) {
			conf_mistake(r, key,
				"must be letters, digits, - and ., such as green-a; it can't begin "
				"or end "
				"with - or .");
			return;
		}
}

void conf_number(struct conf_reader *r, const cJSON *object, const char *key, bool required,
	uint32_t min, uint32_t max, uint32_t *value)
{
	const cJSON *item = member(r, object, key, required, "a number");

	if (!item)
		return;
	if (!cJSON_IsNumber(item) || item->valuedouble < min || item->valuedouble > max ||
		item->valuedouble != (double)(uint32_t)item->valuedouble)
		conf_mistake(r, key, "must be a whole number from %u to %u", min, max);
	else
		*value = item->valuedouble;
}

void conf_bool(struct conf_reader *r, const cJSON *object, const char *key, bool *value)
{
	const cJSON *item = member(r, object, key, false, "true or false");

	if (!item)
		return;
	if (cJSON_IsBool(item))
		*value = cJSON_IsTrue(item);
	else
		conf_mistake(r, key, "must be true or false");
}

static const char *example_address(uint8_t family)
{
	return family == AF_INET6  ? "an IPv6 address such as 2001:db8::1"
	       : family == AF_INET ? "an IPv4 address such as 192.0.2.1"
				   : "an address such as 192.0.2.1 or 2001:db8::1";
}

static bool is_unicast(const struct ep_prefix *a)
{
	uint32_t v4 = ntohl(a->addr.v4.s_addr);

	if (a->family == AF_INET)
		return (v4 >> 24) != 0 && (v4 >> 24) != 127 && v4 < 0xe0000000u;
	return !IN6_IS_ADDR_UNSPECIFIED(&a->addr.v6) && !IN6_IS_ADDR_LOOPBACK(&a->addr.v6) &&
	       !IN6_IS_ADDR_MULTICAST(&a->addr.v6) && !IN6_IS_ADDR_V4MAPPED(&a->addr.v6);
}

void conf_address(struct conf_reader *r, const cJSON *object, const char *key, bool required,
	uint8_t family, struct ep_prefix *address)
{
	const char *text = string(r, object, key, required, example_address(family));
	struct ep_prefix a;

	if (!text)
		return;
	if (ep_addr_parse(text, &a) || (family && a.family != family))
		conf_mistake(r, key, "must be %s", example_address(family));
	else if (!is_unicast(&a))
		conf_mistake(r, key, "must be a unicast address");
	else
		*address = a;
}

void conf_prefix(struct conf_reader *r, const cJSON *object, const char *key, uint8_t family,
	struct ep_prefix *prefix)
{
	const char *what = family == AF_INET6 ? "an IPv6 prefix such as 2001:db8::/32"
					      : "a prefix such as 10.1.0.0/16";
	const char *text = string(r, object, key, true, what), *why = NULL;
	struct ep_prefix p;

	if (!text)
		return;
	if (ep_prefix_parse(text, false, &p, &why))
		conf_mistake(r, key, "must be %s: %s", what, why ? why : "it can't be read");
	else if (family && p.family != family)
		conf_mistake(r, key, "must be %s", what);
	else
		*prefix = p;
}

/* RFC 4364 section 4.2: types 0 (2-byte ASN:4 bytes), 1 (IPv4:2 bytes) and 2 (4-byte ASN:2 bytes).
 */
static bool is_rd(const char *text)
{
	const char *colon = strrchr(text, ':'), *c;
	unsigned long number, administrator;
	char head[INET_ADDRSTRLEN];
	struct in_addr v4;

	if (!colon || colon == text || (size_t)(colon - text) >= sizeof(head) || !colon[1] ||
		strlen(colon + 1) > 10)
		return false;
	memcpy(head, text, colon - text);
	head[colon - text] = '\0';
	for (c = colon + 1; *c; c++)
		if (*c < '0' || *c > '9')
			return false;
	number = strtoul(colon + 1, NULL, 10);
	if (inet_pton(AF_INET, head, &v4) == 1)
		return number <= UINT16_MAX;
	if (strlen(head) > 10)
		return false;
	for (c = head; *c; c++)
		if (*c < '0' || *c > '9')
			return false;
	administrator = strtoul(head, NULL, 10);
	if (!administrator || administrator > UINT32_MAX)
		return false;
	return number <= (administrator > UINT16_MAX ? UINT16_MAX : UINT32_MAX);
}

bool conf_mac(struct conf_reader *r, const cJSON *object, const char *key, struct ep_mac *mac)
{
	static const struct ep_mac zero;
	const char *text =
		string(r, object, key, false, "a MAC address, such as 02:ed:00:00:00:01");

	if (!text)
		return false;
	if (!ep_mac_parse(text, mac) && !(mac->bytes[0] & 1) &&
		memcmp(mac, &zero, sizeof(zero)) != 0)
		return true;
	conf_mistake(r, key, "must be a unicast MAC address, such as 02:ed:00:00:00:01");
	return false;
}

#define RD_WHAT "ASN:number or address:number, such as 65000:100"

void conf_rd(struct conf_reader *r, const cJSON *object, const char *key, char *rd)
{
	const char *text = string(r, object, key, true, RD_WHAT);

	if (!text)
		return;
	if (strlen(text) < CONF_RT_STRLEN && is_rd(text))
		snprintf(rd, CONF_RT_STRLEN, "%s", text);
	else
		conf_mistake(r, key, "must be %s", RD_WHAT);
}

void conf_rts(struct conf_reader *r, const cJSON *object, const char *key, struct conf_rts *rts)
{
	const cJSON *array = conf_array(r, object, key, true, CONF_MAX_RTS), *item;
	size_t mark = conf_enter(r, key), i = 0;

	rts->n = 0;
	cJSON_ArrayForEach (item, array) {
		size_t inner = conf_enter_index(r, i++);

		if (!cJSON_IsString(item) || strlen(item->valuestring) >= CONF_RT_STRLEN ||
			!is_rd(item->valuestring))
			conf_mistake(r, "", "must be %s", RD_WHAT);
		for (size_t k = 0; !conf_failed(r) && k < rts->n; k++)
			if (!strcmp(rts->rt[k], item->valuestring))
				conf_mistake(r, "", "is there twice: remove one");
		if (!conf_failed(r))
			snprintf(rts->rt[rts->n++], CONF_RT_STRLEN, "%s", item->valuestring);
		conf_leave(r, inner);
	}
	conf_leave(r, mark);
}

static void read_addresses(struct conf_reader *r, const cJSON *object, struct kernel_wish *wish)
{
	const cJSON *array = conf_array(r, object, "addresses", true, KERNEL_MAX_ADDRESSES - 1);
	const cJSON *item;
	size_t mark = conf_enter(r, "addresses"), i = 0;

	cJSON_ArrayForEach (item, array) {
		size_t inner = conf_enter_index(r, i++);
		const char *why = "it can't be read";
		struct ep_prefix p, host;

		if (!cJSON_IsString(item) || ep_prefix_parse(item->valuestring, true, &p, &why)) {
			conf_mistake(
				r, "", "must be ADDRESS/LENGTH, such as 192.168.1.1/30: %s", why);
			conf_leave(r, inner);
			break;
		}
		host = p;
		host.len = p.family == AF_INET ? 32 : 128;
		if (!is_unicast(&host) || !p.len)
			conf_mistake(r, "", "must be a unicast address");
		if (p.family == AF_INET6 && IN6_IS_ADDR_LINKLOCAL(&p.addr.v6))
			conf_mistake(r, "", "must not be link-local: that address makes itself");
		wish->addresses[wish->n_addresses++] = p;
		conf_leave(r, inner);
	}
	conf_leave(r, mark);
}

/* Is address `i` of the last interface there twice, or in a subnet of another interface? */
static void check_overlap(struct conf_reader *r, const struct kernel_wish *wishes, size_t n)
{
	const struct kernel_wish *last = &wishes[n - 1];

	for (size_t i = 0; i < last->n_addresses; i++) {
		size_t mark = conf_enter(r, "addresses");

		conf_enter_index(r, i);
		for (size_t k = 0; k < i; k++)
			if (ep_prefix_equal(&last->addresses[k], &last->addresses[i]))
				conf_mistake(r, "", "is there twice: remove one");
		for (size_t w = 0; w < n - 1; w++)
			for (size_t k = 0; k < wishes[w].n_addresses; k++) {
				struct ep_prefix a = last->addresses[i], b = wishes[w].addresses[k];
				char text[EP_PREFIX_STRLEN];

				ep_prefix_format(&b, text);
				ep_prefix_mask(&a);
				ep_prefix_mask(&b);
				if (ep_prefix_overlaps(&a, &b))
					conf_mistake(r, "",
						"overlaps %s of interface %s: choose another "
						"subnet",
						text, wishes[w].name);
			}
		conf_leave(r, mark);
	}
}

size_t conf_interfaces(struct conf_reader *r, const cJSON *config, const char *const *names,
	struct kernel_wish *wishes, size_t max)
{
	const cJSON *all = conf_object(r, config, "interfaces", true), *item;
	size_t mark = conf_enter(r, "interfaces"), n = 0;

	memset(wishes, 0, max * sizeof(*wishes));
	cJSON_ArrayForEach (item, all) {
		struct kernel_wish *wish = &wishes[n];
		size_t inner = conf_enter(r, item->string);
		bool known = false;
		uint32_t mtu = 0;

		for (size_t i = 0; names[i]; i++)
			known |= !strcmp(names[i], item->string);
		for (size_t i = 0; i < n; i++)
			if (!strcmp(wishes[i].name, item->string))
				conf_mistake(r, "", "is there twice: remove one");
		if (!known)
			conf_mistake(r, "", "is not an interface of this VM: use %s, %s%s%s",
				names[0], names[1], names[2] ? ", " : "", names[2] ? names[2] : "");
		else if (n >= max || !cJSON_IsObject(item))
			conf_mistake(r, "", "must be an object");
		if (conf_failed(r))
			break;
		snprintf(wish->name, sizeof(wish->name), "%s", item->string);
		read_addresses(r, item, wish);
		conf_number(r, item, "mtu", false, 576, 9600, &mtu);
		/* RFC 8200 section 5. */
		for (size_t k = 0; mtu && mtu < 1280 && k < wish->n_addresses; k++)
			if (wish->addresses[k].family == AF_INET6)
				conf_mistake(
					r, "mtu", "must be at least 1280 with an IPv6 address");
		wish->mtu = mtu;
		n++;
		check_overlap(r, wishes, n);
		conf_leave(r, inner);
	}
	conf_leave(r, mark);
	return n;
}
