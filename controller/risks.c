/* SPDX-License-Identifier: GPL-2.0-or-later */

#include "controller/risks.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

struct report {
	const struct server *servers;
	size_t n;
	const struct risk_part *parts;
	size_t n_parts;
	cJSON *findings;
};

static const struct server *server_of(const struct report *report, int64_t id)
{
	for (size_t i = 0; i < report->n; i++) {
		if (report->servers[i].id == id)
			return &report->servers[i];
	}
	return NULL;
}

static bool has_risk(const struct server *server, const char *name)
{
	for (size_t i = 0; i < server->risks.n; i++) {
		if (strcmp(server->risks.name[i], name) == 0)
			return true;
	}
	return false;
}

/* ---- findings ----------------------------------------------------------------------------- */

__attribute__((format(printf, 4, 5))) static cJSON *add_finding(
	struct report *report, const char *kind, cJSON *shared, const char *fmt, ...)
{
	char text[512];
	va_list args;
	cJSON *finding = cJSON_CreateObject();
	va_start(args, fmt);
	vsnprintf(text, sizeof(text), fmt, args);
	va_end(args);
	cJSON_AddStringToObject(finding, "kind", kind);
	cJSON *parts = cJSON_AddArrayToObject(finding, "parts");
	cJSON_AddItemToObject(finding, "shared", shared);
	cJSON_AddStringToObject(finding, "text", text);
	cJSON_AddItemToArray(report->findings, finding);
	return parts;
}

static void add_name(cJSON *list, const char *name)
{
	cJSON_AddItemToArray(list, cJSON_CreateString(name));
}

/* What two servers have in common, as a list: the server itself if they are one. */
static cJSON *shared_by(const struct server *a, const struct server *b)
{
	char text[MODEL_NAME_SIZE + 8];
	cJSON *list = cJSON_CreateArray();
	if (a == b) {
		snprintf(text, sizeof(text), "server %s", a->name);
		add_name(list, text);
		return list;
	}
	for (size_t i = 0; i < a->risks.n; i++) {
		if (has_risk(b, a->risks.name[i]))
			add_name(list, a->risks.name[i]);
	}
	return list;
}

/* "rack=r1, power=a"; what doesn't fit is left out. */
static const char *join(const cJSON *list, char *text, size_t size)
{
	const cJSON *item;
	size_t len = 0;
	text[0] = '\0';
	cJSON_ArrayForEach (item, list) {
		if (len < size)
			len += (size_t)snprintf(text + len, size - len, "%s%s", len > 0 ? ", " : "",
				item->valuestring);
	}
	return text;
}

/* A pair of which one is to go on when the other fails. */
static void check_pair(struct report *report, const char *kind, const struct risk_part *a,
	const struct risk_part *b, const char *what)
{
	const struct server *at_a = server_of(report, a->server_id),
			    *at_b = server_of(report, b->server_id);
	char text[256];
	if (at_a == NULL || at_b == NULL)
		return;
	cJSON *shared = shared_by(at_a, at_b);
	if (shared->child == NULL) {
		cJSON_Delete(shared);
		return;
	}
	cJSON *parts = add_finding(report, kind, shared, "%s and %s share %s: %s", a->name, b->name,
		join(shared, text, sizeof(text)), what);
	add_name(parts, a->name);
	add_name(parts, b->name);
}

static void check_pairs(struct report *report)
{
	char what[96];
	for (size_t i = 0; i < report->n_parts; i++) {
		for (size_t j = 0; j < report->n_parts; j++) {
			const struct risk_part *a = &report->parts[i], *b = &report->parts[j];
			if (a->kind == RISK_PART_CVM && b->kind == RISK_PART_STANDBY)
				check_pair(report, "cvm-standby", a, b,
					"what takes one takes the other");
			if (i >= j || a->kind != RISK_PART_PVM || b->kind != RISK_PART_PVM ||
				strcmp(a->customer, b->customer) != 0)
				continue;
			snprintf(what, sizeof(what), "customer %s would lose both", a->customer);
			check_pair(report, "customer", a, b, what);
		}
	}
}

/* Is there a spare that fails apart from the PVM? If not: what the first of them shares with it. */
static bool has_spare_apart(
	const struct report *report, const struct server *at, size_t *n_spares, cJSON **shared)
{
	*n_spares = 0;
	*shared = NULL;
	for (size_t i = 0; i < report->n_parts; i++) {
		const struct risk_part *spare = &report->parts[i];
		const struct server *there = server_of(report, spare->server_id);
		if (spare->kind != RISK_PART_SPARE || there == NULL)
			continue;
		++*n_spares;
		cJSON *common = shared_by(at, there);
		if (common->child == NULL) {
			cJSON_Delete(common);
			cJSON_Delete(*shared);
			*shared = NULL;
			return true;
		}
		if (*shared == NULL)
			*shared = common;
		else
			cJSON_Delete(common);
	}
	return false;
}

static void check_spares_of(struct report *report, const struct risk_part *pvm)
{
	const struct server *at = server_of(report, pvm->server_id);
	size_t n_spares;
	cJSON *shared;
	if (at == NULL || has_spare_apart(report, at, &n_spares, &shared) || n_spares == 0)
		return;
	char text[256];
	cJSON *parts = add_finding(report, "spares", shared,
		"every spare shares something with %s, such as %s: none may be left to stand in "
		"for it",
		pvm->name, join(shared, text, sizeof(text)));
	add_name(parts, pvm->name);
	for (size_t i = 0; i < report->n_parts; i++) {
		if (report->parts[i].kind == RISK_PART_SPARE)
			add_name(parts, report->parts[i].name);
	}
}

/* What all parts of the kind have in common: NULL if there are fewer than two, or nothing. */
static cJSON *shared_by_all(const struct report *report, enum risk_part_kind kind)
{
	const struct server *first = NULL;
	bool one_server = true;
	size_t n_parts = 0;
	cJSON *shared = NULL;
	for (size_t i = 0; i < report->n_parts; i++) {
		const struct server *at = server_of(report, report->parts[i].server_id);
		if (report->parts[i].kind != kind || at == NULL)
			continue;
		n_parts++;
		if (first == NULL)
			first = at;
		one_server &= at == first;
	}
	if (n_parts < 2)
		return NULL;
	if (one_server)
		return shared_by(first, first);
	shared = cJSON_CreateArray();
	for (size_t r = 0; r < first->risks.n; r++) {
		bool all = true;
		for (size_t i = 0; i < report->n_parts && all; i++) {
			const struct server *at = server_of(report, report->parts[i].server_id);
			all = report->parts[i].kind != kind || at == NULL ||
			      has_risk(at, first->risks.name[r]);
		}
		if (all)
			add_name(shared, first->risks.name[r]);
	}
	if (shared->child != NULL)
		return shared;
	cJSON_Delete(shared);
	return NULL;
}

static void check_pool(struct report *report)
{
	char text[256];
	cJSON *shared = shared_by_all(report, RISK_PART_SPARE);
	if (shared == NULL)
		return;
	cJSON *parts = add_finding(report, "pool", shared,
		"the whole pool of spares shares %s: what takes that leaves none",
		join(shared, text, sizeof(text)));
	for (size_t i = 0; i < report->n_parts; i++) {
		if (report->parts[i].kind == RISK_PART_SPARE)
			add_name(parts, report->parts[i].name);
	}
}

static void check_servers(struct report *report)
{
	char text[MODEL_NAME_SIZE + 8];
	if (report->n == 1) {
		snprintf(text, sizeof(text), "server %s", report->servers[0].name);
		cJSON *shared = cJSON_CreateArray();
		add_name(shared, text);
		cJSON *parts = add_finding(report, "single-server", shared,
			"the site has one server, %s: nothing can stand in for what is on it",
			report->servers[0].name);
		add_name(parts, text);
		return;
	}
	for (size_t r = 0; report->n > 0 && r < report->servers[0].risks.n; r++) {
		const char *name = report->servers[0].risks.name[r];
		bool all = true;
		for (size_t i = 1; i < report->n; i++)
			all &= has_risk(&report->servers[i], name);
		if (!all)
			continue;
		cJSON *shared = cJSON_CreateArray();
		add_name(shared, name);
		cJSON *parts = add_finding(report, "servers", shared,
			"all servers of the site share %s: what takes that takes the site", name);
		for (size_t i = 0; i < report->n; i++) {
			snprintf(text, sizeof(text), "server %s", report->servers[i].name);
			add_name(parts, text);
		}
	}
}

/* ---- the report --------------------------------------------------------------------------- */

static bool is_new(const cJSON *groups, const char *name)
{
	const cJSON *group;
	cJSON_ArrayForEach (group, groups) {
		if (strcmp(cJSON_GetObjectItemCaseSensitive(group, "name")->valuestring, name) == 0)
			return false;
	}
	return true;
}

static void add_groups(const struct report *report, cJSON *groups)
{
	for (size_t i = 0; i < report->n; i++) {
		for (size_t r = 0; r < report->servers[i].risks.n; r++) {
			const char *name = report->servers[i].risks.name[r];
			if (!is_new(groups, name))
				continue;
			cJSON *group = cJSON_CreateObject();
			cJSON_AddStringToObject(group, "name", name);
			cJSON *members = cJSON_AddArrayToObject(group, "servers");
			for (size_t j = i; j < report->n; j++) {
				if (has_risk(&report->servers[j], name))
					add_name(members, report->servers[j].name);
			}
			cJSON_AddItemToArray(groups, group);
		}
	}
}

cJSON *risks_report(
	const struct server *servers, size_t n, const struct risk_part *parts, size_t n_parts)
{
	cJSON *json = cJSON_CreateObject();
	struct report report = {.servers = servers, .n = n, .parts = parts, .n_parts = n_parts};
	add_groups(&report, cJSON_AddArrayToObject(json, "groups"));
	report.findings = cJSON_AddArrayToObject(json, "findings");
	check_servers(&report);
	check_pairs(&report);
	for (size_t i = 0; i < n_parts; i++) {
		if (parts[i].kind == RISK_PART_PVM)
			check_spares_of(&report, &parts[i]);
	}
	check_pool(&report);
	cJSON *unknown = cJSON_AddArrayToObject(json, "unknown");
	for (size_t i = 0; i < n; i++) {
		if (servers[i].risks.n == 0)
			add_name(unknown, servers[i].name);
	}
	return json;
}
