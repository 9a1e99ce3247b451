/* SPDX-License-Identifier: GPL-2.0-or-later */

#include <config.h>

#include "controller/fabric_flows.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <openvswitch/dynamic-string.h>
#include <openvswitch/ofp-flow.h>

#include "flow.h"
#include "hash.h"
#include "util.h"

void flow_set_init(struct flow_set *set)
{
	hmap_init(&set->flows);
}

void flow_set_destroy(struct flow_set *set)
{
	struct flow_entry *entry;

	HMAP_FOR_EACH_SAFE(entry, node, &set->flows)
	{
		free(entry->actions);
		free(entry);
	}
	hmap_destroy(&set->flows);
}

static uint32_t entry_hash(const struct flow_entry *entry)
{
	return match_hash(&entry->match, hash_2words(entry->table, entry->priority));
}

static struct flow_entry *set_find(const struct flow_set *set, const struct flow_entry *like)
{
	struct flow_entry *entry;

	HMAP_FOR_EACH_WITH_HASH(entry, node, entry_hash(like), &set->flows)
	if (entry->table == like->table && entry->priority == like->priority &&
		match_equal(&entry->match, &like->match))
		return entry;
	return NULL;
}

static void set_insert(struct flow_set *set, struct flow_entry *entry)
{
	hmap_insert(&set->flows, &entry->node, entry_hash(entry));
}

/* ---- from a rule -------------------------------------------------------------------------- */

static bool port_number(const struct ofputil_port_map *ports, const char *name, ofp_port_t *number)
{
	*number = ofputil_port_map_get_number(ports, name);
	return *number != OFPP_NONE;
}

/* Writes the outputs, each with its tag. Returns how many; names a port that isn't there. */
static size_t put_outputs(struct ds *text, const struct fabric_rule *rule,
	const struct ofputil_port_map *ports, const char **missing)
{
	bool tagged = false;
	size_t n = 0;

	for (size_t i = 0; i < rule->n_outputs; i++) {
		const struct fabric_output *output = &rule->outputs[i];
		ofp_port_t number;

		if (!port_number(ports, output->port, &number)) {
			*missing = output->port;
			continue;
		}
		if (output->vlan && !tagged)
			ds_put_cstr(text, "push_vlan:0x8100,");
		if (output->vlan) /* OFPVID_PRESENT | VID: OpenFlow 1.4 7.2.3.7 */
			ds_put_format(text, "set_field:%u->vlan_vid,", 0x1000u | output->vlan);
		else if (tagged)
			ds_put_cstr(text, "pop_vlan,");
		tagged = output->vlan != 0;
		/* Sending a frame back where it came from has to be said explicitly. */
		if (strcmp(output->port, rule->in_port) == 0)
			ds_put_cstr(text, "in_port,");
		else
			ds_put_format(text, "output:%u,", ofp_to_u16(number));
		n++;
	}
	return n;
}

static void put_actions(struct ds *text, const struct fabric_rule *rule,
	const struct ofputil_port_map *ports, const char **missing)
{
	struct ds outputs = DS_EMPTY_INITIALIZER;
	size_t n = put_outputs(&outputs, rule, ports, missing);

	ds_put_cstr(text, "actions=");
	if (n == 0 && rule->goto_table == FABRIC_DROP) {
		ds_put_cstr(text, "drop");
	} else {
		if (rule->untag)
			ds_put_cstr(text, "pop_vlan,");
		if (rule->edit[0])
			ds_put_format(text, "%s,", rule->edit);
		ds_put_cstr(text, ds_cstr(&outputs));
		if (rule->goto_table != FABRIC_DROP)
			ds_put_format(text, "goto_table:%u,", rule->goto_table);
		ds_chomp(text, ',');
	}
	ds_destroy(&outputs);
}

/*
 * Encodes and decodes, since the switch shows flows as they come over the wire: a match or an
 * action that can be said in two ways is then said in just one.
 */
static int normalise(const struct ofputil_flow_mod *fm, enum ofputil_protocol protocol,
	struct flow_entry *entry, struct why *why)
{
	struct ofpbuf *message = ofputil_encode_flow_mod(fm, protocol);
	struct ofputil_flow_mod decoded;
	struct ofpbuf actions;
	enum ofperr error;

	ofpbuf_init(&actions, 256);
	error = ofputil_decode_flow_mod(
		&decoded, message->data, protocol, NULL, NULL, &actions, OFPP_MAX, UINT8_MAX);
	if (!error) {
		minimatch_expand(&decoded.match, &entry->match);
		entry->table = decoded.table_id;
		entry->priority = decoded.priority;
		entry->cookie = decoded.new_cookie;
		entry->actions = xmemdup(decoded.ofpacts, decoded.ofpacts_len);
		entry->actions_len = decoded.ofpacts_len;
		minimatch_destroy(&decoded.match);
	}
	ofpbuf_uninit(&actions);
	ofpbuf_delete(message);
	return error ? why_set(why, EINVAL, "%s", ofperr_to_string(error)) : 0;
}

static int entry_from_text(const char *text, enum ofputil_protocol protocol,
	struct flow_entry **entryp, struct why *why)
{
	enum ofputil_protocol usable;
	struct ofputil_flow_mod fm;
	struct flow_entry *entry;
	char *wrong = parse_ofp_flow_mod_str(&fm, text, NULL, NULL, OFPFC_ADD, &usable);
	int error;

	if (wrong) {
		why_set(why, EINVAL, "\"%s\": %s", text, wrong);
		free(wrong);
		return EINVAL;
	}
	entry = xzalloc(sizeof(*entry));
	error = (usable & protocol)
			? normalise(&fm, protocol, entry, why)
			: why_set(why, EINVAL, "\"%s\" is not possible with this switch's OpenFlow",
				  text);
	free(fm.ofpacts);
	minimatch_destroy(&fm.match);
	if (error)
		free(entry);
	else
		*entryp = entry;
	return error;
}

int flow_set_add_rule(struct flow_set *set, const struct fabric_rule *rule,
	const struct ofputil_port_map *ports, enum ofputil_protocol protocol, const char **missing,
	struct why *why)
{
	struct ds text = DS_EMPTY_INITIALIZER;
	struct flow_entry *entry = NULL;
	ofp_port_t in_port = OFPP_NONE;
	int error;

	*missing = NULL;
	if (rule->in_port[0] && !port_number(ports, rule->in_port, &in_port)) {
		*missing = rule->in_port;
		return ENODEV;
	}
	ds_put_format(&text, "table=%u,priority=%u,cookie=0x%" PRIx64 ",", rule->table,
		rule->priority, rule->cookie);
	if (rule->in_port[0])
		ds_put_format(&text, "in_port=%u,", ofp_to_u16(in_port));
	if (rule->match[0])
		ds_put_format(&text, "%s,", rule->match);
	put_actions(&text, rule, ports, missing);

	error = entry_from_text(ds_cstr(&text), protocol, &entry, why);
	if (!error && set_find(set, entry)) {
		error = why_set(why, EINVAL, "two rules have the match of \"%s\"", ds_cstr(&text));
		free(entry->actions);
		free(entry);
	} else if (!error) {
		set_insert(set, entry);
	}
	ds_destroy(&text);
	return error ? error : *missing ? ENODEV : 0;
}

/* ---- from a switch ------------------------------------------------------------------------ */

int flow_set_add_reply(struct flow_set *set, struct ofpbuf *reply)
{
	struct ofpbuf actions;
	int retval;

	ofpbuf_init(&actions, 256);
	for (;;) {
		struct ofputil_flow_stats fs;
		struct flow_entry *entry;

		retval = ofputil_decode_flow_stats_reply(&fs, reply, false, &actions);
		if (retval)
			break;
		entry = xzalloc(sizeof(*entry));
		entry->match = fs.match;
		entry->table = fs.table_id;
		entry->priority = fs.priority;
		entry->cookie = fs.cookie;
		entry->foreign = fs.idle_timeout || fs.hard_timeout || fs.flags || fs.importance;
		entry->actions = xmemdup(fs.ofpacts, fs.ofpacts_len);
		entry->actions_len = fs.ofpacts_len;
		set_insert(set, entry);
	}
	ofpbuf_uninit(&actions);
	return retval == EOF ? 0 : EPROTO;
}

/* ---- difference --------------------------------------------------------------------------- */

struct differ {
	enum ofputil_protocol protocol;
	flow_diff_fn emit;
	void *ctx;
};

static void emit(struct differ *d, const struct flow_entry *entry, uint16_t command)
{
	bool remove = command == OFPFC_DELETE_STRICT;
	struct ds text = DS_EMPTY_INITIALIZER;
	struct ofputil_flow_mod fm = {
		.priority = entry->priority,
		.table_id = entry->table,
		.command = command,
		.buffer_id = UINT32_MAX,
		.out_port = OFPP_ANY,
		.out_group = OFPG_ANY,
		.new_cookie = command == OFPFC_ADD ? entry->cookie : OVS_BE64_MAX,
		.ofpacts = remove ? NULL : entry->actions,
		.ofpacts_len = remove ? 0 : entry->actions_len,
	};

	ds_put_format(&text, "table %u, ", entry->table);
	match_format(&entry->match, NULL, &text, entry->priority);
	minimatch_init(&fm.match, &entry->match);
	d->emit(d->ctx, ofputil_encode_flow_mod(&fm, d->protocol), ds_cstr(&text));
	minimatch_destroy(&fm.match);
	ds_destroy(&text);
}

/* Bytes that say the same may differ in padding and in notes of the decoder; their text doesn't. */
static bool actions_equal(const struct flow_entry *a, const struct flow_entry *b)
{
	return ofpacts_equal(a->actions, a->actions_len, b->actions, b->actions_len) ||
	       ofpacts_equal_stringwise(a->actions, a->actions_len, b->actions, b->actions_len);
}

void flow_set_diff(const struct flow_set *have, const struct flow_set *want,
	enum ofputil_protocol protocol, flow_diff_fn emit_fn, void *ctx, struct flow_diff *diff)
{
	struct differ d = {.protocol = protocol, .emit = emit_fn, .ctx = ctx};
	struct flow_entry *entry;

	*diff = (struct flow_diff){0};
	HMAP_FOR_EACH(entry, node, &have->flows)
	{
		if (set_find(want, entry))
			continue;
		emit(&d, entry, OFPFC_DELETE_STRICT);
		diff->deleted++;
	}
	HMAP_FOR_EACH(entry, node, &want->flows)
	{
		const struct flow_entry *old = set_find(have, entry);

		if (!old) {
			emit(&d, entry, OFPFC_ADD);
			diff->added++;
		} else if (old->cookie != entry->cookie || old->foreign) {
			/* Only adding it anew changes these; the counters begin again. */
			emit(&d, entry, OFPFC_ADD);
			diff->modified++;
		} else if (!actions_equal(old, entry)) {
			emit(&d, entry, OFPFC_MODIFY_STRICT);
			diff->modified++;
		} else {
			diff->unchanged++;
		}
	}
}
