/* SPDX-License-Identifier: GPL-2.0-or-later */

#include <zebra.h>

#include "linklist.h"
#include "lib/log.h"
#include "monotime.h"
#include "workqueue.h"

#include "bgpd/bgpd.h"
#include "bgpd/bgp_aspath.h"
#include "bgpd/bgp_attr.h"
#include "bgpd/bgp_community.h"
#include "bgpd/bgp_debug.h"
#include "bgpd/bgp_ecommunity.h"
#include "bgpd/bgp_fsm.h"
#include "bgpd/bgp_label.h"
#include "bgpd/bgp_lcommunity.h"
#include "bgpd/bgp_mplsvpn.h"
#include "bgpd/bgp_rd.h"
#include "bgpd/bgp_route.h"
#include "bgpd/bgp_table.h"
#include "bgpd/bgp_updgrp.h"
#include "bgpd/bgp_zebra.h"

#include "common/bgp/bgp_convert.h"
#include "common/bgp/bgp_host.h"
#include "common/bgp/bgp_next_hop.h"
#include "common/bgp/bgp_show.h"

#define MAX_LIMIT 1000
#define DEFAULT_LIMIT 100
#define MAX_LOOKED_AT 20000 /* prefixes per call */

static const struct family {
	const char *name;
	afi_t afi;
	safi_t safi;
	bool vpn;
} families[] = {
	{"ipv4", AFI_IP, SAFI_UNICAST, false},
	{"ipv6", AFI_IP6, SAFI_UNICAST, false},
	{"vpnv4", AFI_IP, SAFI_MPLS_VPN, true},
	{"vpnv6", AFI_IP6, SAFI_MPLS_VPN, true},
};

/* ---- neighbours ------------------------------------------------------------------------------ */

static cJSON *show_family(struct peer *peer, const struct family *f)
{
	struct peer_af *paf = peer_af_find(peer, f->afi, f->safi);
	cJSON *o = cJSON_CreateObject();
	uint32_t n = peer->pcount[f->afi][f->safi];

	/* What a filter refused isn't kept, so it can't be counted either. */
	cJSON_AddNumberToObject(o, "received", n);
	cJSON_AddNumberToObject(o, "accepted", n);
	cJSON_AddNumberToObject(o, "sent", paf && PAF_SUBGRP(paf) ? PAF_SUBGRP(paf)->scount : 0);
	cJSON_AddBoolToObject(
		o, "eor", CHECK_FLAG(peer->af_sflags[f->afi][f->safi], PEER_STATUS_EOR_RECEIVED));
	return o;
}

/*
 * Why the session isn't up; nothing while it is. bgpd gives a new neighbour the reason "no family
 * activated", which was true only until its next line of configuration.
 */
static void last_error(struct peer *peer, char *text, size_t size)
{
	text[0] = '\0';
	if (!peer->last_reset || peer->last_reset == PEER_DOWN_WAITING_OPEN ||
		peer->last_reset == PEER_DOWN_NOAFI_ACTIVATED || peer_established(peer))
		return;
	if (peer->last_reset == PEER_DOWN_NOTIFY_SEND ||
		peer->last_reset == PEER_DOWN_NOTIFY_RECEIVED)
		snprintf(text, size, "notification %s: %s%s",
			peer->last_reset == PEER_DOWN_NOTIFY_SEND ? "sent" : "received",
			bgp_notify_code_str(peer->notify.code),
			bgp_notify_subcode_str(peer->notify.code, peer->notify.subcode));
	else
		snprintf(text, size, "%s", peer_down_str[peer->last_reset]);
}

static cJSON *show_neighbor(struct peer *peer, const char *role, const char *name)
{
	cJSON *o = cJSON_CreateObject(), *all;
	bool up = peer_established(peer);
	char text[160];

	cJSON_AddStringToObject(o, "role", role);
	if (name)
		cJSON_AddStringToObject(o, "name", name);
	cJSON_AddStringToObject(o, "address", peer->host);
	cJSON_AddNumberToObject(o, "remote_asn", peer->as);
	cJSON_AddStringToObject(o, "state", lookup_msg(bgp_status_msg, peer->status, "Idle"));
	cJSON_AddNumberToObject(
		o, "uptime_ms", up ? (double)(monotime(NULL) - peer->uptime) * 1000 : 0);
	all = cJSON_AddObjectToObject(o, "families");
	for (size_t i = 0; all && i < array_size(families); i++)
		if (peer->afc[families[i].afi][families[i].safi])
			cJSON_AddItemToObject(
				all, families[i].name, show_family(peer, &families[i]));
	cJSON_AddNumberToObject(o, "resets", peer->dropped);
	last_error(peer, text, sizeof(text));
	if (*text)
		cJSON_AddStringToObject(o, "last_error", text);
	else
		cJSON_AddNullToObject(o, "last_error");
	return o;
}

/* bgpd keeps doppelgangers for colliding connections in the same list. */
static bool is_configured(struct peer *peer)
{
	return CHECK_FLAG(peer->flags, PEER_FLAG_CONFIG_NODE);
}

cJSON *bgp_show_neighbors(bgp_namer namer, void *ctx)
{
	struct bgp *bgp = bgp_get_default();
	cJSON *all = cJSON_CreateArray();
	struct listnode *node;
	struct peer *peer;

	if (!bgp)
		return all;
	for (ALL_LIST_ELEMENTS_RO(bgp->peer, node, peer)) {
		const char *role = NULL, *name = NULL;

		if (is_configured(peer) && namer(ctx, peer->host, &role, &name))
			cJSON_AddItemToArray(all, show_neighbor(peer, role, name));
	}
	return all;
}

static bool has_sent_all(struct peer *peer, unsigned settle_ms)
{
	if (!peer_established(peer))
		return false;
	for (size_t i = 0; i < array_size(families); i++) {
		afi_t afi = families[i].afi;
		safi_t safi = families[i].safi;

		if (!peer->afc_nego[afi][safi] ||
			CHECK_FLAG(peer->af_sflags[afi][safi], PEER_STATUS_EOR_RECEIVED))
			continue;
		if (CHECK_FLAG(peer->cap, PEER_CAP_RESTART_RCV) ||
			(monotime(NULL) - peer->uptime) * 1000 < (time_t)settle_ms)
			return false;
	}
	return true;
}

bool bgp_show_converged(unsigned settle_ms)
{
	struct bgp *bgp = bgp_get_default();
	struct listnode *node;
	struct peer *peer;
	bool any = false;

	if (!bgp)
		return false;
	for (ALL_LIST_ELEMENTS_RO(bgp->peer, node, peer)) {
		if (!is_configured(peer))
			continue;
		any = true;
		if (!has_sent_all(peer, settle_ms))
			return false;
		/* Parsed already? */
		if (peer->ibuf && peer->ibuf->count)
			return false;
	}
	for (size_t i = 0; i < array_size(families); i++) {
		struct graceful_restart_info *gr = &bgp->gr_info[families[i].afi][families[i].safi];

		if (gr->t_route_select || gr->gr_deferred)
			return false;
	}
	return any && (!bgp->process_queue || work_queue_empty(bgp->process_queue));
}

/* ---- tables ---------------------------------------------------------------------------------- */

/* One place in a table: a VPN table is a table of tables, by route distinguisher. */
struct place {
	struct bgp_dest *rd;   /* locked; VPN only */
	struct bgp_dest *dest; /* locked */
};

static void leave(struct place *place)
{
	if (place->dest)
		bgp_dest_unlock_node(place->dest);
	if (place->rd)
		bgp_dest_unlock_node(place->rd);
	memset(place, 0, sizeof(*place));
}

/* From a VPN table's RD on (`place->rd`), the first prefix. */
static void first_of_rd(struct place *place)
{
	while (place->rd) {
		struct bgp_table *table = bgp_dest_get_bgp_table_info(place->rd);

		place->dest = table ? bgp_table_top(table) : NULL;
		if (place->dest)
			return;
		place->rd = bgp_route_next(place->rd);
	}
}

static void first(struct bgp_table *table, bool vpn, struct place *place)
{
	memset(place, 0, sizeof(*place));
	if (!vpn) {
		place->dest = bgp_table_top(table);
		return;
	}
	place->rd = bgp_table_top(table);
	first_of_rd(place);
}

static void advance(struct place *place)
{
	place->dest = bgp_route_next(place->dest);
	if (place->dest || !place->rd)
		return;
	place->rd = bgp_route_next(place->rd);
	first_of_rd(place);
}

/* The first place behind `rd`, `p` (which may be gone by now). */
static void behind(struct bgp_table *table, const struct prefix *rd, const struct prefix *p,
	struct place *place)
{
	struct bgp_table *inner = table;

	memset(place, 0, sizeof(*place));
	if (rd) {
		place->rd = bgp_node_lookup(table, rd);
		if (!place->rd) {
			place->rd = bgp_table_get_next(table, rd);
			first_of_rd(place);
			return;
		}
		inner = bgp_dest_get_bgp_table_info(place->rd);
	}
	place->dest = inner ? bgp_table_get_next(inner, p) : NULL;
	if (!place->dest && place->rd) {
		place->rd = bgp_route_next(place->rd);
		first_of_rd(place);
	}
}

/* ---- routes ---------------------------------------------------------------------------------- */

static void add_words(cJSON *object, const char *key, const char *text)
{
	cJSON *array = cJSON_AddArrayToObject(object, key);
	char *copy = text ? strdup(text) : NULL, *rest = copy, *word;

	while ((word = strsep(&rest, " ")))
		if (*word)
			cJSON_AddItemToArray(array, cJSON_CreateString(word));
	free(copy);
}

static void add_rts(cJSON *object, const struct attr *attr)
{
	cJSON *array = cJSON_AddArrayToObject(object, "rts");
	struct ecommunity *all = bgp_attr_get_ecommunity(attr);
	char *text, *rest, *word;

	if (!all)
		return;
	text = ecommunity_ecom2str(all, ECOMMUNITY_FORMAT_ROUTE_MAP, ECOMMUNITY_ROUTE_TARGET);
	rest = text;
	while ((word = strsep(&rest, " ")))
		if (*word)
			cJSON_AddItemToArray(array,
				cJSON_CreateString(strncmp(word, "rt:", 3) ? word : word + 3));
	ecommunity_strfree(&text);
}

static void add_communities(cJSON *object, const struct attr *attr)
{
	struct community *c = bgp_attr_get_community(attr);
	struct lcommunity *l = bgp_attr_get_lcommunity(attr);

	add_words(object, "communities",
		c && CHECK_FLAG(attr->flag, ATTR_FLAG_BIT(BGP_ATTR_COMMUNITIES))
			? community_str(c, false, true)
			: NULL);
	if (l)
		add_words(object, "large_communities", lcommunity_str(l, false, true));
}

static const char *origin_name(uint8_t origin)
{
	return origin == BGP_ORIGIN_IGP ? "igp" : origin == BGP_ORIGIN_EGP ? "egp" : "incomplete";
}

/* `best`: the selected one of the same prefix, or NULL. */
static cJSON *show_path(const struct bgp_path_info *best, struct bgp_path_info *pi)
{
	cJSON *o = cJSON_CreateObject();
	struct attr *attr = pi->attr;
	struct bgp_path_info *root = bgp_get_imported_bpi_ultimate(pi);
	bool local = !root->peer || root->peer == root->peer->bgp->peer_self;
	char text[INET6_ADDRSTRLEN];
	struct prefix nh;

	cJSON_AddBoolToObject(o, "best", CHECK_FLAG(pi->flags, BGP_PATH_SELECTED));
	cJSON_AddBoolToObject(o, "multipath",
		CHECK_FLAG(pi->flags, BGP_PATH_MULTIPATH) ||
			(best && bgp_is_label_sibling(best, pi)));
	cJSON_AddBoolToObject(o, "valid", CHECK_FLAG(pi->flags, BGP_PATH_VALID));
	cJSON_AddBoolToObject(o, "stale", CHECK_FLAG(pi->flags, BGP_PATH_STALE));
	if (local)
		cJSON_AddNullToObject(o, "from");
	else
		cJSON_AddStringToObject(o, "from", root->peer->host);
	nh = bgp_next_hop(pi, NULL);
	inet_ntop(nh.family, &nh.u.prefix, text, sizeof(text));
	cJSON_AddStringToObject(o, "next_hop", text);
	cJSON_AddStringToObject(
		o, "as_path", attr->aspath && attr->aspath->str ? attr->aspath->str : "");
	cJSON_AddStringToObject(o, "origin", origin_name(attr->origin));
	cJSON_AddNumberToObject(o, "local_pref",
		CHECK_FLAG(attr->flag, ATTR_FLAG_BIT(BGP_ATTR_LOCAL_PREF))
			? attr->local_pref
			: root->peer->bgp->default_local_pref);
	if (CHECK_FLAG(attr->flag, ATTR_FLAG_BIT(BGP_ATTR_MULTI_EXIT_DISC)))
		cJSON_AddNumberToObject(o, "med", attr->med);
	else
		cJSON_AddNullToObject(o, "med");
	add_communities(o, attr);
	add_rts(o, attr);
	if (pi->extra && pi->extra->num_labels && bgp_is_valid_label(&pi->extra->label[0]))
		cJSON_AddNumberToObject(o, "label", decode_label(&pi->extra->label[0]));
	else
		cJSON_AddNullToObject(o, "label");
	cJSON_AddBoolToObject(o, "imported", pi->sub_type == BGP_ROUTE_IMPORTED);
	return o;
}

static cJSON *show_route(const struct place *place)
{
	const struct prefix *p = bgp_dest_get_prefix(place->dest);
	struct bgp_path_info *pi, *best = NULL;
	cJSON *o = cJSON_CreateObject(), *paths;
	char text[PREFIX_STRLEN];

	if (place->rd) {
		char rd[RD_ADDRSTRLEN];

		prefix_rd2str(
			(const struct prefix_rd *)bgp_dest_get_prefix(place->rd), rd, sizeof(rd));
		cJSON_AddStringToObject(o, "rd", rd);
	}
	prefix2str(p, text, sizeof(text));
	cJSON_AddStringToObject(o, "prefix", text);
	paths = cJSON_AddArrayToObject(o, "paths");
	for (pi = bgp_dest_get_bgp_path_info(place->dest); pi; pi = pi->next)
		if (CHECK_FLAG(pi->flags, BGP_PATH_SELECTED))
			best = pi;
	for (pi = bgp_dest_get_bgp_path_info(place->dest); pi; pi = pi->next)
		if (!CHECK_FLAG(pi->flags, BGP_PATH_REMOVED))
			cJSON_AddItemToArray(paths, show_path(best, pi));
	return o;
}

struct query {
	const struct family *family;
	bool has_prefix, has_after, has_rd;
	struct prefix prefix, after;
	struct prefix_rd after_rd;
	unsigned limit;
};

static const char *text_of(const cJSON *params, const char *key)
{
	const cJSON *item = cJSON_GetObjectItemCaseSensitive(params, key);

	return item && !cJSON_IsNull(item) ? (cJSON_IsString(item) ? item->valuestring : "") : NULL;
}

static bool parse_prefix(const struct family *f, const char *text, struct prefix *p)
{
	struct ep_prefix prefix;

	if (ep_prefix_parse(text, false, &prefix, NULL) ||
		prefix.family != (f->afi == AFI_IP ? AF_INET : AF_INET6))
		return false;
	*p = frr_prefix_from_ep(&prefix);
	return true;
}

static bool parse_after(struct query *q, const char *text)
{
	char rd[RD_ADDRSTRLEN];
	const char *space = strchr(text, ' ');

	q->has_after = true;
	if (!q->family->vpn)
		return parse_prefix(q->family, text, &q->after);
	if (!space || (size_t)(space - text) >= sizeof(rd))
		return false;
	memcpy(rd, text, space - text);
	rd[space - text] = '\0';
	q->has_rd = true;
	return str2prefix_rd(rd, &q->after_rd) && parse_prefix(q->family, space + 1, &q->after);
}

static int parse_query(const cJSON *params, bool vpn, struct query *q, struct jsonrpc_error *err)
{
	const cJSON *limit = cJSON_GetObjectItemCaseSensitive(params, "limit");
	const char *family = text_of(params, "family");
	const char *prefix = text_of(params, "prefix"), *after = text_of(params, "after");

	memset(q, 0, sizeof(*q));
	for (size_t i = 0; family && i < array_size(families); i++)
		if (families[i].vpn == vpn && !strcmp(families[i].name, family))
			q->family = &families[i];
	if (!q->family)
		return jsonrpc_fail(err, JSONRPC_INVALID_PARAMS, "/family", "must be one of: %s",
			vpn ? "vpnv4, vpnv6" : "ipv4, ipv6");
	if (prefix) {
		q->has_prefix = true;
		if (!parse_prefix(q->family, prefix, &q->prefix))
			return jsonrpc_fail(err, JSONRPC_INVALID_PARAMS, "/prefix",
				"must be a prefix of that family, such as %s",
				q->family->afi == AFI_IP ? "10.1.0.0/16" : "2001:db8::/32");
	}
	if (after && !parse_after(q, after))
		return jsonrpc_fail(err, JSONRPC_INVALID_PARAMS, "/after",
			"must be the \"next\" of an earlier answer");
	q->limit = DEFAULT_LIMIT;
	if (limit && !cJSON_IsNull(limit)) {
		if (!cJSON_IsNumber(limit) || limit->valuedouble < 1 ||
			limit->valuedouble > MAX_LIMIT)
			return jsonrpc_fail(err, JSONRPC_INVALID_PARAMS, "/limit",
				"must be a number from 1 to %d", MAX_LIMIT);
		q->limit = limit->valuedouble;
	}
	return 0;
}

static void add_next(cJSON *result, const struct place *place)
{
	char prefix[PREFIX_STRLEN], rd[RD_ADDRSTRLEN], text[sizeof(prefix) + sizeof(rd) + 1];

	prefix2str(bgp_dest_get_prefix(place->dest), prefix, sizeof(prefix));
	if (place->rd)
		snprintf(text, sizeof(text), "%s %s",
			prefix_rd2str((const struct prefix_rd *)bgp_dest_get_prefix(place->rd), rd,
				sizeof(rd)),
			prefix);
	else
		snprintf(text, sizeof(text), "%s", prefix);
	cJSON_AddStringToObject(result, "next", text);
}

/* The places of one prefix: one, or one per RD. */
static void show_prefix(struct bgp_table *table, const struct query *q, cJSON *routes)
{
	struct place place = {0};

	if (!q->family->vpn) {
		place.dest = bgp_node_lookup(table, &q->prefix);
		if (place.dest && bgp_dest_get_bgp_path_info(place.dest))
			cJSON_AddItemToArray(routes, show_route(&place));
		leave(&place);
		return;
	}
	for (place.rd = bgp_table_top(table); place.rd; place.rd = bgp_route_next(place.rd)) {
		struct bgp_table *inner = bgp_dest_get_bgp_table_info(place.rd);

		place.dest = inner ? bgp_node_lookup(inner, &q->prefix) : NULL;
		if (!place.dest)
			continue;
		if (bgp_dest_get_bgp_path_info(place.dest))
			cJSON_AddItemToArray(routes, show_route(&place));
		bgp_dest_unlock_node(place.dest);
		place.dest = NULL;
	}
}

int bgp_show_routes(const cJSON *params, bool vpn, cJSON **result, struct jsonrpc_error *err)
{
	struct bgp *bgp = bgp_get_default();
	struct bgp_table *table;
	struct query q;
	struct place place, last;
	unsigned shown = 0, looked_at = 0;
	cJSON *routes;

	if (parse_query(params, vpn, &q, err) || !q.family)
		return -1;
	*result = cJSON_CreateObject();
	routes = cJSON_AddArrayToObject(*result, "routes");
	table = bgp ? bgp->rib[q.family->afi][q.family->safi] : NULL;
	if (!table)
		return 0;
	if (q.has_prefix) {
		show_prefix(table, &q, routes);
		return 0;
	}
	if (q.has_after)
		behind(table, q.has_rd ? (const struct prefix *)&q.after_rd : NULL, &q.after,
			&place);
	else
		first(table, vpn, &place);
	while (place.dest) {
		bool full;

		if (bgp_dest_get_bgp_path_info(place.dest)) {
			cJSON_AddItemToArray(routes, show_route(&place));
			shown++;
		}
		full = shown >= q.limit || ++looked_at >= MAX_LOOKED_AT;
		if (full) {
			last = place;
			bgp_dest_lock_node(last.dest);
			if (last.rd)
				bgp_dest_lock_node(last.rd);
			advance(&place);
			if (place.dest)
				add_next(*result, &last);
			leave(&last);
			break;
		}
		advance(&place);
	}
	leave(&place);
	return 0;
}

/* ---- sizes ----------------------------------------------------------------------------------- */

#define SMALL_TABLE 10000 /* nodes: counted in well under a millisecond */
#define RECOUNT_MS 5000

static size_t count_table(struct bgp_table *table, bool vpn, size_t *nodes)
{
	struct bgp_dest *dest;
	size_t n = 0;

	for (dest = bgp_table_top(table); dest; dest = bgp_route_next(dest)) {
		struct bgp_table *inner = vpn ? bgp_dest_get_bgp_table_info(dest) : NULL;

		++*nodes;
		if (inner)
			n += count_table(inner, false, nodes);
		else if (!vpn && bgp_dest_get_bgp_path_info(dest))
			n++;
	}
	return n;
}

cJSON *bgp_show_rib(bool vpn)
{
	/* A big table is not walked at every call. */
	static struct {
		size_t prefixes, nodes;
		unsigned long at_ms;
	} counted[array_size(families)];
	struct bgp *bgp = bgp_get_default();
	cJSON *o = cJSON_CreateObject();
	unsigned long now = host_now_ms();

	for (size_t i = 0; i < array_size(families); i++) {
		const struct family *f = &families[i];

		if (f->vpn != vpn)
			continue;
		if (counted[i].nodes < SMALL_TABLE || now - counted[i].at_ms >= RECOUNT_MS) {
			counted[i].nodes = 0;
			counted[i].prefixes =
				bgp ? count_table(bgp->rib[f->afi][f->safi], vpn, &counted[i].nodes)
				    : 0;
			counted[i].at_ms = now;
		}
		cJSON_AddNumberToObject(o, f->name, counted[i].prefixes);
	}
	return o;
}
