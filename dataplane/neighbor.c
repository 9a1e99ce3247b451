/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "dataplane/neighbor.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <netinet/icmp6.h>
#include <netinet/ip_icmp.h>
#include <rte_arp.h>

#include "dataplane/engine.h"
#include "dataplane/ip.h"

#define TABLE_SIZE 4096u
#define INCOMPLETE_MAX 1024u /* so that a scan of unused addresses can't fill the table */
#define BUCKETS 1024u
#define QUEUE_LEN 4u

#define RETRANSMIT_MS 1000u
#define MAX_PROBES 3u
#define REACHABLE_MS 30000u
#define DELAY_MS 5000u
#define FORGET_MS 600000u /* a stale entry that nobody used */

struct waiting {
	struct rte_mbuf *m;
	uint16_t ethertype;
};

struct neighbor {
	uint8_t addr[16];
	struct rte_ether_addr mac;
	uint8_t state;
	uint8_t family;
	uint8_t port;
	uint8_t probes;
	uint8_t n_waiting;
	uint16_t next; /* in its hash chain or the free list; index + 1, 0 ends it */
	uint64_t deadline_ms;
	uint64_t used_ms;
	struct waiting waiting[QUEUE_LEN];
};

struct neighbors {
	/* Held to change entries, and by neighbors_snapshot(); the fast path reads without it. */
	pthread_mutex_t lock;
	uint16_t buckets[BUCKETS];
	uint16_t free_list;
	unsigned top; /* entries below have been used */
	unsigned n_incomplete;
	struct neighbor table[TABLE_SIZE];
};

static const struct rte_ether_addr ethernet_broadcast = {{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}};

struct neighbors *neighbors_create(void)
{
	struct neighbors *ns = calloc(1, sizeof(*ns));

	if (ns)
		pthread_mutex_init(&ns->lock, NULL);
	return ns;
}

void neighbors_destroy(struct neighbors *ns)
{
	if (!ns)
		return;
	for (unsigned i = 0; i < ns->top; i++) {
		for (unsigned k = 0; k < ns->table[i].n_waiting; k++)
			rte_pktmbuf_free(ns->table[i].waiting[k].m);
	}
	pthread_mutex_destroy(&ns->lock);
	free(ns);
}

const char *neighbor_state_name(enum neighbor_state state)
{
	static const char *const names[] = {
		[NEIGHBOR_FREE] = "free",
		[NEIGHBOR_INCOMPLETE] = "incomplete",
		[NEIGHBOR_REACHABLE] = "reachable",
		[NEIGHBOR_STALE] = "stale",
		[NEIGHBOR_DELAY] = "delay",
		[NEIGHBOR_PROBE] = "probe",
	};

	return names[state];
}

/* ---- table ------------------------------------------------------------------------------- */

static size_t addr_size(uint8_t family)
{
	return family == AF_INET ? 4 : 16;
}

static uint16_t *bucket_of(struct neighbors *ns, unsigned port, uint8_t family, const void *addr)
{
	uint32_t words[4] = {0}, hash = port * 2 + (family == AF_INET6);

	memcpy(words, addr, addr_size(family));
	for (unsigned i = 0; i < 4; i++)
		hash = flow_mix(hash, words[i]);
	return &ns->buckets[hash % BUCKETS];
}

static struct neighbor *find(struct neighbors *ns, unsigned port, uint8_t family, const void *addr)
{
	for (uint16_t i = *bucket_of(ns, port, family, addr); i != 0; i = ns->table[i - 1].next) {
		struct neighbor *n = &ns->table[i - 1];

		if (n->port == port && n->family == family &&
			memcmp(n->addr, addr, addr_size(family)) == 0)
			return n;
	}
	return NULL;
}

static void set_state(
	struct engine *engine, struct neighbor *n, enum neighbor_state state, uint32_t deadline)
{
	struct neighbors *ns = engine->neighbors;

	ns->n_incomplete -= n->state == NEIGHBOR_INCOMPLETE;
	ns->n_incomplete += state == NEIGHBOR_INCOMPLETE;
	n->state = (uint8_t)state;
	n->probes = 0;
	n->deadline_ms = engine->now_ms + deadline;
}

static void forget(struct neighbors *ns, struct neighbor *n)
{
	uint16_t index = (uint16_t)(n - ns->table + 1);
	uint16_t *link = bucket_of(ns, n->port, n->family, n->addr);

	while (*link != index)
		link = &ns->table[*link - 1].next;
	*link = n->next;
	ns->n_incomplete -= n->state == NEIGHBOR_INCOMPLETE;
	n->state = NEIGHBOR_FREE;
	n->n_waiting = 0;
	n->next = ns->free_list;
	ns->free_list = index;
}

/* The stale entry that has been unused for longest, to make room. */
static struct neighbor *oldest_stale(struct neighbors *ns)
{
	struct neighbor *oldest = NULL;

	for (unsigned i = 0; i < ns->top; i++) {
		struct neighbor *n = &ns->table[i];

		if (n->state == NEIGHBOR_STALE && (!oldest || n->used_ms < oldest->used_ms))
			oldest = n;
	}
	return oldest;
}

static struct neighbor *create(
	struct engine *engine, unsigned port, uint8_t family, const void *addr)
{
	struct neighbors *ns = engine->neighbors;
	struct neighbor *n;
	uint16_t *bucket;
	uint16_t index;

	if (ns->free_list == 0 && ns->top == TABLE_SIZE) {
		n = oldest_stale(ns);
		if (!n)
			return NULL;
		forget(ns, n);
	}
	if (ns->free_list != 0) {
		index = ns->free_list;
		ns->free_list = ns->table[index - 1].next;
	} else {
		index = (uint16_t)++ns->top;
	}
	n = &ns->table[index - 1];
	memset(n, 0, sizeof(*n));
	memcpy(n->addr, addr, addr_size(family));
	n->family = family;
	n->port = (uint8_t)port;
	n->used_ms = engine->now_ms;
	bucket = bucket_of(ns, port, family, addr);
	n->next = *bucket;
	*bucket = index;
	return n;
}

size_t neighbors_snapshot(struct neighbors *ns, struct neighbor_info *out, size_t max)
{
	size_t count = 0;

	pthread_mutex_lock(&ns->lock);
	for (unsigned i = 0; i < ns->top; i++) {
		const struct neighbor *n = &ns->table[i];

		if (n->state == NEIGHBOR_FREE)
			continue;
		if (count < max) {
			out[count] = (struct neighbor_info){
				.port = n->port,
				.family = n->family,
				.mac = n->mac,
				.state = n->state,
			};
			memcpy(out[count].addr, n->addr, sizeof(n->addr));
		}
		count++;
	}
	pthread_mutex_unlock(&ns->lock);
	return count;
}

/* ---- asking ------------------------------------------------------------------------------ */

/* A buffer for a frame of our own; NULL: there is none, or we are not to speak. */
static struct rte_mbuf *own_frame(struct engine *engine, unsigned port)
{
	if (!engine_is_mute(engine))
		return engine_alloc(engine, port);
	engine->ports[port].counters.drops[DROP_mute]++;
	return NULL;
}

static void send_arp(struct engine *engine, unsigned port, uint16_t opcode,
	const struct rte_ether_addr *dst, const void *from, const void *to)
{
	struct rte_mbuf *m = own_frame(engine, port);
	struct rte_arp_hdr *arp;

	if (!m)
		return;
	arp = (struct rte_arp_hdr *)rte_pktmbuf_append(m, sizeof(*arp));
	arp->arp_hardware = rte_cpu_to_be_16(RTE_ARP_HRD_ETHER);
	arp->arp_protocol = rte_cpu_to_be_16(RTE_ETHER_TYPE_IPV4);
	arp->arp_hlen = sizeof(struct rte_ether_addr);
	arp->arp_plen = 4;
	arp->arp_opcode = rte_cpu_to_be_16(opcode);
	arp->arp_data.arp_sha = engine_iface(engine, port)->mac;
	memcpy(&arp->arp_data.arp_sip, from, 4);
	if (opcode == RTE_ARP_OP_REPLY)
		arp->arp_data.arp_tha = *dst;
	else
		memset(&arp->arp_data.arp_tha, 0, sizeof(arp->arp_data.arp_tha));
	memcpy(&arp->arp_data.arp_tip, to, 4);
	engine_send_to(engine, port, dst, RTE_ETHER_TYPE_ARP, m);
}

/* A solicitation or advertisement with our MAC address as its option. */
static void send_nd(struct engine *engine, unsigned port, uint8_t type, uint32_t flags,
	const struct rte_ether_addr *mac, const void *from, const void *to, const void *about)
{
	struct {
		struct nd_neighbor_solicit body;
		struct nd_opt_hdr option;
		struct rte_ether_addr mac;
	} nd = {
		.body.nd_ns_hdr.icmp6_type = type,
		.body.nd_ns_hdr.icmp6_dataun.icmp6_un_data32[0] = flags,
		.option.nd_opt_type = type == ND_NEIGHBOR_SOLICIT ? ND_OPT_SOURCE_LINKADDR
								  : ND_OPT_TARGET_LINKADDR,
		.option.nd_opt_len = 1,
		.mac = engine_iface(engine, port)->mac,
	};
	struct rte_mbuf *m = own_frame(engine, port);
	struct rte_ipv6_hdr *ip;

	if (!m)
		return;
	ip = (struct rte_ipv6_hdr *)rte_pktmbuf_append(m, sizeof(*ip) + sizeof(nd));
	ip->vtc_flow = rte_cpu_to_be_32(6u << 28);
	ip->payload_len = rte_cpu_to_be_16(sizeof(nd));
	ip->proto = IPPROTO_ICMPV6;
	ip->hop_limits = 255;
	memcpy(ip->src_addr, from, sizeof(ip->src_addr));
	memcpy(ip->dst_addr, to, sizeof(ip->dst_addr));
	memcpy(&nd.body.nd_ns_target, about, sizeof(nd.body.nd_ns_target));
	memcpy(ip + 1, &nd, sizeof(nd));
	((struct icmp6_hdr *)(ip + 1))->icmp6_cksum = rte_ipv6_udptcp_cksum(ip, ip + 1);
	engine_send_to(engine, port, mac, RTE_ETHER_TYPE_IPV6, m);
}

/* The link-local address, for what has no subnet in common with the target. */
static const struct iface_addr *link_local_source(const struct iface *iface)
{
	for (unsigned i = 0; i < iface->n_addrs; i++) {
		const struct iface_addr *a = &iface->addrs[i];

		if (a->family == AF_INET6 && IN6_IS_ADDR_LINKLOCAL(&a->addr.v6))
			return a;
	}
	return NULL;
}

/* Asks everybody, or with `unicast` the MAC address that we know. */
static void ask(struct engine *engine, const struct neighbor *n, bool unicast)
{
	const struct iface *iface = engine_iface(engine, n->port);
	const struct iface_addr *from = iface_subnet(iface, n->family, n->addr);
	uint8_t group[16] = {0xff, 0x02, [11] = 0x01, [12] = 0xff};
	struct rte_ether_addr mac = {{0x33, 0x33, 0xff}};

	if (!from)
		from = n->family == AF_INET6 ? link_local_source(iface)
					     : iface_source(iface, AF_INET, n->addr);
	if (!from) {
		engine->ports[n->port].counters.drops[DROP_no_source_address]++;
		return;
	}
	if (n->family == AF_INET) {
		send_arp(engine, n->port, RTE_ARP_OP_REQUEST,
			unicast ? &n->mac : &ethernet_broadcast, &from->addr, n->addr);
		return;
	}
	if (unicast) {
		send_nd(engine, n->port, ND_NEIGHBOR_SOLICIT, 0, &n->mac, &from->addr, n->addr,
			n->addr);
		return;
	}
	memcpy(group + 13, n->addr + 13, 3);
	memcpy(mac.addr_bytes + 3, n->addr + 13, 3);
	send_nd(engine, n->port, ND_NEIGHBOR_SOLICIT, 0, &mac, &from->addr, group, n->addr);
}

/* ---- sending ----------------------------------------------------------------------------- */

static void wait_for(
	struct engine *engine, struct neighbor *n, uint16_t ethertype, struct rte_mbuf *m)
{
	if (n->n_waiting == QUEUE_LEN) {
		/* RFC 4861, 7.2.2: the oldest gives way. */
		engine_drop(engine, n->port, n->waiting[0].m, DROP_neighbor_queue_full);
		memmove(&n->waiting[0], &n->waiting[1], (QUEUE_LEN - 1) * sizeof(n->waiting[0]));
		n->n_waiting--;
	}
	n->waiting[n->n_waiting++] = (struct waiting){.m = m, .ethertype = ethertype};
}

void neighbor_output(struct engine *engine, unsigned port, uint8_t family, const void *addr,
	uint16_t ethertype, struct rte_mbuf *m)
{
	struct neighbors *ns = engine->neighbors;
	struct neighbor *n = find(ns, port, family, addr);

	if (n && n->state != NEIGHBOR_INCOMPLETE) {
		n->used_ms = engine->now_ms;
		if (n->state == NEIGHBOR_STALE) {
			pthread_mutex_lock(&ns->lock);
			set_state(engine, n, NEIGHBOR_DELAY, DELAY_MS);
			pthread_mutex_unlock(&ns->lock);
		}
		engine_send_to(engine, port, &n->mac, ethertype, m);
		return;
	}
	if (engine->rehearsing) {
		rte_pktmbuf_free(m);
		return;
	}
	if (n) {
		wait_for(engine, n, ethertype, m);
		return;
	}
	pthread_mutex_lock(&ns->lock);
	n = ns->n_incomplete < INCOMPLETE_MAX ? create(engine, port, family, addr) : NULL;
	if (n)
		set_state(engine, n, NEIGHBOR_INCOMPLETE, RETRANSMIT_MS);
	pthread_mutex_unlock(&ns->lock);
	if (!n) {
		engine_drop(engine, port, m, DROP_neighbor_table_full);
		return;
	}
	n->probes = 1;
	wait_for(engine, n, ethertype, m);
	ask(engine, n, false);
}

void neighbor_heard(struct engine *engine, unsigned port, uint8_t family, const void *addr,
	const struct rte_ether_addr *mac, bool solicited, bool override, bool create_entry)
{
	struct neighbors *ns = engine->neighbors;
	struct neighbor *n = find(ns, port, family, addr);
	struct waiting waiting[QUEUE_LEN];
	unsigned n_waiting = 0;
	bool new_mac;

	if (!rte_is_valid_assigned_ether_addr(mac))
		return;
	if (!n && !create_entry)
		return;
	pthread_mutex_lock(&ns->lock);
	if (!n) {
		n = create(engine, port, family, addr);
		if (n) {
			n->mac = *mac;
			set_state(engine, n, NEIGHBOR_STALE, FORGET_MS);
		}
		pthread_mutex_unlock(&ns->lock);
		return;
	}
	new_mac = n->state != NEIGHBOR_INCOMPLETE && !rte_is_same_ether_addr(&n->mac, mac);
	if (n->state == NEIGHBOR_INCOMPLETE) {
		n->mac = *mac;
		set_state(engine, n, solicited ? NEIGHBOR_REACHABLE : NEIGHBOR_STALE,
			solicited ? REACHABLE_MS : FORGET_MS);
		n_waiting = n->n_waiting;
		memcpy(waiting, n->waiting, sizeof(waiting));
		n->n_waiting = 0;
	} else if (new_mac && !override) {
		/* RFC 4861, 7.2.5: doubt, but don't believe. */
		if (n->state == NEIGHBOR_REACHABLE)
			set_state(engine, n, NEIGHBOR_STALE, FORGET_MS);
	} else if (solicited) {
		n->mac = *mac;
		set_state(engine, n, NEIGHBOR_REACHABLE, REACHABLE_MS);
	} else if (new_mac) {
		n->mac = *mac;
		set_state(engine, n, NEIGHBOR_STALE, FORGET_MS);
	}
	pthread_mutex_unlock(&ns->lock);
	for (unsigned i = 0; i < n_waiting; i++)
		engine_send_to(engine, port, mac, waiting[i].ethertype, waiting[i].m);
}

/* ---- time -------------------------------------------------------------------------------- */

/* Nobody answered: tells the sender of a packet that waited, and drops it. */
static void give_up(struct engine *engine, unsigned port, struct waiting *w)
{
	struct packet pkt = {.m = w->m, .in_port = (uint8_t)w->m->port, .l2_unicast = true};
	uint32_t mark = w->m->hash.usr, entry = 0;
	const uint8_t *bytes;

	if (!(mark & MARK_FOREIGN)) {
		engine_drop(engine, port, w->m, DROP_neighbor_failed);
		return;
	}
	pkt.from_mpls = mark & MARK_FROM_MPLS;
	pkt.domain = (uint8_t)(mark >> MARK_DOMAIN_SHIFT);
	/* The labels that we pushed come off again: the sender knows nothing of them. */
	while (w->ethertype == RTE_ETHER_TYPE_MPLS && !(entry >> 8 & 1)) {
		entry = rte_be_to_cpu_32(*rte_pktmbuf_mtod(w->m, const unaligned_uint32_t *));
		rte_pktmbuf_adj(w->m, sizeof(entry));
	}
	bytes = rte_pktmbuf_mtod(w->m, const uint8_t *);
	if (bytes[0] >> 4 == 4)
		icmp4_error(engine, &pkt, ICMP_DEST_UNREACH, ICMP_HOST_UNREACH, 0);
	else
		icmp6_error(engine, &pkt, ICMP6_DST_UNREACH, ICMP6_DST_UNREACH_ADDR, 0);
	engine_drop(engine, port, w->m, DROP_neighbor_failed);
}

static void fail(struct engine *engine, struct neighbor *n)
{
	struct neighbors *ns = engine->neighbors;
	struct waiting waiting[QUEUE_LEN];
	unsigned n_waiting = n->n_waiting, port = n->port;

	memcpy(waiting, n->waiting, sizeof(waiting));
	pthread_mutex_lock(&ns->lock);
	forget(ns, n);
	pthread_mutex_unlock(&ns->lock);
	for (unsigned i = 0; i < n_waiting; i++)
		give_up(engine, port, &waiting[i]);
}

static void expire(struct engine *engine, struct neighbor *n)
{
	struct neighbors *ns = engine->neighbors;

	switch ((enum neighbor_state)n->state) {
	case NEIGHBOR_INCOMPLETE:
	case NEIGHBOR_PROBE:
		if (n->probes == MAX_PROBES) {
			fail(engine, n);
			return;
		}
		n->probes++;
		n->deadline_ms = engine->now_ms + RETRANSMIT_MS;
		ask(engine, n, n->state == NEIGHBOR_PROBE);
		return;
	case NEIGHBOR_REACHABLE:
		pthread_mutex_lock(&ns->lock);
		set_state(engine, n, NEIGHBOR_STALE, FORGET_MS);
		pthread_mutex_unlock(&ns->lock);
		return;
	case NEIGHBOR_DELAY:
		pthread_mutex_lock(&ns->lock);
		set_state(engine, n, NEIGHBOR_PROBE, RETRANSMIT_MS);
		pthread_mutex_unlock(&ns->lock);
		n->probes = 1;
		ask(engine, n, true);
		return;
	case NEIGHBOR_STALE:
		pthread_mutex_lock(&ns->lock);
		forget(ns, n);
		pthread_mutex_unlock(&ns->lock);
		return;
	case NEIGHBOR_FREE:
		return;
	}
}

void neighbors_tick(struct engine *engine)
{
	struct neighbors *ns = engine->neighbors;

	/* Who can't be asked doesn't fail: packets go on to those that we know. */
	if (engine_is_mute(engine))
		return;
	/* A tick may come a little early: what is due within it is done now. */
	for (unsigned i = 0; i < ns->top; i++) {
		if (ns->table[i].state != NEIGHBOR_FREE &&
			ns->table[i].deadline_ms <= engine->now_ms + RETRANSMIT_MS / 4)
			expire(engine, &ns->table[i]);
	}
}

/* ---- ARP --------------------------------------------------------------------------------- */

void arp_input(struct engine *engine, struct packet *pkt, const struct rte_ether_addr *from)
{
	struct rte_mbuf *m = pkt->m;
	const struct rte_arp_hdr *arp = rte_pktmbuf_mtod(m, const struct rte_arp_hdr *);
	const struct iface *iface = engine_iface(engine, pkt->in_port);
	struct rte_ether_addr sha;
	uint32_t sip, tip;
	uint16_t opcode;
	bool for_us;

	if (m->data_len < sizeof(*arp) ||
		arp->arp_hardware != rte_cpu_to_be_16(RTE_ARP_HRD_ETHER) ||
		arp->arp_protocol != rte_cpu_to_be_16(RTE_ETHER_TYPE_IPV4) ||
		arp->arp_hlen != sizeof(sha) || arp->arp_plen != 4) {
		engine_drop(engine, pkt->in_port, m, DROP_arp_invalid);
		return;
	}
	opcode = rte_be_to_cpu_16(arp->arp_opcode);
	sha = arp->arp_data.arp_sha;
	sip = arp->arp_data.arp_sip;
	tip = arp->arp_data.arp_tip;
	for_us = iface_owns(iface, AF_INET, &tip);
	/* Our own copy on another server speaks with the same addresses (make before break). */
	if (!rte_is_valid_assigned_ether_addr(&sha) ||
		rte_is_same_ether_addr(&sha, &engine_iface(engine, pkt->in_port)->mac) ||
		iface_owns(iface, AF_INET, &sip) ||
		(sip != 0 && !iface_subnet(iface, AF_INET, &sip)) ||
		(opcode != RTE_ARP_OP_REQUEST && opcode != RTE_ARP_OP_REPLY)) {
		engine_drop(engine, pkt->in_port, m, DROP_arp_invalid);
		return;
	}
	if (sip != 0)
		neighbor_heard(engine, pkt->in_port, AF_INET, &sip, &sha,
			opcode == RTE_ARP_OP_REPLY && pkt->l2_unicast, true,
			opcode == RTE_ARP_OP_REQUEST && for_us);
	if (opcode == RTE_ARP_OP_REPLY) {
		rte_pktmbuf_prepend(m, sizeof(struct rte_ether_hdr));
		engine_punt(engine, pkt->in_port, m);
		return;
	}
	if (for_us)
		send_arp(engine, pkt->in_port, RTE_ARP_OP_REPLY, from, &tip, &sip);
	rte_pktmbuf_free(m);
}

/* ---- neighbour discovery ----------------------------------------------------------------- */

/* The link-layer address in an option, or NULL; `*ok` tells whether all options are whole. */
static const struct rte_ether_addr *find_option(
	const uint8_t *option, unsigned left, uint8_t type, bool *ok)
{
	const struct rte_ether_addr *found = NULL;

	*ok = false;
	while (left >= 8) {
		unsigned size = option[1] * 8u;

		if (size == 0 || size > left)
			return NULL;
		if (option[0] == type && size == 8)
			found = (const struct rte_ether_addr *)(option + 2);
		option += size;
		left -= size;
	}
	*ok = left == 0;
	return found;
}

static enum drop_reason solicited_by(struct engine *engine, struct packet *pkt,
	const struct rte_ipv6_hdr *ip, const void *target, const struct rte_ether_addr *mac)
{
	const struct iface *iface = engine_iface(engine, pkt->in_port);
	bool dad = IN6_IS_ADDR_UNSPECIFIED((const struct in6_addr *)ip->src_addr);
	static const uint8_t all_nodes[16] = {0xff, 0x02, [15] = 1};
	static const struct rte_ether_addr all_nodes_mac = {{0x33, 0x33, 0, 0, 0, 1}};
	static const uint8_t solicited_node[13] = {0xff, 0x02, [11] = 0x01, [12] = 0xff};
	uint32_t flags = ND_NA_FLAG_ROUTER | ND_NA_FLAG_OVERRIDE;
	struct rte_ether_addr to;

	if (dad && (mac || memcmp(ip->dst_addr, solicited_node, sizeof(solicited_node)) != 0))
		return DROP_nd_invalid;
	if (!iface_owns(iface, AF_INET6, target))
		return DROP_N;
	if (dad) {
		send_nd(engine, pkt->in_port, ND_NEIGHBOR_ADVERT, flags, &all_nodes_mac, target,
			all_nodes, target);
		return DROP_N;
	}
	if (!IN6_IS_ADDR_LINKLOCAL((const struct in6_addr *)ip->src_addr) &&
		!iface_subnet(iface, AF_INET6, ip->src_addr))
		return DROP_nd_invalid;
	if (mac) {
		to = *mac;
		neighbor_heard(
			engine, pkt->in_port, AF_INET6, ip->src_addr, &to, false, true, true);
	} else {
		const struct neighbor *n =
			find(engine->neighbors, pkt->in_port, AF_INET6, ip->src_addr);

		if (!n || n->state == NEIGHBOR_INCOMPLETE)
			return DROP_nd_invalid;
		to = n->mac;
	}
	send_nd(engine, pkt->in_port, ND_NEIGHBOR_ADVERT, flags | ND_NA_FLAG_SOLICITED, &to, target,
		ip->src_addr, target);
	return DROP_N;
}

bool nd_input(struct engine *engine, struct packet *pkt)
{
	struct rte_mbuf *m = pkt->m;
	const struct rte_ipv6_hdr *ip = rte_pktmbuf_mtod(m, const struct rte_ipv6_hdr *);
	const struct nd_neighbor_solicit *nd = (const struct nd_neighbor_solicit *)(ip + 1);
	unsigned size = m->data_len - (unsigned)sizeof(*ip);
	const struct rte_ether_addr *mac;
	enum drop_reason why = DROP_N;
	uint8_t type = nd->nd_ns_hdr.icmp6_type;
	bool ok;

	if (type < ND_ROUTER_SOLICIT || type > ND_NEIGHBOR_ADVERT)
		return false;
	if (ip->hop_limits != 255 || nd->nd_ns_hdr.icmp6_code != 0 || pkt->from_mpls) {
		engine_drop(engine, pkt->in_port, m, DROP_nd_invalid);
		return true;
	}
	if (type != ND_NEIGHBOR_SOLICIT && type != ND_NEIGHBOR_ADVERT)
		return false;
	if (size < sizeof(*nd) || IN6_IS_ADDR_MULTICAST(&nd->nd_ns_target)) {
		engine_drop(engine, pkt->in_port, m, DROP_nd_invalid);
		return true;
	}
	mac = find_option((const uint8_t *)(nd + 1), size - (unsigned)sizeof(*nd),
		type == ND_NEIGHBOR_SOLICIT ? ND_OPT_SOURCE_LINKADDR : ND_OPT_TARGET_LINKADDR, &ok);
	if (!ok) {
		engine_drop(engine, pkt->in_port, m, DROP_nd_invalid);
		return true;
	}
	if (type == ND_NEIGHBOR_ADVERT) {
		uint32_t flags = nd->nd_ns_hdr.icmp6_dataun.icmp6_un_data32[0];
		const struct neighbor *n =
			find(engine->neighbors, pkt->in_port, AF_INET6, &nd->nd_ns_target);
		struct rte_ether_addr known;

		if (IN6_IS_ADDR_MULTICAST((const struct in6_addr *)ip->dst_addr) &&
			flags & ND_NA_FLAG_SOLICITED) {
			engine_drop(engine, pkt->in_port, m, DROP_nd_invalid);
			return true;
		}
		/* Without the option it confirms the address that we have. */
		if (!mac && n && n->state != NEIGHBOR_INCOMPLETE) {
			known = n->mac;
			mac = &known;
		}
		if (mac)
			neighbor_heard(engine, pkt->in_port, AF_INET6, &nd->nd_ns_target, mac,
				flags & ND_NA_FLAG_SOLICITED, flags & ND_NA_FLAG_OVERRIDE, false);
		return false;
	}
	why = solicited_by(engine, pkt, ip, &nd->nd_ns_target, mac);
	if (why != DROP_N)
		engine_drop(engine, pkt->in_port, m, why);
	else
		rte_pktmbuf_free(m);
	return true;
}
