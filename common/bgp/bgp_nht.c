/* SPDX-License-Identifier: GPL-2.0-or-later */

#include <zebra.h>

#include "nexthop.h"
#include "stream.h"
#include "zclient.h"

#include "bgpd/bgpd.h"
#include "bgpd/bgp_nht.h"

#include "common/bgp/bgp_convert.h"
#include "common/bgp/bgp_host.h"
#include "common/bgp/bgp_nht.h"
#include "common/bgp/prefix_map.h"

extern struct zclient *zclient;

struct tracked {
	struct prefix_entry entry; /* first */
	bool connected;
	bool answered;
	struct nht_answer answer;
};

static struct prefix_map tracked_map;
static nht_resolver resolve;
static void *resolve_ctx;
static struct host_event *answer_event;

/* Encodes what zebra would have sent, into the buffer where bgpd expects it, and has it read. */
static void tell_bgpd(const struct tracked *t)
{
	struct stream *s = zclient->ibuf;
	struct prefix p = frr_prefix_from_ep(&t->entry.prefix);

	stream_reset(s);
	stream_putl(s, 0); /* message flags */
	stream_putw(s, SAFI_UNICAST);
	for (int i = 0; i < 2; i++) { /* what was asked for, what it matched */
		stream_putw(s, p.family);
		stream_putc(s, p.prefixlen);
		stream_put(s, &p.u.prefix, p.family == AF_INET6 ? 16 : 4);
	}
	stream_putc(s, ZEBRA_ROUTE_CONNECT);
	stream_putw(s, 0); /* instance */
	stream_putc(s, 0); /* distance */
	stream_putl(s, 0); /* metric */
	stream_putc(s, t->answer.reachable ? 1 : 0);
	if (t->answer.reachable) {
		struct zapi_nexthop nh = {
			.type = NEXTHOP_TYPE_IFINDEX,
			.vrf_id = VRF_DEFAULT,
			.ifindex = t->answer.ifindex,
		};

		if (t->answer.labelled) {
			SET_FLAG(nh.flags, ZAPI_NEXTHOP_FLAG_LABEL);
			nh.label_num = 1;
			nh.labels[0] = MPLS_LABEL_IMPLICIT_NULL;
		}
		zapi_nexthop_encode(s, &nh, 0, 0);
	}
	bgp_parse_nexthop_update(ZEBRA_NEXTHOP_UPDATE, VRF_DEFAULT);
	stream_reset(s);
}

static bool same_answer(const struct nht_answer *a, const struct nht_answer *b)
{
	return a->reachable == b->reachable && a->labelled == b->labelled &&
	       a->ifindex == b->ifindex;
}

/* Addresses whose answer has changed. */
struct changed {
	size_t n;
	struct ep_prefix *addresses;
};

static void ask_one(void *ctx, struct prefix_entry *entry)
{
	struct changed *changed = ctx;
	struct tracked *t = (struct tracked *)entry;
	struct nht_answer answer = resolve(resolve_ctx, &entry->prefix, t->connected);

	if (t->answered && same_answer(&answer, &t->answer))
		return;
	t->answer = answer;
	t->answered = true;
	changed->addresses[changed->n++] = entry->prefix;
}

static void answer_all(void *ctx)
{
	struct changed changed = {0};

	(void)ctx;
	/* Before the first instance there is nobody to tell. */
	if (!bgp_get_default() || !tracked_map.n)
		return;
	changed.addresses = calloc(tracked_map.n, sizeof(*changed.addresses));
	if (!changed.addresses) {
		host_event_after(answer_event, 1000);
		return;
	}
	prefix_map_each(&tracked_map, ask_one, &changed);
	/* bgpd may register and unregister addresses while it is told. */
	for (size_t i = 0; i < changed.n; i++) {
		struct prefix_entry *entry = prefix_map_find(&tracked_map, &changed.addresses[i]);

		if (entry)
			tell_bgpd((struct tracked *)entry);
	}
	free(changed.addresses);
}

/* What bgpd sends to zebra to have an address tracked. */
enum zclient_send_status __wrap_zclient_send_rnh(struct zclient *zc, int command,
	const struct prefix *p, safi_t safi, bool connected, bool resolve_via_default,
	vrf_id_t vrf);

enum zclient_send_status __wrap_zclient_send_rnh(struct zclient *zc, int command,
	const struct prefix *p, safi_t safi, bool connected, bool resolve_via_default, vrf_id_t vrf)
{
	struct ep_prefix address = ep_prefix_from_frr(p);
	struct prefix_entry *entry = prefix_map_find(&tracked_map, &address);
	struct tracked *t = (struct tracked *)entry;

	(void)zc;
	(void)resolve_via_default;
	(void)safi;
	(void)vrf;
	if (command == ZEBRA_NEXTHOP_UNREGISTER) {
		if (t) {
			prefix_map_remove(&tracked_map, entry);
			free(t);
		}
		return ZCLIENT_SEND_SUCCESS;
	}
	if (!t) {
		t = calloc(1, sizeof(*t));
		if (!t)
			return ZCLIENT_SEND_FAILURE;
		t->entry.prefix = address;
		if (prefix_map_add(&tracked_map, &t->entry)) {
			free(t);
			return ZCLIENT_SEND_FAILURE;
		}
	}
	t->connected = connected;
	/* bgpd has forgotten what it knew: it registers anew when the kind of tracking changes. */
	t->answered = false;
	host_event_soon(answer_event);
	return ZCLIENT_SEND_SUCCESS;
}

void bgp_nht_init(nht_resolver resolver, void *ctx)
{
	resolve = resolver;
	resolve_ctx = ctx;
	answer_event = host_event_new(answer_all, NULL);
}

void bgp_nht_refresh(void)
{
	host_event_soon(answer_event);
}
