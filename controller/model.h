/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef EDGEPLEX_MODEL_H
#define EDGEPLEX_MODEL_H

/*
 * What the operator entrusts to the controller, and its JSON (docs/api.md). Reading checks each
 * object by itself: types, forms, ranges, what its own fields say about each other. What depends
 * on other objects is checked in registry.h. Plain data; everything here is thread-safe.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <cjson/cJSON.h>

#include "common/prefix.h"
#include "controller/problem.h"

#define MODEL_NAME_SIZE 31   /* "[a-z][a-z0-9-]{0,29}" and a NUL */
#define MODEL_IFNAME_SIZE 16 /* of a port of a switch, with NUL */
#define MODEL_URI_SIZE 256
#define MODEL_HOSTD_SIZE 113 /* "unix:" and what a socket's path may have */
#define MODEL_UUID_SIZE 37
#define MODEL_RISK_SIZE 64 /* "rack=r1", with NUL */
#define MODEL_MAX_RISKS 32 /* of a server */
#define MODEL_MAX_RR 8
#define MODEL_MAX_ADDRESSES 8
#define MODEL_MAX_CE 8
#define MODEL_MAX_SPARES 16 /* of a site */

/* A label that says "no label" (RFC 3032, implicit null): the PE is adjacent. */
#define MODEL_LABEL_IMPLICIT_NULL 3

#define MODEL_LABELS_BYTES 8u /* on the core: the remote PE's label and the VPN's */

/*
 * Guests' memory. Never a multiple of 256 KiB: QEMU's TCG would then track dirty pages wrongly,
 * and copying a running guest's memory would corrupt it.
 */
#define MODEL_MEMORY_STEP_KIB 256
#define MODEL_PVM_MEMORY_KIB 159752
#define MODEL_CVM_MEMORY_KIB 262152

/* How long neighbours keep a PVM's routes when it is gone without a word (docs/protocols.md). */
#define MODEL_GRACEFUL_RESTART_S 120

struct range {
	uint32_t first, last; /* both included */
};

struct site {
	int64_t id; /* 0: not stored yet */
	char name[MODEL_NAME_SIZE];
	uint32_t asn;
	struct ep_prefix pe_address;
	char core_port[MODEL_IFNAME_SIZE];
	struct ep_prefix core_address; /* with the link's length */
	struct ep_prefix core_gateway;
	size_t n_rr;
	struct ep_prefix rr[MODEL_MAX_RR];
	uint32_t core_mtu;
	uint32_t transport_label;
	char switch_target[MODEL_URI_SIZE];
	struct ep_prefix inside; /* family 0: to be chosen */
	struct range labels, vlans;
	uint32_t pvm_memory_kib, cvm_memory_kib;
	uint32_t spares; /* how many booted, unconfigured VMs are kept for PVMs that die */
};

/* What fails together: names of racks, feeds, zones, whatever the operator calls them. */
struct risks {
	size_t n;
	char name[MODEL_MAX_RISKS][MODEL_RISK_SIZE];
};

struct server {
	int64_t id;
	char name[MODEL_NAME_SIZE];
	int64_t site_id;
	char site[MODEL_NAME_SIZE];
	char uri[MODEL_URI_SIZE];
	char bridge[MODEL_IFNAME_SIZE];
	char trunk[MODEL_IFNAME_SIZE];
	char hostd[MODEL_HOSTD_SIZE]; /* "": none, its VMs can't be moved */
	uint32_t memory_mib;          /* that VMs may use together */
	bool drained;                 /* out of service: no VM is placed there */
	struct risks risks;           /* that it shares with other servers */
};

struct customer {
	int64_t id;
	char name[MODEL_NAME_SIZE];
	uint32_t vpn_id; /* 0: to be chosen */
};

struct ce {
	struct ep_prefix address;
	uint32_t asn;
	uint32_t max_prefixes; /* 0: the guest's default */
};

enum port_state {
	PORT_CREATING, /* an operation makes it, or takes back what it made */
	PORT_ACTIVE,
	PORT_DELETING,
};

/* A customer port and its PVM: they live and die together. */
/* How far the move of a port's VM is. */
enum move_state {
	MOVE_NONE,
	MOVE_COPYING,   /* the second copy doesn't run yet */
	MOVE_SWITCHING, /* either may run; its operation decides which one stays */
	MOVE_LEAVING,   /* the second copy is void, fenced at the switch, and to be ended */
};

/* A VM's second copy, on another server; there is none if MOVE_NONE. */
struct second_copy {
	enum move_state state;
	int64_t server_id;
	char server[MODEL_NAME_SIZE];
};

struct port {
	int64_t id;
	char name[MODEL_NAME_SIZE];
	int64_t customer_id, site_id;
	char customer[MODEL_NAME_SIZE], site[MODEL_NAME_SIZE];
	char switch_port[MODEL_IFNAME_SIZE];
	uint32_t vlan; /* the customer's; 0: untagged */
	size_t n_addresses;
	struct ep_prefix addresses[MODEL_MAX_ADDRESSES];
	uint32_t mtu;
	size_t n_ce;
	struct ce ce[MODEL_MAX_CE];
	bool has_ce_mac;
	struct ep_mac ce_mac;
	char wanted_server[MODEL_NAME_SIZE]; /* "": the controller chooses */
	uint32_t graceful_restart_s;         /* 0: none */

	/* What the controller chose. */
	uint32_t vpn_id; /* the customer's */
	enum port_state state;
	int64_t server_id;
	char server[MODEL_NAME_SIZE];
	char uuid[MODEL_UUID_SIZE];
	uint32_t label, vlan_cust, vlan_core;
	uint32_t rd_number; /* RD = site's ASN : this */
	struct ep_prefix inside;
	bool started;   /* its VM should run */
	bool in_cvm;    /* the CVM should know it */
	bool in_fabric; /* the edge switch should serve it */

	struct second_copy move;
};

/* A site's CVM. */
struct cvm {
	int64_t site_id;
	char site[MODEL_NAME_SIZE];
	enum port_state state;
	int64_t server_id;
	char server[MODEL_NAME_SIZE];
	char uuid[MODEL_UUID_SIZE];
	uint32_t vlan_core, vlan_inside;
	struct ep_prefix inside;
	bool started, in_fabric;
	struct second_copy move;
};

/*
 * A spare: a PVM's VM that is booted and isn't configured, and becomes the VM of a port whose own
 * has died. What it is given it takes along.
 */
struct spare {
	int64_t id;
	int64_t site_id, server_id;
	char site[MODEL_NAME_SIZE], server[MODEL_NAME_SIZE];
	char uuid[MODEL_UUID_SIZE];
	uint32_t vlan_cust, vlan_core;
	uint32_t memory_kib;
	int64_t created_ms; /* since the epoch */
};

/* How far the protection of a CVM is; what is stored, so that it survives a crash. */
enum protection_state {
	PROTECTION_NONE,     /* no standby; the CVM is nobody's but its keeper's */
	PROTECTION_STARTING, /* a standby's VM may be there; nothing was copied yet */
	PROTECTION_SYNCING,  /* copying has begun: the copy may become whole at any moment */
	PROTECTION_WHOLE,    /* the standby has held a whole epoch, and may be activated */
	PROTECTION_TAKEOVER, /* the standby is the one that may speak, and is being activated */
};

/* Why a standby took over. */
enum failover_why {
	FAILOVER_NONE,
	FAILOVER_PRIMARY_DEAD,
	FAILOVER_PRIMARY_SILENT,
	FAILOVER_SERVER_LOST,
	FAILOVER_TRUNK_DOWN,
	FAILOVER_ASKED,
};

/* How often standbys have taken over from a CVM, protected now or not, and the last time. */
struct failovers {
	uint32_t count;
	struct failover {
		int64_t time_ms; /* since the epoch; 0: there was none */
		enum failover_why why;
		char from[MODEL_NAME_SIZE], to[MODEL_NAME_SIZE];
		int64_t fenced_us, running_us; /* since it was noticed */
		char detail[256];
	} last;
};

#define MODEL_INTERVAL_MS 100
#define MODEL_TIMEOUT_MS 1000

/* A CVM that is, or is to be, protected by a standby on another server. */
struct protection {
	int64_t site_id;
	char site[MODEL_NAME_SIZE];
	bool ending;                         /* the operator doesn't want it any more */
	char wanted_server[MODEL_NAME_SIZE]; /* of the standby; "": the controller chooses */
	uint32_t interval_ms, timeout_ms;    /* hostd/guardian.h */
	enum protection_state state;
	int64_t standby_id; /* its server; 0: PROTECTION_NONE */
	char standby[MODEL_NAME_SIZE];
	struct takeover_begun { /* PROTECTION_TAKEOVER alone */
		int64_t time_ms;
		enum failover_why why;
	} takeover;
	struct failovers past; /* the CVM's */
};

/* What a request to protect a CVM says; 0 and NULL: not said. */
struct protection_request {
	bool has_standby;
	char standby[MODEL_NAME_SIZE]; /* "": any */
	uint32_t interval_ms, timeout_ms;
};

bool model_name_valid(const char *name);
const char *model_port_state_name(enum port_state state);
const char *model_move_state_name(enum move_state state);
const char *model_failover_why_name(enum failover_why why); /* "primary-dead"; "": none */

/*
 * Read a request's object. Return 0, or -1 with `problem` naming each wrong field. What has a
 * default that depends on other objects is left 0 (see the fields above).
 */
int model_site_read(const cJSON *json, struct site *site, struct problem *problem);
int model_server_read(const cJSON *json, struct server *server, struct problem *problem);
int model_customer_read(const cJSON *json, struct customer *customer, struct problem *problem);
int model_port_read(const cJSON *json, struct port *port, struct problem *problem);
/* Reads {"site": NAME}. `site` has MODEL_NAME_SIZE bytes. */
int model_cvm_read(const cJSON *json, char *site, struct problem *problem);
/* `json` may be NULL: nothing is said. */
int model_protection_read(
	const cJSON *json, struct protection_request *request, struct problem *problem);

/*
 * The object as a request would give it (`full` false), or with what the controller chose (true).
 * The caller's.
 */
cJSON *model_site_json(const struct site *site);
cJSON *model_server_json(const struct server *server);
cJSON *model_customer_json(const struct customer *customer);
cJSON *model_port_json(const struct port *port, const struct site *site, bool full);
cJSON *model_cvm_json(const struct cvm *cvm);

/*
 * The object that a PATCH makes: `present` (as the API shows it to a request) with the fields of
 * `change` replaced; objects merge, null removes (RFC 7396). A field that isn't in `mutable`
 * (NULL-terminated list of top-level names and "core/…" paths) must not change.
 * Returns a new object, or NULL with `problem` set.
 */
cJSON *model_patch(const cJSON *present, const cJSON *change, const char *const *mutable,
	struct problem *problem);

/* Reads "FIRST-LAST" or "VALUE". Returns 0 or EINVAL. */
int model_range_parse(const char *text, struct range *range);

/*
 * MAC addresses that the controller gives out: locally administered, a function of the owner's
 * identity, so that they survive anything.
 */
struct ep_mac model_pe_mac(int64_t site_id);     /* the core sees one router per site */
struct ep_mac model_inside_mac(int64_t site_id); /* CVM's NIC towards the PVMs */
struct ep_mac model_port_mac(int64_t port_id);   /* PVM's NIC towards the customer */
/* A spare's NICs, of which nobody hears: it speaks when it has taken over its port's. */
struct ep_mac model_spare_mac(int64_t spare_id, bool core);

/* "spare-7"; as an object it is called "spare/7". */
#define MODEL_SPARE_NAME_SIZE 32
const char *model_spare_name(int64_t spare_id, char name[MODEL_SPARE_NAME_SIZE]);

/* Adds a time as everybody shows it: RFC 3339, UTC, with milliseconds. `ms`: since the epoch. */
void model_add_time(cJSON *json, const char *name, int64_t ms);

#endif
