/* SPDX-License-Identifier: GPL-2.0-or-later */

#include "controller/health.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

struct text {
	char *buf;
	size_t size, len;
};

/* Appends one finding; what doesn't fit is cut. */
__attribute__((format(printf, 2, 3))) static void say(struct text *text, const char *fmt, ...)
{
	va_list args;
	if (text->len > 0 && text->len + 3 < text->size)
		text->len += (size_t)snprintf(text->buf + text->len, text->size - text->len, "; ");
	if (text->len + 1 >= text->size)
		return;
	va_start(args, fmt);
	int n = vsnprintf(text->buf + text->len, text->size - text->len, fmt, args);
	va_end(args);
	if (n > 0)
		text->len += (size_t)n;
	if (text->len >= text->size)
		text->len = text->size - 1;
}

static const char *string_of(const cJSON *json, const char *name, const char *otherwise)
{
	const cJSON *item = cJSON_GetObjectItemCaseSensitive(json, name);
	return cJSON_IsString(item) && item->valuestring[0] != '\0' ? item->valuestring : otherwise;
}

static bool is_established(const cJSON *neighbor)
{
	return strcasecmp(string_of(neighbor, "state", ""), "established") == 0;
}

static bool has_role(const cJSON *neighbor, const char *role)
{
	return strcmp(string_of(neighbor, "role", ""), role) == 0;
}

void health_sessions(const cJSON *status, const char *role, unsigned *up, unsigned *all)
{
	const cJSON *neighbor;
	*up = *all = 0;
	cJSON_ArrayForEach (neighbor, cJSON_GetObjectItemCaseSensitive(status, "neighbors")) {
		if (!has_role(neighbor, role))
			continue;
		++*all;
		*up += is_established(neighbor);
	}
}

static void say_session(
	struct text *text, const cJSON *neighbor, const char *what, const char *check)
{
	const char *last_error = string_of(neighbor, "last_error", "");
	const cJSON *asn = cJSON_GetObjectItemCaseSensitive(neighbor, "remote_asn");
	say(text, "the session to %s %s (AS %.0f) is %s, not Established%s%s: check %s", what,
		string_of(neighbor, "address", "?"), cJSON_IsNumber(asn) ? asn->valuedouble : 0,
		string_of(neighbor, "state", "unknown"), last_error[0] ? ", last error: " : "",
		last_error, check);
}

/* What pvmd says; `complete`: and has the forwarder all that it was told? */
static bool judge_pvm(const cJSON *pvm, bool complete, char *missing, size_t size)
{
	struct text text = {missing, size, 0};
	missing[0] = '\0';
	if (pvm == NULL) {
		say(&text, "pvmd in the PVM doesn't answer: check the VM's log");
		return false;
	}
	bool ok = true, has_cvm = false;
	const cJSON *neighbor;
	cJSON_ArrayForEach (neighbor, cJSON_GetObjectItemCaseSensitive(pvm, "neighbors")) {
		bool ce = has_role(neighbor, "ce");
		has_cvm |= has_role(neighbor, "cvm");
		if (is_established(neighbor))
			continue;
		ok = false;
		if (ce)
			say_session(&text, neighbor, "CE",
				"the CE's BGP configuration, its link and its address");
		else
			say_session(&text, neighbor, "the CVM", "that the site's CVM runs");
	}
	if (!has_cvm) {
		ok = false;
		say(&text, "there is no session to the CVM: it is not configured yet");
	}
	const cJSON *fib = cJSON_GetObjectItemCaseSensitive(pvm, "fib");
	if (!cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(fib, "connected"))) {
		ok = false;
		say(&text,
			"pvmd is not connected to the forwarder: check that edgeplex-fwd runs in "
			"the PVM");
	} else if (!complete || !cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(fib, "complete"))) {
		ok = false;
		say(&text, "the forwarder doesn't have the whole FIB yet");
	}
	return ok;
}

bool health_pvm(const cJSON *pvm, const cJSON *fwd, char *missing, size_t size)
{
	const cJSON *fib = cJSON_GetObjectItemCaseSensitive(fwd, "fib");
	bool complete = cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(fib, "complete"));
	return judge_pvm(pvm, complete, missing, size);
}

bool health_pvm_routes(const cJSON *pvm, char *missing, size_t size)
{
	return judge_pvm(pvm, true, missing, size);
}

bool health_cvm(const cJSON *cvm, char *missing, size_t size)
{
	struct text text = {missing, size, 0};
	missing[0] = '\0';
	if (cvm == NULL) {
		say(&text, "cvmd in the CVM doesn't answer: check the VM's log");
		return false;
	}
	bool ok = true, has_core = false;
	const cJSON *neighbor;
	cJSON_ArrayForEach (neighbor, cJSON_GetObjectItemCaseSensitive(cvm, "neighbors")) {
		if (!has_role(neighbor, "core"))
			continue;
		has_core = true;
		if (is_established(neighbor))
			continue;
		ok = false;
		say_session(&text, neighbor, "route reflector",
			"the route reflector's configuration, the core link and the gateway");
	}
	if (!has_core) {
		ok = false;
		say(&text, "there is no session to the core: the CVM is not configured yet");
	}
	return ok;
}
