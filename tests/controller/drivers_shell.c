/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * Lets tests use the controller's drivers (hypervisor, guest, fabric, hostd) as edgeplexd does: one
 * JSON object a line on standard input, {"do": NAME, ...}, one answer a line on standard output:
 * {"error": errno, "why": text, ...}. Events are gathered and given out by "events".
 */

#include <arpa/inet.h>
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <cjson/cJSON.h>

#include "common/log.h"
#include "controller/fabric.h"
#include "controller/guest.h"
#include "controller/hostd_client.h"
#include "controller/hypervisor.h"

#define MAX_PORTS 1024
#define MAX_ADDRESSES 8

static struct fabric *fabric;
static struct hv *hv;
static struct guest *guest;
static struct hostd_client *hostd;
static cJSON *events;
static pthread_mutex_t events_mutex = PTHREAD_MUTEX_INITIALIZER;

static void add_event(const char *kind, const char *text)
{
	cJSON *event = cJSON_CreateObject();

	cJSON_AddStringToObject(event, "kind", kind);
	cJSON_AddStringToObject(event, "text", text);
	pthread_mutex_lock(&events_mutex);
	cJSON_AddItemToArray(events, event);
	pthread_mutex_unlock(&events_mutex);
}

static void on_fabric_event(void *ctx, enum fabric_event_type type, const char *detail)
{
	static const char *const names[] = {
		"connected", "disconnected", "reconciled", "error", "ports", "whole"};

	(void)ctx;
	add_event(names[type], detail);
}

static void on_hv_event(void *ctx, const struct hv_event *event)
{
	static const char *const names[] = {"hv-connected", "hv-disconnected", "vm"};
	static const char *const states[] = {"running", "paused", "stopping", "gone"};
	char text[256];

	(void)ctx;
	if (event->type == HV_EVENT_VM) {
		snprintf(text, sizeof(text), "%s %s %s", event->vm.name, event->vm.uuid,
			states[event->vm.state]);
		add_event(names[event->type], text);
	} else {
		add_event(names[event->type], event->detail ? event->detail : "");
	}
}

static void on_notify(void *ctx, const char *method, const cJSON *params)
{
	(void)ctx;
	(void)params;
	add_event("notify", method);
}

/* ---- reading parameters ------------------------------------------------------------------- */

static const char *text(const cJSON *object, const char *name)
{
	const cJSON *item = cJSON_GetObjectItemCaseSensitive(object, name);

	return cJSON_IsString(item) ? item->valuestring : NULL;
}

static double number(const cJSON *object, const char *name, double otherwise)
{
	const cJSON *item = cJSON_GetObjectItemCaseSensitive(object, name);

	return cJSON_IsNumber(item) ? item->valuedouble : otherwise;
}

static void must(int error, const char *name)
{
	if (!error)
		return;
	fprintf(stderr, "drivers_shell: bad or missing \"%s\"\n", name);
	exit(2);
}

static void read_mac(const cJSON *object, const char *name, struct ep_mac *mac)
{
	must(!text(object, name) || ep_mac_parse(text(object, name), mac), name);
}

static void read_addr(const cJSON *object, const char *name, struct ep_prefix *addr)
{
	must(!text(object, name) || ep_addr_parse(text(object, name), addr), name);
}

static void read_name(const cJSON *object, const char *name, char buf[FABRIC_PORT_LEN])
{
	must(!text(object, name), name);
	snprintf(buf, FABRIC_PORT_LEN, "%s", text(object, name));
}

static void read_port(const cJSON *object, struct fabric_port *port, struct ep_prefix *addresses)
{
	const cJSON *address;

	*port = (struct fabric_port){
		.id = (uint32_t)number(object, "id", 0),
		.customer = (uint32_t)number(object, "customer", 0),
		.vlan = (uint16_t)number(object, "vlan", 0),
		.has_ce_mac = text(object, "ce_mac") != NULL,
		.addresses = addresses,
		.cust_vlan = (uint16_t)number(object, "cust_vlan", 0),
		.core_vlan = (uint16_t)number(object, "core_vlan", 0),
		.label = (uint32_t)number(object, "label", 0),
		.phase = (enum fabric_phase)number(object, "phase", 0),
	};
	if (text(object, "to_trunk"))
		read_name(object, "to_trunk", port->to_trunk);
	read_name(object, "switch_port", port->switch_port);
	read_name(object, "trunk", port->trunk);
	read_mac(object, "mac", &port->mac);
	read_addr(object, "inside_address", &port->inside_address);
	if (port->has_ce_mac)
		read_mac(object, "ce_mac", &port->ce_mac);
	cJSON_ArrayForEach (address, cJSON_GetObjectItemCaseSensitive(object, "addresses")) {
		must(port->n_addresses == MAX_ADDRESSES ||
				ep_prefix_parse(address->valuestring, true,
					&addresses[port->n_addresses], NULL),
			"addresses");
		port->n_addresses++;
	}
}

static void read_site(const cJSON *object, struct fabric_site *site)
{
	static struct ep_prefix addresses[MAX_PORTS][MAX_ADDRESSES];
	static struct fabric_port ports[MAX_PORTS];
	const cJSON *cvm = cJSON_GetObjectItemCaseSensitive(object, "cvm"), *port;

	*site = (struct fabric_site){.id = (uint32_t)number(object, "id", 0), .ports = ports};
	read_name(object, "core_port", site->core_port);
	read_mac(object, "pe_mac", &site->pe_mac);
	read_addr(object, "pe_address", &site->pe_address);
	must(ep_prefix_parse(text(object, "core_address"), true, &site->core_address, NULL),
		"core_address");
	read_addr(object, "gateway", &site->gateway);
	site->transport_label = number(object, "transport_label", 0);
	if (cJSON_IsObject(cvm)) {
		site->cvm.present = true;
		read_name(cvm, "trunk", site->cvm.trunk);
		site->cvm.core_vlan = (uint16_t)number(cvm, "core_vlan", 0);
		site->cvm.inside_vlan = (uint16_t)number(cvm, "inside_vlan", 0);
		read_mac(cvm, "inside_mac", &site->cvm.inside_mac);
		read_addr(cvm, "inside_address", &site->cvm.inside_address);
	}
	cJSON_ArrayForEach (port, cJSON_GetObjectItemCaseSensitive(object, "ports")) {
		must(site->n_ports == MAX_PORTS, "ports");
		read_port(port, &ports[site->n_ports], addresses[site->n_ports]);
		site->n_ports++;
	}
}

static bool quick(const cJSON *in)
{
	return cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(in, "quick"));
}

static int64_t now_us(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (int64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

/* ---- fabric ------------------------------------------------------------------------------- */

static int do_fabric_open(const cJSON *in, cJSON *out, struct why *why)
{
	int error = fabric_open("test", text(in, "target"), on_fabric_event, NULL, &fabric, why);

	(void)out;
	return error ? error
		     : fabric_wait_connected(fabric, (int)number(in, "timeout_ms", 5000), why);
}

/* "quick": by fabric_change(). Tells how long it took, in microseconds, beside the computation. */
static int do_fabric_apply(const cJSON *in, cJSON *out, struct why *why)
{
	struct fabric_result result = {0};
	struct fabric_rules *rules;
	struct fabric_site site;
	int64_t begin;
	int error;

	read_site(cJSON_GetObjectItemCaseSensitive(in, "site"), &site);
	error = fabric_rules_compute(&site, &rules, why);
	if (error)
		return error;
	begin = now_us();
	error = (quick(in) ? fabric_change : fabric_apply)(
		fabric, rules, (int)number(in, "timeout_ms", 5000), &result, why);
	cJSON_AddNumberToObject(out, "us", (double)(now_us() - begin));
	fabric_rules_free(rules);
	cJSON_AddNumberToObject(out, "added", (double)result.added);
	cJSON_AddNumberToObject(out, "modified", (double)result.modified);
	cJSON_AddNumberToObject(out, "deleted", (double)result.deleted);
	cJSON_AddNumberToObject(out, "unchanged", (double)result.unchanged);
	cJSON_AddNumberToObject(out, "left_out", (double)result.left_out);
	return error;
}

/* Applies one rule that no switch accepts, together with one that it would. */
static int do_fabric_apply_wrong(const cJSON *in, cJSON *out, struct why *why)
{
	struct fabric_rules *rules = calloc(1, sizeof(*rules));
	struct fabric_rule *wrong = calloc(2, sizeof(*wrong));
	int error, timeout_ms = (int)number(in, "timeout_ms", 5000);

	(void)out;
	must(!rules || !wrong, "memory");
	*rules = (struct fabric_rules){.rules = wrong, .n = 2};
	for (int i = 0; i < 2; i++) {
		wrong[i].cookie = fabric_cookie(FABRIC_OWNER_SITE, 1);
		wrong[i].priority = 7 + i;
		snprintf(wrong[i].match, sizeof(wrong[i].match), "ip");
	}
	snprintf(wrong[1].edit, sizeof(wrong[1].edit), "%s", text(in, "edit"));
	wrong[1].goto_table = 1;
	if (quick(in))
		error = fabric_change(fabric, rules, timeout_ms, NULL, why);
	else
		error = fabric_apply(fabric, rules, timeout_ms, NULL, why);
	fabric_rules_free(rules);
	return error;
}

static int do_fabric_check_port(const cJSON *in, cJSON *out, struct why *why)
{
	(void)out;
	return fabric_check_port(fabric, text(in, "port"), why);
}

static int do_fabric_counters(const cJSON *in, cJSON *out, struct why *why)
{
	uint64_t packets = 0, bytes = 0;
	int error = fabric_counters(fabric,
		fabric_cookie(
			(enum fabric_owner)number(in, "owner", 0), (uint32_t)number(in, "id", 0)),
		5000, &packets, &bytes, why);

	cJSON_AddNumberToObject(out, "packets", (double)packets);
	cJSON_AddNumberToObject(out, "bytes", (double)bytes);
	return error;
}

static int do_fabric_close(const cJSON *in, cJSON *out, struct why *why)
{
	(void)in;
	(void)out;
	(void)why;
	fabric_close(fabric);
	fabric = NULL;
	return 0;
}

/* ---- hypervisor and guest ----------------------------------------------------------------- */

static int do_hv_open(const cJSON *in, cJSON *out, struct why *why)
{
	(void)out;
	hv = hv_open("test", text(in, "uri"), on_hv_event, NULL);
	return hv ? hv_wait_connected(hv, (int)number(in, "timeout_ms", 30000), why) : errno;
}

static int do_hv_wait(const cJSON *in, cJSON *out, struct why *why)
{
	(void)out;
	return hv_wait_connected(hv, (int)number(in, "timeout_ms", 30000), why);
}

static int do_hv_info(const cJSON *in, cJSON *out, struct why *why)
{
	struct hv_server_info info = {0};
	int error = hv_server_info(hv, &info, why);

	(void)in;
	cJSON_AddStringToObject(out, "hostname", info.hostname);
	cJSON_AddNumberToObject(out, "cpus", info.cpus);
	cJSON_AddNumberToObject(out, "memory_kib", (double)info.memory_kib);
	cJSON_AddNumberToObject(out, "memory_free_kib", (double)info.memory_free_kib);
	cJSON_AddStringToObject(out, "accel", info.accel == HV_ACCEL_KVM ? "kvm" : "tcg");
	return error;
}

static int do_hv_start(const cJSON *in, cJSON *out, struct why *why)
{
	struct hv_vm_spec spec = {
		.role = text(in, "role"),
		.owner = text(in, "owner"),
		.memory_kib = (uint64_t)number(in, "memory_kib", 131072),
		.kernel = text(in, "kernel"),
		.initrd = text(in, "initrd"),
		.cmdline = text(in, "cmdline"),
		.console_log = text(in, "console_log"),
		.viommu = cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(in, "viommu")),
		.qmp_path = text(in, "qmp_path"),
		.ram_dir = text(in, "ram_dir"),
		.preload = text(in, "preload"),
		.incoming = cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(in, "incoming")),
	};
	const cJSON *item;

	(void)out;
	snprintf(spec.name, sizeof(spec.name), "%s", text(in, "name"));
	snprintf(spec.uuid, sizeof(spec.uuid), "%s", text(in, "uuid"));
	cJSON_ArrayForEach (item, cJSON_GetObjectItemCaseSensitive(in, "nics")) {
		struct hv_nic *nic = &spec.nics[spec.n_nics++];

		read_mac(item, "mac", &nic->mac);
		read_name(item, "bridge", nic->bridge);
		nic->vlan = (uint16_t)number(item, "vlan", 0);
		nic->mtu = (uint16_t)number(item, "mtu", 0);
		if (text(item, "ifname"))
			read_name(item, "ifname", nic->ifname);
	}
	return hv_vm_start(hv, &spec, why);
}

static int do_hv_destroy(const cJSON *in, cJSON *out, struct why *why)
{
	(void)out;
	return hv_vm_destroy(hv, text(in, "uuid"), why);
}

static int do_hv_list(const cJSON *in, cJSON *out, struct why *why)
{
	static const char *const states[] = {"running", "paused", "stopping", "gone"};
	struct hv_vm *vms = NULL;
	size_t n = 0;
	int error = hv_vm_list(hv, &vms, &n, why);
	cJSON *list = cJSON_AddArrayToObject(out, "vms");

	(void)in;
	for (size_t i = 0; i < n; i++) {
		cJSON *vm = cJSON_CreateObject();

		cJSON_AddStringToObject(vm, "name", vms[i].name);
		cJSON_AddStringToObject(vm, "uuid", vms[i].uuid);
		cJSON_AddStringToObject(vm, "role", vms[i].role);
		cJSON_AddStringToObject(vm, "owner", vms[i].owner);
		cJSON_AddStringToObject(vm, "state", states[vms[i].state]);
		cJSON_AddItemToArray(list, vm);
	}
	free(vms);
	return error;
}

static int do_hv_stats(const cJSON *in, cJSON *out, struct why *why)
{
	struct hv_vm_stats stats = {0};
	int error = hv_vm_stats(hv, text(in, "uuid"), &stats, why);

	cJSON_AddNumberToObject(out, "cpu_ms", (double)stats.cpu_ms);
	cJSON_AddNumberToObject(out, "rss_kib", (double)stats.rss_kib);
	cJSON_AddNumberToObject(out, "memory_kib", (double)stats.memory_kib);
	return error;
}

static int do_hv_close(const cJSON *in, cJSON *out, struct why *why)
{
	(void)in;
	(void)out;
	(void)why;
	hv_close(hv);
	hv = NULL;
	return 0;
}

static int do_guest_open(const cJSON *in, cJSON *out, struct why *why)
{
	(void)out;
	(void)why;
	guest = guest_open(hv, text(in, "uuid"), on_notify, NULL);
	return guest ? 0 : errno;
}

static int do_guest_wait(const cJSON *in, cJSON *out, struct why *why)
{
	(void)out;
	return guest_wait_ready(guest, (int)number(in, "timeout_ms", 30000), why);
}

static int do_guest_call(const cJSON *in, cJSON *out, struct why *why)
{
	struct jsonrpc_error error = {0};
	cJSON *result = NULL;
	int failed = guest_call(guest, text(in, "method"),
		cJSON_GetObjectItemCaseSensitive(in, "params"),
		(int)number(in, "timeout_ms", 10000), &result, &error);

	cJSON_AddItemToObject(out, "result", result ? result : cJSON_CreateNull());
	cJSON_AddNumberToObject(out, "code", error.code);
	return failed ? why_set(why, EIO, "%s", error.message) : 0;
}

struct many {
	const char *method;
	int calls, timeout_ms, failed;
	cJSON *last;
};

static void *call_many(void *arg)
{
	struct many *many = arg;

	for (int i = 0; i < many->calls; i++) {
		struct jsonrpc_error error = {0};
		cJSON *result = NULL;

		if (guest_call(guest, many->method, NULL, many->timeout_ms, &result, &error))
			many->failed++;
		cJSON_Delete(result);
	}
	return NULL;
}

/* The same call from several threads at a time. */
static int do_guest_call_many(const cJSON *in, cJSON *out, struct why *why)
{
	enum { THREADS = 8 };
	struct many many[THREADS];
	pthread_t threads[THREADS];
	int failed = 0;

	(void)why;
	for (int i = 0; i < THREADS; i++) {
		many[i] = (struct many){.method = text(in, "method"),
			.calls = (int)number(in, "calls", 10),
			.timeout_ms = (int)number(in, "timeout_ms", 10000)};
		pthread_create(&threads[i], NULL, call_many, &many[i]);
	}
	for (int i = 0; i < THREADS; i++) {
		pthread_join(threads[i], NULL);
		failed += many[i].failed;
	}
	cJSON_AddNumberToObject(out, "failed", failed);
	return 0;
}

static int do_guest_close(const cJSON *in, cJSON *out, struct why *why)
{
	(void)in;
	(void)out;
	(void)why;
	guest_close(guest);
	guest = NULL;
	return 0;
}

/* ---- hostd -------------------------------------------------------------------------------- */

static void on_hostd_changed(void *ctx, const cJSON *status)
{
	const char *state = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(status, "state"));

	(void)ctx;
	add_event(status ? "hostd-changed" : "hostd-lost", state ? state : "");
}

static int do_hostd_open(const cJSON *in, cJSON *out, struct why *why)
{
	(void)out;
	hostd_client_close(hostd);
	hostd = hostd_client_open(text(in, "target"), on_hostd_changed, NULL, why);
	return hostd ? 0 : EINVAL;
}

static int do_hostd_call(const cJSON *in, cJSON *out, struct why *why)
{
	struct jsonrpc_error error = {0};
	cJSON *result = NULL;
	int failed = hostd_client_call(hostd, text(in, "method"),
		cJSON_GetObjectItemCaseSensitive(in, "params"),
		(int)number(in, "timeout_ms", 10000), &result, &error);

	cJSON_AddItemToObject(out, "result", result ? result : cJSON_CreateNull());
	cJSON_AddNumberToObject(out, "code", error.code);
	return failed ? why_set(why, EIO, "%s", error.message) : 0;
}

/* Calls each of `methods` at once; the last one's answer is taken first. */
static int do_hostd_call_all(const cJSON *in, cJSON *out, struct why *why)
{
	const cJSON *methods = cJSON_GetObjectItemCaseSensitive(in, "methods");
	int n = cJSON_GetArraySize(methods), timeout_ms = (int)number(in, "timeout_ms", 10000);
	cJSON *codes = cJSON_AddArrayToObject(out, "codes");
	struct jsonrpc_error error = {0};
	unsigned long ids[16];

	for (int i = 0; i < n && i < 16; i++)
		if (hostd_client_begin(hostd, cJSON_GetArrayItem(methods, i)->valuestring, NULL,
			    &ids[i], &error))
			return why_set(why, EIO, "%s", error.message);
	for (int i = n; i-- > 0;) {
		error.code = 0;
		hostd_client_finish(hostd, ids[i], timeout_ms, NULL, &error);
		cJSON_InsertItemInArray(codes, 0, cJSON_CreateNumber(error.code));
	}
	return 0;
}

static int do_hostd_close(const cJSON *in, cJSON *out, struct why *why)
{
	(void)in;
	(void)out;
	(void)why;
	hostd_client_close(hostd);
	hostd = NULL;
	return 0;
}

static int do_events(const cJSON *in, cJSON *out, struct why *why)
{
	(void)in;
	(void)why;
	pthread_mutex_lock(&events_mutex);
	cJSON_AddItemToObject(out, "events", events);
	events = cJSON_CreateArray();
	pthread_mutex_unlock(&events_mutex);
	return 0;
}

/* ---- main --------------------------------------------------------------------------------- */

static const struct {
	const char *name;
	int (*fn)(const cJSON *in, cJSON *out, struct why *why);
} commands[] = {
	{"fabric_open", do_fabric_open},
	{"fabric_apply", do_fabric_apply},
	{"fabric_apply_wrong", do_fabric_apply_wrong},
	{"fabric_check_port", do_fabric_check_port},
	{"fabric_counters", do_fabric_counters},
	{"fabric_close", do_fabric_close},
	{"hv_open", do_hv_open},
	{"hv_wait", do_hv_wait},
	{"hv_info", do_hv_info},
	{"hv_start", do_hv_start},
	{"hv_destroy", do_hv_destroy},
	{"hv_list", do_hv_list},
	{"hv_stats", do_hv_stats},
	{"hv_close", do_hv_close},
	{"guest_open", do_guest_open},
	{"guest_wait", do_guest_wait},
	{"guest_call", do_guest_call},
	{"guest_call_many", do_guest_call_many},
	{"guest_close", do_guest_close},
	{"hostd_open", do_hostd_open},
	{"hostd_call", do_hostd_call},
	{"hostd_call_all", do_hostd_call_all},
	{"hostd_close", do_hostd_close},
	{"events", do_events},
};

static void serve(const char *line)
{
	cJSON *in = cJSON_Parse(line), *out = cJSON_CreateObject();
	const char *name = text(in, "do");
	struct why why = {""};
	char *answer;
	int error = ENOSYS;

	for (size_t i = 0; name && i < sizeof(commands) / sizeof(commands[0]); i++)
		if (strcmp(commands[i].name, name) == 0)
			error = commands[i].fn(in, out, &why);
	cJSON_AddNumberToObject(out, "error", error);
	cJSON_AddStringToObject(out, "why", why.text);
	answer = cJSON_PrintUnformatted(out);
	puts(answer);
	fflush(stdout);
	free(answer);
	cJSON_Delete(out);
	cJSON_Delete(in);
}

int main(void)
{
	size_t size = 0;
	char *line = NULL;

	log_init("drivers_shell");
	signal(SIGPIPE, SIG_IGN);
	events = cJSON_CreateArray();
	while (getline(&line, &size, stdin) > 0)
		serve(line);
	hostd_client_close(hostd);
	guest_close(guest);
	hv_close(hv);
	fabric_close(fabric);
	cJSON_Delete(events);
	free(line);
	return 0;
}
