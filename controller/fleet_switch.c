/* SPDX-License-Identifier: GPL-2.0-or-later */

/* The fleet's edge switches: rules from the store's facts. */

#include "controller/fleet_internal.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SWITCH_APPLY_MS 10000
#define PHASE_MS 2000 /* of a move; what is late is in force when the switch is back */
#define NO_HASH 0

/*
 * What the store says of a site, kept as long as it doesn't change: in the moments of a move in
 * which a customer's VM stands still there is no time to read it.
 */
struct site_facts {
	uint64_t generation; /* of the store */
	struct fabric_site site;
	struct fabric_port *fabric_ports;
	struct port *ports; /* own the addresses that fabric_ports refer to */
	struct server *servers;
	size_t n_ports, n_servers;
};

/* A whole table, made ahead: see fleet_phase_prepare(). */
struct prepared {
	uint64_t generation, moves_serial;
	const struct fleet_move *move;
	enum fabric_phase phase;
	struct fabric_rules *rules; /* NULL: none */
	uint64_t hash;
};

struct switch_state {
	struct site_facts facts; /* generation 0: none */
	struct prepared prepared;
};

static void facts_free(struct site_facts *facts)
{
	free(facts->fabric_ports);
	free(facts->ports);
	free(facts->servers);
	memset(facts, 0, sizeof(*facts));
}

static void prepared_free(struct prepared *prepared)
{
	fabric_rules_free(prepared->rules);
	prepared->rules = NULL;
}

struct switch_state *fleet_switch_state_new(void)
{
	return calloc(1, sizeof(struct switch_state));
}

void fleet_switch_state_free(struct switch_state *state)
{
	if (state == NULL)
		return;
	facts_free(&state->facts);
	prepared_free(&state->prepared);
	free(state);
}

static const char *trunk_of(const struct site_facts *facts, int64_t server_id)
{
	for (size_t i = 0; i < facts->n_servers; i++) {
		if (facts->servers[i].id == server_id)
			return facts->servers[i].trunk;
	}
	return NULL;
}

static void add_fabric_port(struct site_facts *facts, const struct port *port)
{
	const char *trunk = trunk_of(facts, port->server_id);
	const char *to_trunk = trunk_of(facts, port->move.server_id);
	if (trunk == NULL)
		return;
	struct fabric_port *fp = &facts->fabric_ports[facts->site.n_ports++];
	*fp = (struct fabric_port){
		.id = (uint32_t)port->id,
		.customer = (uint32_t)port->customer_id,
		.vlan = (uint16_t)port->vlan,
		.has_ce_mac = port->has_ce_mac,
		.ce_mac = port->ce_mac,
		.addresses = port->addresses,
		.n_addresses = port->n_addresses,
		.mac = model_port_mac(port->id),
		.cust_vlan = (uint16_t)port->vlan_cust,
		.core_vlan = (uint16_t)port->vlan_core,
		.inside_address = port->inside,
		.label = port->label,
	};
	snprintf(fp->switch_port, sizeof(fp->switch_port), "%s", port->switch_port);
	snprintf(fp->trunk, sizeof(fp->trunk), "%s", trunk);
	/*
	 * A move whose operation was interrupted and hasn't been taken up again: both copies may
	 * run. Data goes to the one that surely has it (it is ended only after MOVE_SWITCHING), and
	 * the control plane stays where it may have gone already.
	 */
	if (port->move.state == MOVE_SWITCHING && to_trunk != NULL) {
		fp->phase = FABRIC_CONTROL_MOVED;
		snprintf(fp->to_trunk, sizeof(fp->to_trunk), "%s", to_trunk);
	}
}

/* Reads the facts if they changed. Errno; site->switch_lock is held. */
static int facts_refresh(struct fleet *fleet, struct fleet_site *fs)
{
	struct site_facts *facts = &fs->state->facts;
	struct site site;
	struct cvm cvm;
	struct protection protection = {.state = PROTECTION_NONE};
	if (facts->generation != 0 && facts->generation == store_generation(fleet->store))
		return 0;
	facts_free(facts);
	int err = store_begin(fleet->store); /* all facts of one moment */
	if (err != 0)
		return err;
	uint64_t generation = store_generation(fleet->store);
	err = store_site_get(fleet->store, fs->name, &site);
	if (err == 0)
		err = store_port_list(fleet->store, &facts->ports, &facts->n_ports);
	if (err == 0)
		err = store_server_list(fleet->store, &facts->servers, &facts->n_servers);
	int no_cvm = err == 0 ? store_cvm_get(fleet->store, fs->name, &cvm) : ENOENT;
	if (no_cvm == 0)
		store_protection_get(fleet->store, fs->name, &protection);
	store_rollback(fleet->store);
	if (err != 0)
		return err;
	facts->fabric_ports = calloc(facts->n_ports + 1, sizeof(*facts->fabric_ports));
	if (facts->fabric_ports == NULL)
		return ENOMEM;

	facts->site = (struct fabric_site){
		.id = (uint32_t)site.id,
		.pe_mac = model_pe_mac(site.id),
		.pe_address = site.pe_address,
		.core_address = site.core_address,
		.gateway = site.core_gateway,
		.transport_label = site.transport_label,
		.ports = facts->fabric_ports,
	};
	snprintf(facts->site.core_port, sizeof(facts->site.core_port), "%s", site.core_port);
	/* From the moment that a standby is to take over, whoever is believed dead is mute. */
	int64_t speaks = no_cvm != 0                               ? 0
			 : protection.state == PROTECTION_TAKEOVER ? protection.standby_id
								   : cvm.server_id;
	const char *trunk = no_cvm == 0 && cvm.in_fabric ? trunk_of(facts, speaks) : NULL;
	if (trunk != NULL) {
		facts->site.cvm = (struct fabric_cvm){
			.present = true,
			.core_vlan = (uint16_t)cvm.vlan_core,
			.inside_vlan = (uint16_t)cvm.vlan_inside,
			.inside_mac = model_inside_mac(site.id),
			.inside_address = cvm.inside,
		};
		snprintf(facts->site.cvm.trunk, sizeof(facts->site.cvm.trunk), "%s", trunk);
		trunk = trunk_of(facts, cvm.move.server_id);
		if (cvm.move.state == MOVE_SWITCHING && trunk != NULL) /* see add_fabric_port() */
			snprintf(facts->site.cvm.trunk, sizeof(facts->site.cvm.trunk), "%s", trunk);
	}
	for (size_t i = 0; i < facts->n_ports; i++) {
		if (facts->ports[i].site_id == site.id && facts->ports[i].in_fabric)
			add_fabric_port(facts, &facts->ports[i]);
	}
	facts->generation = generation;
	return 0;
}

static uint64_t hash_bytes(uint64_t hash, const void *data, size_t n)
{
	const unsigned char *byte = data;
	for (size_t i = 0; i < n; i++)
		hash = (hash ^ byte[i]) * UINT64_C(0x100000001b3);
	return hash;
}

static uint64_t hash_rules(const struct fabric_rules *rules)
{
	uint64_t hash = UINT64_C(0xcbf29ce484222325);
	for (size_t i = 0; i < rules->n; i++) {
		const struct fabric_rule *rule = &rules->rules[i];
		hash = hash_bytes(hash, &rule->cookie, sizeof(rule->cookie));
		hash = hash_bytes(hash, &rule->table, sizeof(rule->table));
		hash = hash_bytes(hash, &rule->priority, sizeof(rule->priority));
		hash = hash_bytes(hash, rule->in_port, strlen(rule->in_port) + 1);
		hash = hash_bytes(hash, rule->match, strlen(rule->match) + 1);
		hash = hash_bytes(hash, &rule->untag, sizeof(rule->untag));
		hash = hash_bytes(hash, rule->edit, strlen(rule->edit) + 1);
		hash = hash_bytes(hash, &rule->goto_table, sizeof(rule->goto_table));
		for (size_t j = 0; j < rule->n_outputs; j++) {
			const struct fabric_output *out = &rule->outputs[j];
			hash = hash_bytes(hash, out->port, strlen(out->port) + 1);
			hash = hash_bytes(hash, &out->vlan, sizeof(out->vlan));
		}
	}
	return hash == NO_HASH ? 1 : hash;
}

/* What a move that is under way makes of its port's facts. */
static void apply_move(const struct site_facts *facts, const struct fleet_move *move,
	enum fabric_phase phase, struct fabric_port *port)
{
	const char *from = trunk_of(facts, move->from->id), *to = trunk_of(facts, move->to->id);
	if (from == NULL || to == NULL)
		return;
	snprintf(port->trunk, sizeof(port->trunk), "%s", from);
	snprintf(port->to_trunk, sizeof(port->to_trunk), "%s", to);
	port->phase = phase;
}

/* A CVM has no data: it hears at the destination, and speaks there as soon as the source doesn't.
 */
static void apply_cvm_move(const struct site_facts *facts, const struct fleet_move *move,
	enum fabric_phase phase, struct fabric_cvm *cvm)
{
	const char *from = trunk_of(facts, move->from->id), *to = trunk_of(facts, move->to->id);
	if (from == NULL || to == NULL)
		return;
	snprintf(cvm->trunk, sizeof(cvm->trunk), "%s", phase == FABRIC_AT_SOURCE ? from : to);
	snprintf(cvm->out_trunk, sizeof(cvm->out_trunk), "%s",
		phase <= FABRIC_CONTROL_IN ? from : to);
}

/*
 * The site's whole table, with `move` (may be NULL) in `phase` and all others as they are.
 * `*serial` is that of the moves that were looked at. Errno; site->switch_lock is held.
 */
static int compute(struct fleet *fleet, struct fleet_site *fs, const struct fleet_move *move,
	enum fabric_phase phase, struct fabric_rules **rules, uint64_t *serial, struct why *why)
{
	int err = facts_refresh(fleet, fs);
	if (err != 0)
		return why_set(why, err, "the site's desired state can't be read");
	const struct site_facts *facts = &fs->state->facts;
	struct fabric_site site = facts->site;
	struct fabric_port *ports = calloc(site.n_ports + 1, sizeof(*ports));
	if (ports == NULL)
		return why_set(why, ENOMEM, "no memory");
	memcpy(ports, facts->fabric_ports, site.n_ports * sizeof(*ports));
	site.ports = ports;
	pthread_mutex_lock(&fleet->lock);
	*serial = fleet->moves_serial;
	for (const struct fleet_move *m = fleet->moves; m != NULL; m = m->next) {
		enum fabric_phase now = m == move ? phase : m->phase;
		if (m->is_cvm && m->site == fs && site.cvm.present)
			apply_cvm_move(facts, m, now, &site.cvm);
		for (size_t i = 0; !m->is_cvm && i < site.n_ports; i++) {
			if (ports[i].id == (uint32_t)m->port_id)
				apply_move(facts, m, now, &ports[i]);
		}
	}
	pthread_mutex_unlock(&fleet->lock);
	err = fabric_rules_compute(&site, rules, why);
	free(ports);
	return err;
}

void fleet_phase_prepare(struct fleet *fleet, struct fleet_move *move, enum fabric_phase phase)
{
	struct fleet_site *fs = move->site;
	pthread_mutex_lock(&fs->switch_lock);
	struct prepared *prepared = &fs->state->prepared;
	prepared_free(prepared);
	if (compute(fleet, fs, move, phase, &prepared->rules, &prepared->moves_serial, NULL) == 0) {
		prepared->generation = fs->state->facts.generation;
		prepared->move = move;
		prepared->phase = phase;
		prepared->hash = hash_rules(prepared->rules);
	}
	pthread_mutex_unlock(&fs->switch_lock);
}

/* Takes what was prepared for this moment, or NULL. site->switch_lock is held. */
static struct fabric_rules *take_prepared(
	struct fleet *fleet, struct fleet_move *move, enum fabric_phase phase, uint64_t *hash)
{
	struct prepared *prepared = &move->site->state->prepared;
	pthread_mutex_lock(&fleet->lock);
	bool good = prepared->rules != NULL && prepared->move == move && prepared->phase == phase &&
		    prepared->moves_serial == fleet->moves_serial &&
		    prepared->generation == store_generation(fleet->store);
	pthread_mutex_unlock(&fleet->lock);
	struct fabric_rules *rules = good ? prepared->rules : NULL;
	if (good)
		prepared->rules = NULL;
	*hash = prepared->hash;
	return rules;
}

int fleet_phase_set(
	struct fleet *fleet, struct fleet_move *move, enum fabric_phase phase, struct why *why)
{
	struct fleet_site *fs = move->site;
	struct fabric_rules *rules;
	uint64_t hash, serial;
	int err = 0;
	pthread_mutex_lock(&fs->switch_lock);
	rules = take_prepared(fleet, move, phase, &hash);
	/* From here on it is what the keeper wants too, whether the switch answers or not. */
	pthread_mutex_lock(&fleet->lock);
	move->phase = phase;
	fleet->moves_serial++;
	pthread_mutex_unlock(&fleet->lock);
	if (rules == NULL) {
		err = compute(fleet, fs, NULL, phase, &rules, &serial, why);
		hash = err == 0 ? hash_rules(rules) : NO_HASH;
	}
	if (err == 0)
		err = fabric_change(fs->fabric, rules, PHASE_MS, NULL, why);
	fabric_rules_free(rules);
	fs->applied = err == 0 ? hash : NO_HASH;
	pthread_mutex_unlock(&fs->switch_lock);
	/* Another port that isn't there is no concern of this one. */
	return err == ENODEV ? 0 : err;
}

/* `always`: apply also what was applied before. Errno; site->switch_lock is held. */
static int sync_switch_locked(struct fleet *fleet, struct fleet_site *site, bool always,
	struct fabric_result *result, struct why *why)
{
	struct fabric_rules *rules = NULL;
	uint64_t serial;
	int err = compute(fleet, site, NULL, FABRIC_AT_SOURCE, &rules, &serial, why);
	if (err != 0)
		return err;
	uint64_t hash = hash_rules(rules);
	if (always || hash != site->applied) {
		err = fabric_apply(site->fabric, rules, SWITCH_APPLY_MS, result, why);
		site->applied = err == 0 ? hash : NO_HASH;
	}
	fabric_rules_free(rules);
	return err;
}

int fleet_sync_switch(
	struct fleet *fleet, const char *name, char *detail, size_t size, struct problem *problem)
{
	struct site site;
	struct why why = {""};
	struct fabric_result result = {0};
	if (store_site_get(fleet->store, name, &site) != 0)
		return problem_set(problem, 404, "not-found", "there is no site %s", name);
	struct fleet_site *fs = fleet_site_ref(fleet, site.id);
	if (fs == NULL)
		return problem_set(problem, 404, "not-found", "there is no site %s", name);
	pthread_mutex_lock(&fs->switch_lock);
	int err = fabric_wait_connected(fs->fabric, FLEET_SWITCH_CONNECT_MS, &why);
	if (err == 0)
		err = sync_switch_locked(fleet, fs, true, &result, &why);
	pthread_mutex_unlock(&fs->switch_lock);
	fleet_site_unref(fleet, fs);

	/* A port that somebody else's rules need isn't there: no reason to fail. An event told. */
	if (err == ENODEV)
		err = 0;
	if (err == ETIMEDOUT || err == EHOSTUNREACH)
		fleet_switch_unreachable(problem, &why);
	else if (err != 0)
		problem_set(problem, 500, "switch-refused",
			"the edge switch of site %s can't be programmed: %s", name, why.text);
	int n = snprintf(detail, size, "%zu rules added, %zu changed, %zu removed, %zu untouched",
		result.added, result.modified, result.deleted, result.unchanged);
	if (result.left_out > 0 && n > 0 && (size_t)n < size)
		snprintf(detail + n, size - (size_t)n,
			", %zu left out until the switch has their port", result.left_out);
	return err != 0 ? -1 : 0;
}

int fleet_switch_confirm(struct fleet *fleet, int64_t site_id, struct why *why)
{
	struct fabric_result result;
	struct fleet_site *site = fleet_site_ref(fleet, site_id);
	if (site == NULL)
		return 0;
	pthread_mutex_lock(&site->switch_lock);
	int err = fabric_wait_connected(site->fabric, FLEET_SWITCH_CONNECT_MS, why);
	if (err == 0)
		err = sync_switch_locked(fleet, site, false, &result, why);
	pthread_mutex_unlock(&site->switch_lock);
	fleet_site_unref(fleet, site);
	return err == ENODEV ? 0 : err;
}

int fleet_switch_now(struct fleet *fleet, struct fleet_site *site, int timeout_ms, struct why *why)
{
	struct fabric_rules *rules = NULL;
	uint64_t serial, hash = NO_HASH, mine = store_generation(fleet->store);
	pthread_mutex_lock(&site->switch_lock);
	/* When many ask at once, one change is made for all that wait. */
	if (site->confirmed != 0 && site->confirmed >= mine) {
		pthread_mutex_unlock(&site->switch_lock);
		return 0;
	}
	int err = compute(fleet, site, NULL, FABRIC_AT_SOURCE, &rules, &serial, why);
	if (err == 0) {
		hash = hash_rules(rules);
		err = fabric_change(site->fabric, rules, timeout_ms, NULL, why);
	}
	fabric_rules_free(rules);
	site->applied = err == 0 ? hash : NO_HASH;
	err = err == ENODEV ? 0 : err;
	if (err == 0)
		site->confirmed = site->state->facts.generation;
	pthread_mutex_unlock(&site->switch_lock);
	return err;
}

void fleet_keep_switch(struct fleet *fleet, struct fleet_site *site)
{
	struct why why = {""};
	struct fabric_result result;
	char object[48];
	if (!fabric_connected(site->fabric))
		return;
	pthread_mutex_lock(&site->switch_lock);
	int err = sync_switch_locked(fleet, site, false, &result, &why);
	bool tell = err != 0 && err != ENOENT && !site->switch_trouble;
	site->switch_trouble = err != 0;
	pthread_mutex_unlock(&site->switch_lock);
	snprintf(object, sizeof(object), "site/%s", site->name);
	if (tell)
		fleet_event(fleet, "error", object, "the edge switch can't be programmed: %s",
			why.text);
}
