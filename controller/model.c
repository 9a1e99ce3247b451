/* SPDX-License-Identifier: GPL-2.0-or-later */

#include "controller/model.h"

#include <arpa/inet.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <strings.h>
#include <sys/socket.h>

#define MAX_FIELDS 24
#define LABEL_MIN 16 /* lower ones are reserved (RFC 3032) */
#define LABEL_MAX 1048575
#define VLAN_MAX 4094
#define GRACEFUL_RESTART_MAX_S 4095 /* 12 bits (RFC 4724, section 3) */
#define MTU_MIN 1280                /* IPv6's least (RFC 8200, section 5) */
/* A packet of that size, with the labels of PE and VPN, fits through the core. */
#define CORE_MTU_MIN (MTU_MIN + MODEL_LABELS_BYTES)
#define MTU_MAX 2000       /* the forwarder holds a frame in one buffer of 2 KiB */
#define INTERVAL_MIN_MS 25 /* Remus' */
#define TIMEOUT_MIN_MS 100 /* hostd's */
#define PROTECTION_MAX_MS 10000
#define VPN_ID_MAX 65535 /* an RT of a four-byte AS has 16 bits for it (RFC 4360) */

/* ---- reading an object -------------------------------------------------------------------- */

/* Walks one JSON object; remembers which fields were asked for, so that others can be refused. */
struct reader {
	const cJSON *object;
	const char *base; /* JSON pointer of the object, "" for the body */
	struct problem *problem;
	const char *known[MAX_FIELDS];
	size_t n_known;
	bool failed;
};

static const char *field_path(const struct reader *reader, const char *name, char buf[64])
{
	snprintf(buf, 64, "%s/%s", reader->base, name);
	return buf;
}

#define FAIL(reader, name, fix, ...)                                                           \
	do {                                                                                   \
		char path_[64];                                                                \
		problem_field(                                                                 \
			(reader)->problem, field_path(reader, name, path_), fix, __VA_ARGS__); \
		(reader)->failed = true;                                                       \
	} while (0)

static bool reader_begin(
	struct reader *reader, const cJSON *json, const char *base, struct problem *problem)
{
	*reader = (struct reader){.object = json, .base = base, .problem = problem};
	if (!cJSON_IsObject(json)) {
		problem_field(problem, base, "send a JSON object", "is not an object");
		reader->failed = true;
		return false;
	}
	return true;
}

/* The value, or NULL if the field is absent or null. */
static const cJSON *reader_get(struct reader *reader, const char *name, bool required)
{
	if (reader->n_known < MAX_FIELDS)
		reader->known[reader->n_known++] = name;
	const cJSON *value = cJSON_GetObjectItemCaseSensitive(reader->object, name);
	if (value != NULL && !cJSON_IsNull(value))
		return value;
	if (required)
		FAIL(reader, name, "give this field", "is missing");
	return NULL;
}

static bool reader_string(
	struct reader *reader, const char *name, bool required, char *buf, size_t size)
{
	const cJSON *value = reader_get(reader, name, required);
	if (value == NULL)
		return false;
	if (!cJSON_IsString(value)) {
		FAIL(reader, name, "send a string", "is not a string");
		return false;
	}
	if (strlen(value->valuestring) >= size) {
		FAIL(reader, name, "shorten it", "is longer than %zu characters", size - 1);
		return false;
	}
	snprintf(buf, size, "%s", value->valuestring);
	return true;
}

static bool number_in(const cJSON *value, uint32_t min, uint32_t max)
{
	double n = value->valuedouble;
	return cJSON_IsNumber(value) && n >= min && n <= max && n == floor(n);
}

/* Leaves `*out` (a default) alone when the field is absent. */
static void reader_number(struct reader *reader, const char *name, bool required, uint32_t min,
	uint32_t max, uint32_t *out)
{
	const cJSON *value = reader_get(reader, name, required);
	if (value == NULL)
		return;
	if (!number_in(value, min, max)) {
		char fix[96];
		snprintf(fix, sizeof(fix), "choose a whole number from %u to %u", min, max);
		FAIL(reader, name, fix, "is not a whole number from %u to %u", min, max);
		return;
	}
	*out = (uint32_t)value->valuedouble;
}

bool model_name_valid(const char *name)
{
	size_t len = strlen(name);
	if (len == 0 || len >= MODEL_NAME_SIZE || name[0] < 'a' || name[0] > 'z')
		return false;
	return strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789-") == len;
}

static void reader_name(struct reader *reader, const char *name, bool required, char *buf)
{
	char text[256];
	if (!reader_string(reader, name, required, text, sizeof(text)))
		return;
	if (!model_name_valid(text)) {
		FAIL(reader, name,
			"begin with a letter a-z, go on with a-z, 0-9 and -, at most 30 characters",
			"\"%.40s\" is not a name", text);
		return;
	}
	snprintf(buf, MODEL_NAME_SIZE, "%s", text);
}

static void reader_ifname(struct reader *reader, const char *name, char *buf)
{
	static const char allowed[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
				      "0123456789_.-";
	char text[256];
	if (!reader_string(reader, name, true, text, sizeof(text)))
		return;
	size_t len = strlen(text);
	if (len == 0 || len >= MODEL_IFNAME_SIZE || strspn(text, allowed) != len) {
		FAIL(reader, name, "give the name of the port or bridge as Open vSwitch shows it",
			"\"%.40s\" is not the name of an interface (1 to 15 characters)", text);
		return;
	}
	snprintf(buf, MODEL_IFNAME_SIZE, "%s", text);
}

/* An address that a host can have. */
static bool is_host_address(const struct ep_prefix *addr)
{
	if (addr->family == AF_INET) {
		uint32_t a = ntohl(addr->addr.v4.s_addr);
		return a >> 24 != 0 && a >> 24 != 127 && a < 0xe0000000u;
	}
	return !IN6_IS_ADDR_UNSPECIFIED(&addr->addr.v6) && !IN6_IS_ADDR_LOOPBACK(&addr->addr.v6) &&
	       !IN6_IS_ADDR_MULTICAST(&addr->addr.v6) && !IN6_IS_ADDR_LINKLOCAL(&addr->addr.v6) &&
	       !IN6_IS_ADDR_V4MAPPED(&addr->addr.v6);
}

static uint32_t v4_host_mask(const struct ep_prefix *prefix)
{
	return prefix->len == 0 ? UINT32_MAX : (uint32_t)((UINT64_C(1) << (32 - prefix->len)) - 1);
}

/* Is it an IPv4 subnet's own number or its broadcast address? /31 and /32 have neither. */
static bool is_subnet_edge(const struct ep_prefix *addr, const struct ep_prefix *subnet)
{
	if (addr->family != AF_INET || subnet->len >= 31)
		return false;
	uint32_t mask = v4_host_mask(subnet);
	uint32_t host = ntohl(addr->addr.v4.s_addr) & mask;
	return host == 0 || host == mask;
}

static bool same_address(const struct ep_prefix *a, const struct ep_prefix *b)
{
	size_t n = a->family == AF_INET ? 4 : 16;
	return a->family == b->family && memcmp(a->addr.bytes, b->addr.bytes, n) == 0;
}

static const char *family_name(int family)
{
	return family == AF_INET ? "IPv4" : "IPv6";
}

/* Checks one address. `path` is its JSON pointer; `family` 0: either. */
static bool read_address(struct reader *reader, const char *name, const char *text, int family,
	struct ep_prefix *addr)
{
	if (ep_addr_parse(text, addr) != 0) {
		FAIL(reader, name, "write it like 192.0.2.1 or 2001:db8::1",
			"\"%.60s\" is not an IP address", text);
		return false;
	}
	if (family != 0 && addr->family != family) {
		FAIL(reader, name, "give an address of the right family",
			"\"%.60s\" is not an %s address", text, family_name(family));
		return false;
	}
	if (!is_host_address(addr)) {
		FAIL(reader, name, "choose a global or private unicast address",
			"%.60s can't be a router's address here", text);
		return false;
	}
	return true;
}

static bool reader_address(
	struct reader *reader, const char *name, bool required, int family, struct ep_prefix *addr)
{
	char text[EP_PREFIX_STRLEN * 2];
	return reader_string(reader, name, required, text, sizeof(text)) &&
	       read_address(reader, name, text, family, addr);
}

/* An interface's address with its link's length. */
static bool read_interface(struct reader *reader, const char *name, const char *text, int family,
	struct ep_prefix *addr)
{
	const char *why;
	if (ep_prefix_parse(text, true, addr, &why) != 0) {
		FAIL(reader, name, "write it like 192.168.1.1/30 or 2001:db8::1/64",
			"\"%.60s\" is not an address with a length: %s", text, why);
		return false;
	}
	if (family != 0 && addr->family != family) {
		FAIL(reader, name, "give an address of the right family",
			"\"%.60s\" is not an %s address", text, family_name(family));
		return false;
	}
	if (!is_host_address(addr)) {
		FAIL(reader, name, "choose a global or private unicast address",
			"%.60s can't be a router's address here", text);
		return false;
	}
	unsigned longest = addr->family == AF_INET ? 31 : 127;
	if (addr->len < 8 || addr->len > longest) {
		FAIL(reader, name, "choose a subnet with room for both ends of the link",
			"%.60s: a link's length lies between 8 and %u", text, longest);
		return false;
	}
	if (is_subnet_edge(addr, addr)) {
		FAIL(reader, name, "choose another address of the subnet",
			"%.60s is the subnet's own number or its broadcast address", text);
		return false;
	}
	return true;
}

static void reader_range(
	struct reader *reader, const char *name, uint32_t min, uint32_t max, struct range *range)
{
	char text[64], fix[96];
	if (!reader_string(reader, name, false, text, sizeof(text)))
		return;
	snprintf(fix, sizeof(fix), "write it like %u-%u, within %u to %u", range->first,
		range->last, min, max);
	struct range found;
	if (model_range_parse(text, &found) != 0 || found.first < min || found.last > max)
		FAIL(reader, name, fix, "\"%s\" is not a range within %u to %u", text, min, max);
	else
		*range = found;
}

static void reader_memory(struct reader *reader, const char *name, uint32_t *kib)
{
	uint32_t value = *kib;
	reader_number(reader, name, false, 98304, 67108864, &value);
	if (value % MODEL_MEMORY_STEP_KIB == 0) {
		FAIL(reader, name, "add 8",
			"%u is a multiple of %d KiB, with which a running VM can't be copied "
			"reliably",
			value, MODEL_MEMORY_STEP_KIB);
		return;
	}
	*kib = value;
}

/* Refuses fields that nobody asked for, and fields given twice. Returns 0 or -1. */
static int reader_end(struct reader *reader)
{
	if (!cJSON_IsObject(reader->object))
		return -1;
	const cJSON *item;
	cJSON_ArrayForEach (item, reader->object) {
		bool known = false;
		for (size_t i = 0; i < reader->n_known && !known; i++)
			known = strcmp(reader->known[i], item->string) == 0;
		char name[48];
		snprintf(name, sizeof(name), "%s", item->string);
		if (!known)
			FAIL(reader, name, "check its spelling, or leave it out",
				"no such field exists");
		else if (cJSON_GetObjectItemCaseSensitive(reader->object, item->string) != item)
			FAIL(reader, name, "give it once", "is given twice");
	}
	return reader->failed ? -1 : 0;
}

int model_range_parse(const char *text, struct range *range)
{
	char *end;
	if (text[0] < '0' || text[0] > '9')
		return EINVAL;
	errno = 0;
	unsigned long first = strtoul(text, &end, 10), last = first;
	if (*end == '-' && end[1] >= '0' && end[1] <= '9')
		last = strtoul(end + 1, &end, 10);
	if (*end != '\0' || errno != 0 || first > last || last > UINT32_MAX)
		return EINVAL;
	*range = (struct range){(uint32_t)first, (uint32_t)last};
	return 0;
}

/* ---- sites -------------------------------------------------------------------------------- */

static void read_rrs(struct reader *core, struct site *site)
{
	const cJSON *list = reader_get(core, "route_reflectors", true);
	if (list == NULL)
		return;
	int n = cJSON_IsArray(list) ? cJSON_GetArraySize(list) : 0;
	if (n < 1 || n > MODEL_MAX_RR) {
		FAIL(core, "route_reflectors", "give the route reflectors' addresses",
			"is not a list of 1 to %d addresses", MODEL_MAX_RR);
		return;
	}
	const cJSON *item;
	cJSON_ArrayForEach (item, list) {
		char name[48];
		snprintf(name, sizeof(name), "route_reflectors/%zu", site->n_rr);
		struct ep_prefix *rr = &site->rr[site->n_rr];
		if (!cJSON_IsString(item)) {
			FAIL(core, name, "send a string", "is not a string");
			return;
		}
		if (!read_address(core, name, item->valuestring, AF_INET, rr))
			return;
		for (size_t i = 0; i < site->n_rr; i++) {
			if (same_address(&site->rr[i], rr))
				FAIL(core, name, "give each route reflector once",
					"is given twice");
		}
		site->n_rr++;
	}
}

static void read_core(struct reader *reader, struct site *site)
{
	const cJSON *json = reader_get(reader, "core", true);
	if (json == NULL)
		return;
	struct reader core;
	if (!reader_begin(&core, json, "/core", reader->problem)) {
		reader->failed = true;
		return;
	}
	reader_ifname(&core, "switch_port", site->core_port);
	char text[EP_PREFIX_STRLEN * 2];
	bool have_address = reader_string(&core, "address", true, text, sizeof(text)) &&
			    read_interface(&core, "address", text, AF_INET, &site->core_address);
	bool have_gateway = reader_address(&core, "gateway", true, AF_INET, &site->core_gateway);
	if (have_address && have_gateway) {
		if (!ep_prefix_contains(&site->core_address, &site->core_gateway) ||
			is_subnet_edge(&site->core_gateway, &site->core_address))
			FAIL(&core, "gateway", "give the core router's address on this link",
				"doesn't lie on the core link");
		else if (same_address(&site->core_address, &site->core_gateway))
			FAIL(&core, "gateway", "give the core router's address, not the PE's",
				"is the site's own address on the core link");
	}
	read_rrs(&core, site);
	reader_number(&core, "mtu", false, CORE_MTU_MIN, MTU_MAX, &site->core_mtu);
	if (reader_end(&core) != 0)
		reader->failed = true;
}

/* "unix:/PATH" or "tcp:HOST:PORT", as Open vSwitch's tools write it. */
static void read_switch(struct reader *reader, struct site *site)
{
	char text[MODEL_URI_SIZE];
	if (!reader_string(reader, "switch", true, text, sizeof(text)))
		return;
	bool unix_path = strncmp(text, "unix:/", 6) == 0 && text[6] != '\0';
	bool tcp = strncmp(text, "tcp:", 4) == 0 && strchr(text + 4, ':') != NULL;
	if ((!unix_path && !tcp) || strpbrk(text, " \t\r\n\"") != NULL) {
		FAIL(reader, "switch", "write it like unix:/run/openvswitch/edge.mgmt",
			"\"%.60s\" is not the address of an OpenFlow switch", text);
		return;
	}
	snprintf(site->switch_target, sizeof(site->switch_target), "%s", text);
}

static void read_inside(struct reader *reader, struct site *site)
{
	char text[EP_PREFIX_STRLEN * 2];
	const char *why;
	if (!reader_string(reader, "inside", false, text, sizeof(text)))
		return;
	if (ep_prefix_parse(text, false, &site->inside, &why) != 0 ||
		site->inside.family != AF_INET || site->inside.len < 16 || site->inside.len > 27 ||
		!is_host_address(&site->inside)) {
		site->inside.family = 0;
		FAIL(reader, "inside", "write it like 100.64.1.0/24",
			"\"%s\" is not an IPv4 network of length 16 to 27", text);
	}
}

static void check_site(struct reader *reader, const struct site *site)
{
	if (reader->failed)
		return;
	if (ep_prefix_contains(&site->core_address, &site->pe_address))
		FAIL(reader, "pe_address", "choose a loopback address outside the core link",
			"lies on the core link");
	if (site->inside.family == 0)
		return;
	if (ep_prefix_overlaps(&site->inside, &site->core_address))
		FAIL(reader, "inside", "choose a network that the core doesn't use",
			"overlaps the core link");
	if (ep_prefix_contains(&site->inside, &site->pe_address))
		FAIL(reader, "inside", "choose a network that the core doesn't use",
			"holds the PE's address");
	for (size_t i = 0; i < site->n_rr; i++) {
		if (ep_prefix_contains(&site->inside, &site->rr[i]))
			FAIL(reader, "inside", "choose a network that the core doesn't use",
				"holds a route reflector's address");
	}
}

static void check_label(struct reader *reader, const struct site *site)
{
	if (site->transport_label < LABEL_MIN && site->transport_label != MODEL_LABEL_IMPLICIT_NULL)
		FAIL(reader, "transport_label",
			"choose a label from 16 to 1048575, or 3 (no label: the PE is adjacent)",
			"%u is a reserved label", site->transport_label);
}

int model_site_read(const cJSON *json, struct site *site, struct problem *problem)
{
	*site = (struct site){
		.core_mtu = 1600,
		.labels = {1000, 1999},
		.vlans = {100, 3999},
		.pvm_memory_kib = MODEL_PVM_MEMORY_KIB,
		.cvm_memory_kib = MODEL_CVM_MEMORY_KIB,
	};
	struct reader reader;
	if (!reader_begin(&reader, json, "", problem))
		return -1;
	reader_name(&reader, "name", true, site->name);
	reader_number(&reader, "asn", true, 1, UINT32_MAX - 1, &site->asn);
	reader_address(&reader, "pe_address", true, AF_INET, &site->pe_address);
	read_core(&reader, site);
	site->transport_label = LABEL_MIN;
	reader_number(&reader, "transport_label", true, 0, LABEL_MAX, &site->transport_label);
	check_label(&reader, site);
	read_switch(&reader, site);
	read_inside(&reader, site);
	reader_range(&reader, "labels", LABEL_MIN, LABEL_MAX, &site->labels);
	reader_range(&reader, "vlans", 1, VLAN_MAX, &site->vlans);
	reader_memory(&reader, "pvm_memory_kib", &site->pvm_memory_kib);
	reader_memory(&reader, "cvm_memory_kib", &site->cvm_memory_kib);
	reader_number(&reader, "spares", false, 0, MODEL_MAX_SPARES, &site->spares);
	check_site(&reader, site);
	return reader_end(&reader);
}

static void add_range(cJSON *json, const char *name, const struct range *range)
{
	char text[32];
	snprintf(text, sizeof(text), "%u-%u", range->first, range->last);
	cJSON_AddStringToObject(json, name, text);
}

static void add_address(cJSON *json, const char *name, const struct ep_prefix *addr)
{
	char text[EP_PREFIX_STRLEN];
	cJSON_AddStringToObject(json, name, ep_addr_format(addr, text));
}

static void add_prefix(cJSON *json, const char *name, const struct ep_prefix *prefix)
{
	char text[EP_PREFIX_STRLEN];
	cJSON_AddStringToObject(json, name, ep_prefix_format(prefix, text));
}

static void add_mac(cJSON *json, const char *name, struct ep_mac mac)
{
	char text[EP_MAC_STRLEN];
	cJSON_AddStringToObject(json, name, ep_mac_format(&mac, text));
}

cJSON *model_site_json(const struct site *site)
{
	char text[EP_PREFIX_STRLEN];
	cJSON *json = cJSON_CreateObject();
	cJSON_AddStringToObject(json, "name", site->name);
	cJSON_AddNumberToObject(json, "asn", site->asn);
	add_address(json, "pe_address", &site->pe_address);
	cJSON *core = cJSON_AddObjectToObject(json, "core");
	cJSON_AddStringToObject(core, "switch_port", site->core_port);
	add_prefix(core, "address", &site->core_address);
	add_address(core, "gateway", &site->core_gateway);
	cJSON *rrs = cJSON_AddArrayToObject(core, "route_reflectors");
	for (size_t i = 0; i < site->n_rr; i++)
		cJSON_AddItemToArray(rrs, cJSON_CreateString(ep_addr_format(&site->rr[i], text)));
	cJSON_AddNumberToObject(core, "mtu", site->core_mtu);
	cJSON_AddNumberToObject(json, "transport_label", site->transport_label);
	cJSON_AddStringToObject(json, "switch", site->switch_target);
	if (site->inside.family != 0)
		add_prefix(json, "inside", &site->inside);
	add_range(json, "labels", &site->labels);
	add_range(json, "vlans", &site->vlans);
	cJSON_AddNumberToObject(json, "pvm_memory_kib", site->pvm_memory_kib);
	cJSON_AddNumberToObject(json, "cvm_memory_kib", site->cvm_memory_kib);
	cJSON_AddNumberToObject(json, "spares", site->spares);
	return json;
}

/* ---- servers, customers, CVMs ------------------------------------------------------------- */

static void read_hostd(struct reader *reader, struct server *server)
{
	char *text = server->hostd;
	if (!reader_string(reader, "hostd", false, text, sizeof(server->hostd)))
		return;
	if (strncmp(text, "unix:/", 6) != 0 || text[6] == '\0' ||
		strpbrk(text, " \t\r\n\"") != NULL)
		FAIL(reader, "hostd",
			"give the socket of the server's edgeplex-hostd as this machine reaches "
			"it, "
			"like unix:/run/edgeplex/hostd.sock",
			"\"%.60s\" is not the address of a hostd", text);
}

/* Everything that can be told apart in a table, on a command line and in a list with commas. */
static bool is_risk(const char *text)
{
	size_t len = 0;
	for (; text[len] != '\0'; len++) {
		if (text[len] <= ' ' || text[len] > '~' || strchr("\"\\,", text[len]) != NULL)
			return false;
	}
	return len > 0 && len < MODEL_RISK_SIZE;
}

static void read_risks(struct reader *reader, struct risks *risks)
{
	const cJSON *list = reader_get(reader, "risks", false), *item;
	if (list == NULL)
		return;
	if (!cJSON_IsArray(list) || cJSON_GetArraySize(list) > MODEL_MAX_RISKS) {
		FAIL(reader, "risks", "give names like \"rack=r1\"",
			"is not a list of at most %d names", MODEL_MAX_RISKS);
		return;
	}
	cJSON_ArrayForEach (item, list) {
		char name[48];
		snprintf(name, sizeof(name), "risks/%zu", risks->n);
		if (!cJSON_IsString(item) || !is_risk(item->valuestring)) {
			FAIL(reader, name,
				"write it like rack=r1: at most 63 printable characters without "
				"blanks, commas, quotes and backslashes",
				"is not the name of a shared risk");
			return;
		}
		if (strcmp(item->valuestring, "none") == 0)
			FAIL(reader, name, "choose another name, or leave the list empty",
				"\"none\" is no risk's name");
		for (size_t i = 0; i < risks->n; i++) {
			if (strcmp(risks->name[i], item->valuestring) == 0)
				FAIL(reader, name, "give each name once", "is given twice");
		}
		snprintf(risks->name[risks->n++], MODEL_RISK_SIZE, "%s", item->valuestring);
	}
}

int model_server_read(const cJSON *json, struct server *server, struct problem *problem)
{
	*server = (struct server){.memory_mib = 4096};
	struct reader reader;
	if (!reader_begin(&reader, json, "", problem))
		return -1;
	reader_name(&reader, "name", true, server->name);
	reader_name(&reader, "site", true, server->site);
	if (reader_string(&reader, "uri", true, server->uri, sizeof(server->uri)) &&
		(strstr(server->uri, ":///") == NULL && strstr(server->uri, "://") == NULL))
		FAIL(&reader, "uri", "write it like qemu:///system or qemu+ssh://host/system",
			"\"%.60s\" is not a libvirt URI", server->uri);
	reader_ifname(&reader, "bridge", server->bridge);
	reader_ifname(&reader, "trunk", server->trunk);
	read_hostd(&reader, server);
	reader_number(&reader, "memory_mib", false, 256, 16777216, &server->memory_mib);
	read_risks(&reader, &server->risks);
	return reader_end(&reader);
}

cJSON *model_server_json(const struct server *server)
{
	cJSON *json = cJSON_CreateObject();
	cJSON_AddStringToObject(json, "name", server->name);
	cJSON_AddStringToObject(json, "site", server->site);
	cJSON_AddStringToObject(json, "uri", server->uri);
	cJSON_AddStringToObject(json, "bridge", server->bridge);
	cJSON_AddStringToObject(json, "trunk", server->trunk);
	if (server->hostd[0] != '\0')
		cJSON_AddStringToObject(json, "hostd", server->hostd);
	else
		cJSON_AddNullToObject(json, "hostd");
	cJSON_AddNumberToObject(json, "memory_mib", server->memory_mib);
	cJSON *risks = cJSON_AddArrayToObject(json, "risks");
	for (size_t i = 0; i < server->risks.n; i++)
		cJSON_AddItemToArray(risks, cJSON_CreateString(server->risks.name[i]));
	return json;
}

int model_customer_read(const cJSON *json, struct customer *customer, struct problem *problem)
{
	*customer = (struct customer){0};
	struct reader reader;
	if (!reader_begin(&reader, json, "", problem))
		return -1;
	reader_name(&reader, "name", true, customer->name);
	reader_number(&reader, "vpn_id", false, 1, VPN_ID_MAX, &customer->vpn_id);
	return reader_end(&reader);
}

cJSON *model_customer_json(const struct customer *customer)
{
	cJSON *json = cJSON_CreateObject();
	cJSON_AddStringToObject(json, "name", customer->name);
	if (customer->vpn_id != 0)
		cJSON_AddNumberToObject(json, "vpn_id", customer->vpn_id);
	return json;
}

int model_cvm_read(const cJSON *json, char *site, struct problem *problem)
{
	struct reader reader;
	if (!reader_begin(&reader, json, "", problem))
		return -1;
	reader_name(&reader, "site", true, site);
	return reader_end(&reader);
}

int model_protection_read(
	const cJSON *json, struct protection_request *request, struct problem *problem)
{
	*request = (struct protection_request){.has_standby = false};
	struct reader reader;
	if (json == NULL)
		return 0;
	if (!reader_begin(&reader, json, "", problem))
		return -1;
	/* null takes back what was wanted before. */
	request->has_standby = cJSON_GetObjectItemCaseSensitive(json, "standby") != NULL;
	reader_name(&reader, "standby", false, request->standby);
	reader_number(&reader, "interval_ms", false, INTERVAL_MIN_MS, PROTECTION_MAX_MS,
		&request->interval_ms);
	reader_number(&reader, "timeout_ms", false, TIMEOUT_MIN_MS, PROTECTION_MAX_MS,
		&request->timeout_ms);
	return reader_end(&reader);
}

cJSON *model_cvm_json(const struct cvm *cvm)
{
	cJSON *json = cJSON_CreateObject();
	cJSON_AddStringToObject(json, "name", cvm->site);
	cJSON_AddStringToObject(json, "site", cvm->site);
	cJSON_AddStringToObject(json, "server", cvm->server);
	cJSON *vlans = cJSON_AddObjectToObject(json, "vlans");
	cJSON_AddNumberToObject(vlans, "core", cvm->vlan_core);
	cJSON_AddNumberToObject(vlans, "inside", cvm->vlan_inside);
	add_address(json, "inside_address", &cvm->inside);
	cJSON *macs = cJSON_AddObjectToObject(json, "macs");
	add_mac(macs, "core", model_pe_mac(cvm->site_id));
	add_mac(macs, "inside", model_inside_mac(cvm->site_id));
	return json;
}

/* ---- ports -------------------------------------------------------------------------------- */

static void read_addresses(struct reader *reader, struct port *port)
{
	const cJSON *list = reader_get(reader, "addresses", true);
	if (list == NULL)
		return;
	int n = cJSON_IsArray(list) ? cJSON_GetArraySize(list) : 0;
	if (n < 1 || n > MODEL_MAX_ADDRESSES) {
		FAIL(reader, "addresses", "give the PE's addresses on the customer's link",
			"is not a list of 1 to %d addresses", MODEL_MAX_ADDRESSES);
		return;
	}
	const cJSON *item;
	cJSON_ArrayForEach (item, list) {
		char name[48];
		snprintf(name, sizeof(name), "addresses/%zu", port->n_addresses);
		struct ep_prefix *addr = &port->addresses[port->n_addresses];
		if (!cJSON_IsString(item)) {
			FAIL(reader, name, "send a string", "is not a string");
			return;
		}
		if (!read_interface(reader, name, item->valuestring, 0, addr))
			return;
		for (size_t i = 0; i < port->n_addresses; i++) {
			if (ep_prefix_overlaps(&port->addresses[i], addr))
				FAIL(reader, name, "give one address per subnet",
					"%s overlaps /addresses/%zu", item->valuestring, i);
		}
		port->n_addresses++;
	}
}

static void check_ce(struct reader *reader, const struct port *port, const struct ce *ce)
{
	char text[EP_PREFIX_STRLEN];
	ep_addr_format(&ce->address, text);
	const struct ep_prefix *link = NULL;
	for (size_t i = 0; i < port->n_addresses && link == NULL; i++) {
		if (ep_prefix_contains(&port->addresses[i], &ce->address))
			link = &port->addresses[i];
	}
	if (link == NULL)
		FAIL(reader, "address", "give an address in a subnet of \"addresses\"",
			"%s lies in no subnet of the port", text);
	else if (same_address(link, &ce->address))
		FAIL(reader, "address", "give the customer's address, not the PE's",
			"%s is the port's own address", text);
	else if (is_subnet_edge(&ce->address, link))
		FAIL(reader, "address", "choose another address of the subnet",
			"%s is the subnet's own number or its broadcast address", text);
	for (size_t i = 0; i < port->n_ce; i++) {
		if (same_address(&port->ce[i].address, &ce->address))
			FAIL(reader, "address", "give each CE once", "%s is given twice", text);
	}
}

static void read_ces(struct reader *reader, struct port *port)
{
	const cJSON *list = reader_get(reader, "ce", true);
	if (list == NULL)
		return;
	int n = cJSON_IsArray(list) ? cJSON_GetArraySize(list) : 0;
	if (n < 1 || n > MODEL_MAX_CE) {
		FAIL(reader, "ce", "give the customer's BGP speakers",
			"is not a list of 1 to %d objects", MODEL_MAX_CE);
		return;
	}
	const cJSON *item;
	cJSON_ArrayForEach (item, list) {
		char base[32];
		snprintf(base, sizeof(base), "/ce/%zu", port->n_ce);
		struct ce *ce = &port->ce[port->n_ce];
		struct reader one;
		if (!reader_begin(&one, item, base, reader->problem)) {
			reader->failed = true;
			return;
		}
		bool have = reader_address(&one, "address", true, 0, &ce->address);
		reader_number(&one, "asn", true, 1, UINT32_MAX - 1, &ce->asn);
		reader_number(&one, "max_prefixes", false, 1, 10000000, &ce->max_prefixes);
		if (have && !reader->failed)
			check_ce(&one, port, ce);
		if (reader_end(&one) != 0)
			reader->failed = true;
		port->n_ce++;
	}
}

static void read_ce_mac(struct reader *reader, struct port *port)
{
	char text[64];
	if (!reader_string(reader, "ce_mac", false, text, sizeof(text)))
		return;
	if (ep_mac_parse(text, &port->ce_mac) != 0)
		FAIL(reader, "ce_mac", "write it like 52:54:00:12:34:56",
			"\"%s\" is not a MAC address", text);
	else if (port->ce_mac.bytes[0] & 1)
		FAIL(reader, "ce_mac", "give the customer router's own address",
			"%s is a group address", text);
	else if (port->ce_mac.bytes[0] == 0x02 && port->ce_mac.bytes[1] == 0xed)
		FAIL(reader, "ce_mac", "give the customer router's own address",
			"%s is one of the controller's own addresses (02:ed:…)", text);
	else
		port->has_ce_mac = true;
}

int model_port_read(const cJSON *json, struct port *port, struct problem *problem)
{
	*port = (struct port){.mtu = 1500, .graceful_restart_s = MODEL_GRACEFUL_RESTART_S};
	struct reader reader;
	if (!reader_begin(&reader, json, "", problem))
		return -1;
	reader_name(&reader, "name", true, port->name);
	reader_name(&reader, "customer", true, port->customer);
	reader_name(&reader, "site", true, port->site);
	reader_ifname(&reader, "switch_port", port->switch_port);
	reader_number(&reader, "vlan", false, 0, VLAN_MAX, &port->vlan);
	read_addresses(&reader, port);
	reader_number(&reader, "mtu", false, MTU_MIN, MTU_MAX, &port->mtu);
	read_ces(&reader, port);
	read_ce_mac(&reader, port);
	reader_name(&reader, "server", false, port->wanted_server);
	reader_number(&reader, "graceful_restart_s", false, 0, GRACEFUL_RESTART_MAX_S,
		&port->graceful_restart_s);
	return reader_end(&reader);
}

const char *model_move_state_name(enum move_state state)
{
	static const char *const names[] = {"none", "copying", "switching", "leaving"};
	return names[state];
}

const char *model_failover_why_name(enum failover_why why)
{
	static const char *const names[] = {
		"", "primary-dead", "primary-silent", "server-lost", "trunk-down", "asked"};
	return names[why];
}

const char *model_port_state_name(enum port_state state)
{
	static const char *const names[] = {"creating", "active", "deleting"};
	return names[state];
}

static cJSON *ces_json(const struct port *port)
{
	cJSON *list = cJSON_CreateArray();
	for (size_t i = 0; i < port->n_ce; i++) {
		cJSON *ce = cJSON_CreateObject();
		add_address(ce, "address", &port->ce[i].address);
		cJSON_AddNumberToObject(ce, "asn", port->ce[i].asn);
		if (port->ce[i].max_prefixes != 0)
			cJSON_AddNumberToObject(ce, "max_prefixes", port->ce[i].max_prefixes);
		cJSON_AddItemToArray(list, ce);
	}
	return list;
}

static void add_chosen(cJSON *json, const struct port *port, const struct site *site)
{
	char rd[32];
	snprintf(rd, sizeof(rd), "%u:%u", site->asn, port->rd_number);
	cJSON_AddNumberToObject(json, "label", port->label);
	cJSON *vlans = cJSON_AddObjectToObject(json, "vlans");
	cJSON_AddNumberToObject(vlans, "cust", port->vlan_cust);
	cJSON_AddNumberToObject(vlans, "core", port->vlan_core);
	cJSON_AddStringToObject(json, "rd", rd);
	add_address(json, "inside_address", &port->inside);
	add_mac(json, "mac", model_port_mac(port->id));
}

cJSON *model_port_json(const struct port *port, const struct site *site, bool full)
{
	char text[EP_PREFIX_STRLEN];
	const char *server = full ? port->server : port->wanted_server;
	cJSON *json = cJSON_CreateObject();
	cJSON_AddStringToObject(json, "name", port->name);
	cJSON_AddStringToObject(json, "customer", port->customer);
	cJSON_AddStringToObject(json, "site", port->site);
	cJSON_AddStringToObject(json, "switch_port", port->switch_port);
	cJSON_AddNumberToObject(json, "vlan", port->vlan);
	cJSON *addresses = cJSON_AddArrayToObject(json, "addresses");
	for (size_t i = 0; i < port->n_addresses; i++)
		cJSON_AddItemToArray(
			addresses, cJSON_CreateString(ep_prefix_format(&port->addresses[i], text)));
	cJSON_AddNumberToObject(json, "mtu", port->mtu);
	cJSON_AddItemToObject(json, "ce", ces_json(port));
	if (port->has_ce_mac)
		add_mac(json, "ce_mac", port->ce_mac);
	else
		cJSON_AddNullToObject(json, "ce_mac");
	if (server[0] != '\0')
		cJSON_AddStringToObject(json, "server", server);
	else
		cJSON_AddNullToObject(json, "server");
	cJSON_AddNumberToObject(json, "graceful_restart_s", port->graceful_restart_s);
	if (full)
		add_chosen(json, port, site);
	return json;
}

/* ---- changes ------------------------------------------------------------------------------ */

static bool listed(const char *const *list, const char *name)
{
	for (; *list != NULL; list++) {
		if (strcmp(*list, name) == 0)
			return true;
	}
	return false;
}

/* RFC 7396, with paths ("core/mtu") checked against `mutable`. */
static void merge(cJSON *target, const cJSON *change, const char *base, const char *const *mutable,
	struct problem *problem)
{
	const cJSON *item;
	cJSON_ArrayForEach (item, change) {
		char path[64], pointer[72];
		snprintf(path, sizeof(path), "%s%s%.40s", base, base[0] ? "/" : "", item->string);
		snprintf(pointer, sizeof(pointer), "/%s", path);
		if (cJSON_GetObjectItemCaseSensitive(change, item->string) != item) {
			problem_field(problem, pointer, "give it once", "is given twice");
			continue;
		}
		cJSON *present = cJSON_GetObjectItemCaseSensitive(target, item->string);
		if (base[0] == '\0' && cJSON_IsObject(item) && cJSON_IsObject(present)) {
			merge(present, item, path, mutable, problem);
			continue;
		}
		if (present != NULL && !listed(mutable, path) &&
			!cJSON_Compare(present, item, true)) {
			problem_field(problem, pointer, "delete the object and create it again",
				"can't be changed");
			continue;
		}
		cJSON_DeleteItemFromObjectCaseSensitive(target, item->string);
		if (!cJSON_IsNull(item))
			cJSON_AddItemToObject(target, item->string, cJSON_Duplicate(item, true));
	}
}

cJSON *model_patch(const cJSON *present, const cJSON *change, const char *const *mutable,
	struct problem *problem)
{
	if (!cJSON_IsObject(change)) {
		problem_field(problem, "", "send a JSON object", "is not an object");
		return NULL;
	}
	cJSON *merged = cJSON_Duplicate(present, true);
	merge(merged, change, "", mutable, problem);
	if (problem->status != 0) {
		cJSON_Delete(merged);
		return NULL;
	}
	return merged;
}

/* ---- MAC addresses ------------------------------------------------------------------------ */

static struct ep_mac own_mac(uint8_t kind, int64_t id)
{
	return (struct ep_mac){
		{0x02, 0xed, kind, (uint8_t)(id >> 16), (uint8_t)(id >> 8), (uint8_t)id}};
}

struct ep_mac model_pe_mac(int64_t site_id)
{
	return own_mac(0, site_id);
}

struct ep_mac model_inside_mac(int64_t site_id)
{
	return own_mac(1, site_id);
}

struct ep_mac model_port_mac(int64_t port_id)
{
	return own_mac(2, port_id);
}

struct ep_mac model_spare_mac(int64_t spare_id, bool core)
{
	return own_mac(core ? 4 : 3, spare_id);
}

const char *model_spare_name(int64_t spare_id, char name[MODEL_SPARE_NAME_SIZE])
{
	snprintf(name, MODEL_SPARE_NAME_SIZE, "spare-%lld", (long long)spare_id);
	return name;
}

void model_add_time(cJSON *json, const char *name, int64_t ms)
{
	char text[40];
	struct tm tm;
	time_t seconds = (time_t)(ms / 1000);
	gmtime_r(&seconds, &tm);
	size_t len = strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%S", &tm);
	snprintf(text + len, sizeof(text) - len, ".%03dZ", (int)(ms % 1000));
	cJSON_AddStringToObject(json, name, text);
}
