/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "controller/cli/command.h"

#include <string.h>

#include "controller/cli/completion.h"
#include "controller/cli/event.h"
#include "controller/cli/explain.h"
#include "controller/cli/help.h"
#include "controller/cli/operation.h"
#include "controller/cli/resource.h"
#include "controller/cli/status.h"
#include "controller/cli/vm.h"

#define END_COLUMNS                       \
	{                                 \
		{NULL, false}, NULL, NULL \
	}
#define END_OPTIONS          \
	{                    \
		.name = NULL \
	}
#define END_VERBS            \
	{                    \
		.name = NULL \
	}

#define WAIT_OPTIONS                                                                            \
	{.name = "wait", .help = "wait until the operation has ended (the default)"},           \
	{                                                                                       \
		.name = "no-wait", .help = "print the operation's number and don't wait for it" \
	}

const struct option command_global_options[] = {
	{.name = "json", .help = "print what the API answers, as JSON"},
	{.name = "socket",
		.value = "PATH",
		.help = "edgeplexd's socket; else $EDGEPLEX_SOCKET, else " CLIENT_DEFAULT_SOCKET,
		.names = NAMES_FILES},
	{.name = "no-color",
		.help = "no colours; there are none anyway if the output is no "
			"terminal or $NO_COLOR is set"},
	{.name = "help", .help = "explain the command"},
	{.name = "version", .help = "print this program's version"}, END_OPTIONS};

#define TIMEOUT_OPTION                                                                      \
	{                                                                                   \
		.name = "timeout", .type = VALUE_NUMBER, .value = "SECONDS",                \
		.help = "how long edgeplexd waits for the routes before the operation has " \
			"failed; the default is 120"                                        \
	}

static const struct option wait_options[] = {WAIT_OPTIONS, END_OPTIONS};
static const struct option cvm_options[] = {WAIT_OPTIONS, TIMEOUT_OPTION, END_OPTIONS};

/* ---- sites --------------------------------------------------------------------------------- */

static const struct resource_column site_columns[] = {{TABLE_LEFT("NAME"), "name", NULL},
	{TABLE_RIGHT("ASN"), "asn", NULL}, {TABLE_LEFT("PE ADDRESS"), "pe_address", NULL},
	{TABLE_LEFT("CORE LINK"), "core/address", NULL},
	{TABLE_LEFT("GATEWAY"), "core/gateway", NULL},
	{TABLE_LEFT("ROUTE REFLECTORS"), "core/route_reflectors", NULL},
	{TABLE_LEFT("SWITCH"), "switch_connected", resource_cell_connected}, END_COLUMNS};
static const struct resource sites = {"/v1/sites", "name", site_columns};

#define RR_OPTION(must)                                                                    \
	{                                                                                  \
		.name = "rr", .value = "ADDRESS", .help = "a route reflector of the core", \
		.field = "core/route_reflectors", .required = (must), .repeats = true      \
	}

#define TRANSPORT_LABEL_OPTION(must)                                                          \
	{                                                                                     \
		.name = "transport-label", .value = "LABEL",                                  \
		.help = "MPLS label under which other sites reach this one through the core", \
		.field = "transport_label", .type = VALUE_NUMBER, .required = (must)          \
	}

#define LABELS_OPTION(must)                                                                   \
	{                                                                                     \
		.name = "labels", .value = "FIRST-LAST", .help = "VPN labels to choose from", \
		.field = "labels", .required = (must)                                         \
	}

#define VLANS_OPTION(must)                                                                         \
	{                                                                                          \
		.name = "vlans", .value = "FIRST-LAST",                                            \
		.help = "VLANs of the trunks to choose from", .field = "vlans", .required = (must) \
	}

#define SPARES_OPTION(must)                                                              \
	{                                                                                \
		.name = "spares", .value = "N",                                          \
		.help = "booted VMs kept for PVMs that die, at most 16; the default: 0", \
		.field = "spares", .type = VALUE_NUMBER, .required = (must)              \
	}

static const struct option site_options[] = {{.name = "asn",
						     .value = "ASN",
						     .help = "the provider's autonomous system",
						     .field = "asn",
						     .type = VALUE_NUMBER,
						     .required = true},
	{.name = "pe-address",
		.value = "ADDRESS",
		.help = "IPv4 address of the PE: the next hop of all its VPN routes",
		.field = "pe_address",
		.required = true},
	{.name = "core-port",
		.value = "PORT",
		.help = "port of the edge switch that leads to the core",
		.field = "core/switch_port",
		.required = true},
	{.name = "core-address",
		.value = "ADDRESS/LENGTH",
		.help = "the PE's address on the core link",
		.field = "core/address",
		.required = true},
	{.name = "core-gateway",
		.value = "ADDRESS",
		.help = "the core's router on that link",
		.field = "core/gateway",
		.required = true},
	RR_OPTION(true),
	{.name = "core-mtu",
		.value = "BYTES",
		.help = "MTU of the core link; it carries labels, too",
		.field = "core/mtu",
		.type = VALUE_NUMBER},
	TRANSPORT_LABEL_OPTION(true),
	{.name = "switch",
		.value = "TARGET",
		.help = "OpenFlow connection to the edge switch: unix:PATH or tcp:ADDRESS:PORT",
		.field = "switch",
		.required = true},
	{.name = "inside",
		.value = "PREFIX",
		.help = "network between the CVM and the PVMs",
		.field = "inside"},
	LABELS_OPTION(false), VLANS_OPTION(false), SPARES_OPTION(false), END_OPTIONS};

static const struct option site_set_options[] = {RR_OPTION(false), TRANSPORT_LABEL_OPTION(false),
	LABELS_OPTION(false), VLANS_OPTION(false), SPARES_OPTION(false), END_OPTIONS};

static const struct verb site_verbs[] = {
	{.name = "list", .summary = "list the sites", .run = resource_run_list},
	{.name = "show",
		.summary = "show a site",
		.arguments = {{.name = "NAME", .help = "the site", .names = NAMES_SITES}},
		.run = resource_run_show},
	{.name = "create",
		.summary = "make a site: one PE, as the core sees it",
		.details =
			"Connects to the site's edge switch, and takes its whole flow table over.",
		.example = "site create a --asn 65000 --pe-address 10.0.0.1 --core-port core "
			   "--core-address 192.0.2.2/30 --core-gateway 192.0.2.1 --rr 10.0.0.100 "
			   "--transport-label 16001 --switch unix:/run/openvswitch/edge.mgmt",
		.arguments = {{.name = "NAME", .help = "the new site's name", .field = "name"}},
		.options = site_options,
		.run = resource_run_create},
	{.name = "set",
		.summary = "change settings of a site",
		.details = "A list (--rr) replaces the one there is.",
		.example = "site set a --rr 10.0.0.100 --rr 10.0.0.101",
		.arguments = {{.name = "NAME", .help = "the site", .names = NAMES_SITES}},
		.options = site_set_options,
		.run = resource_run_set},
	{.name = "risks",
		.summary = "show what would fail together at a site though it should not",
		.details =
			"A CVM and its standby, a PVM and the spares that could stand in for "
			"it, ports of one customer, the whole pool of spares: if they are on one "
			"server, or on servers that share a risk (\"server set --risk\").",
		.arguments = {{.name = "NAME", .help = "the site", .names = NAMES_SITES}},
		.run = explain_run_risks},
	{.name = "delete",
		.summary = "remove a site that has no servers, ports and CVM any more",
		.arguments = {{.name = "NAME", .help = "the site", .names = NAMES_SITES}},
		.run = resource_run_delete},
	END_VERBS};

/* ---- servers ------------------------------------------------------------------------------- */

static const struct resource_column server_columns[] = {{TABLE_LEFT("NAME"), "name", NULL},
	{TABLE_LEFT("SITE"), "site", NULL}, {TABLE_LEFT("URI"), "uri", NULL},
	{TABLE_LEFT("BRIDGE"), "bridge", NULL}, {TABLE_LEFT("TRUNK"), "trunk", NULL},
	{TABLE_RIGHT("MEMORY"), "memory_mib", resource_cell_mib},
	{TABLE_LEFT("STATUS"), "status", resource_cell_state},
	{TABLE_LEFT("HOSTD"), "hostd_status", resource_cell_state},
	{TABLE_LEFT("RISKS"), "risks", NULL}, END_COLUMNS};
static const struct resource servers = {"/v1/servers", "name", server_columns};

#define MEMORY_OPTION(must)                                                                     \
	{                                                                                       \
		.name = "memory-mib", .value = "MIB",                                           \
		.help = "memory that virtual machines may use together", .field = "memory_mib", \
		.type = VALUE_NUMBER, .required = (must)                                        \
	}

#define HOSTD_OPTION(must)                                                            \
	{                                                                             \
		.name = "hostd", .value = "TARGET|none",                              \
		.help = "its edgeplex-hostd, such as unix:/run/edgeplex/hostd.sock; " \
			"\"none\", the default: its virtual machines can't be moved", \
		.field = "hostd", .type = VALUE_OR_NONE, .required = (must)           \
	}

#define RISK_OPTION                                                                               \
	{                                                                                         \
		.name = "risk", .value = "NAME|none",                                             \
		.help = "what it shares with other servers and fails with them, such as rack=r1 " \
			"or "                                                                     \
			"power=a: any name",                                                      \
		.field = "risks", .type = VALUE_OR_NONE, .repeats = true                          \
	}

static const struct option server_options[] = {{.name = "site",
						       .value = "SITE",
						       .help = "where it stands",
						       .field = "site",
						       .names = NAMES_SITES,
						       .required = true},
	{.name = "uri",
		.value = "URI",
		.help = "its libvirt, such as qemu+ssh://HOST/system",
		.field = "uri",
		.required = true},
	{.name = "bridge",
		.value = "BRIDGE",
		.help = "its Open vSwitch bridge",
		.field = "bridge",
		.required = true},
	{.name = "trunk",
		.value = "PORT",
		.help = "port of the edge switch that leads to that bridge",
		.field = "trunk",
		.required = true},
	HOSTD_OPTION(false), MEMORY_OPTION(false), RISK_OPTION, END_OPTIONS};

static const struct option server_set_options[] = {
	HOSTD_OPTION(false), MEMORY_OPTION(false), RISK_OPTION, END_OPTIONS};

static const struct verb server_verbs[] = {
	{.name = "list", .summary = "list the servers", .run = resource_run_list},
	{.name = "show",
		.summary = "show a server",
		.arguments = {{.name = "NAME", .help = "the server", .names = NAMES_SERVERS}},
		.run = resource_run_show},
	{.name = "create",
		.summary = "add a server, on which virtual machines may be placed",
		.details = "Connects to its libvirt and its hostd.",
		.example = "server create a-left --site a --uri qemu+ssh://left.a/system "
			   "--bridge br0 --trunk trunk-left",
		.arguments = {{.name = "NAME", .help = "the new server's name", .field = "name"}},
		.options = server_options,
		.run = resource_run_create},
	{.name = "set",
		.summary = "change settings of a server",
		.details = "A list (--risk) replaces the one there is; --risk none empties it.",
		.example = "server set a-left --risk rack=r1 --risk power=a",
		.arguments = {{.name = "NAME", .help = "the server", .names = NAMES_SERVERS}},
		.options = server_set_options,
		.run = resource_run_set},
	{.name = "drain",
		.summary = "move all VMs away from a server and take it out of service",
		.details = "PVMs and CVMs are moved, several at once; customers and core notice "
			   "nothing. The server gets no new virtual machines from then on, until "
			   "\"server undrain\".",
		.example = "server drain a-left",
		.arguments = {{.name = "NAME", .help = "the server", .names = NAMES_SERVERS}},
		.options = wait_options,
		.run = resource_run_drain},
	{.name = "undrain",
		.summary = "put a server into service again",
		.arguments = {{.name = "NAME", .help = "the server", .names = NAMES_SERVERS}},
		.run = resource_run_undrain},
	{.name = "delete",
		.summary = "remove a server that runs nothing any more",
		.arguments = {{.name = "NAME", .help = "the server", .names = NAMES_SERVERS}},
		.run = resource_run_delete},
	END_VERBS};

/* ---- spares -------------------------------------------------------------------------------- */

static const struct resource_column spare_columns[] = {{TABLE_LEFT("NAME"), "name", NULL},
	{TABLE_LEFT("SITE"), "site", NULL}, {TABLE_LEFT("SERVER"), "server", NULL},
	{TABLE_LEFT("STATE"), "state", resource_cell_state}, {TABLE_LEFT("SINCE"), "created", NULL},
	END_COLUMNS};
static const struct resource spares = {"/v1/spares", "name", spare_columns};

static const struct verb spare_verbs[] = {
	{.name = "list",
		.summary = "list the spares: booted virtual machines that stand in for PVMs",
		.details = "How many a site has is set by \"site set NAME --spares N\".",
		.run = resource_run_list},
	END_VERBS};

/* ---- customers ----------------------------------------------------------------------------- */

static const struct resource_column customer_columns[] = {
	{TABLE_LEFT("NAME"), "name", NULL}, {TABLE_RIGHT("VPN ID"), "vpn_id", NULL}, END_COLUMNS};
static const struct resource customers = {"/v1/customers", "name", customer_columns};

static const struct option customer_options[] = {
	{.name = "vpn-id",
		.value = "N",
		.help = "number of the VPN: its route target is ASN:N",
		.field = "vpn_id",
		.type = VALUE_NUMBER},
	END_OPTIONS};

static const struct verb customer_verbs[] = {
	{.name = "list", .summary = "list the customers", .run = resource_run_list},
	{.name = "show",
		.summary = "show a customer",
		.arguments = {{.name = "NAME", .help = "the customer", .names = NAMES_CUSTOMERS}},
		.run = resource_run_show},
	{.name = "create",
		.summary = "make a customer: one VPN",
		.example = "customer create green --vpn-id 100",
		.arguments = {{.name = "NAME", .help = "the new customer's name", .field = "name"}},
		.options = customer_options,
		.run = resource_run_create},
	{.name = "delete",
		.summary = "remove a customer who has no ports any more",
		.arguments = {{.name = "NAME", .help = "the customer", .names = NAMES_CUSTOMERS}},
		.run = resource_run_delete},
	END_VERBS};

/* ---- ports --------------------------------------------------------------------------------- */

static const struct resource_column port_columns[] = {{TABLE_LEFT("NAME"), "name", NULL},
	{TABLE_LEFT("CUSTOMER"), "customer", NULL}, {TABLE_LEFT("SITE"), "site", NULL},
	{TABLE_LEFT("SWITCH PORT"), "switch_port", NULL}, {TABLE_RIGHT("VLAN"), "vlan", NULL},
	{TABLE_LEFT("ADDRESSES"), "addresses", NULL}, {TABLE_LEFT("CE"), "ce", resource_cell_ce},
	{TABLE_LEFT("SERVER"), "server", NULL}, {TABLE_RIGHT("LABEL"), "label", NULL},
	{TABLE_LEFT("STATUS"), "status", resource_cell_state}, END_COLUMNS};
static const struct resource ports = {"/v1/ports", "name", port_columns};

#define ADDRESS_OPTION(must)                                                      \
	{                                                                         \
		.name = "address", .value = "ADDRESS/LENGTH",                     \
		.help = "our address on the customer link", .field = "addresses", \
		.required = (must), .repeats = true                               \
	}

#define CE_OPTION(must)                                                                         \
	{                                                                                       \
		.name = "ce", .value = "ADDRESS,ASN[,MAX-PREFIXES]",                            \
		.help = "a BGP speaker of the customer, and how many prefixes it may announce", \
		.field = "ce", .type = VALUE_CE, .required = (must), .repeats = true            \
	}

#define CE_MAC_OPTION(must)                                                                \
	{                                                                                  \
		.name = "ce-mac", .value = "MAC|none",                                     \
		.help = "the only source address of frames that is let in; \"none\", the " \
			"default: any",                                                    \
		.field = "ce_mac", .type = VALUE_OR_NONE, .required = (must)               \
	}

#define GRACEFUL_OPTION(must)                                                               \
	{                                                                                   \
		.name = "graceful-restart", .value = "SECONDS",                             \
		.help = "how long its neighbours keep its routes when its virtual machine " \
			"dies; the default is 120; 0: not at all",                          \
		.field = "graceful_restart_s", .type = VALUE_NUMBER, .required = (must)     \
	}

static const struct option port_options[] = {{.name = "customer",
						     .value = "CUSTOMER",
						     .help = "whose port it is",
						     .field = "customer",
						     .names = NAMES_CUSTOMERS,
						     .required = true},
	{.name = "site",
		.value = "SITE",
		.help = "where it is",
		.field = "site",
		.names = NAMES_SITES,
		.required = true},
	{.name = "switch-port",
		.value = "PORT",
		.help = "port of the edge switch that leads to the customer",
		.field = "switch_port",
		.required = true},
	{.name = "vlan",
		.value = "N",
		.help = "VLAN of the customer's frames there; 0, the default: untagged",
		.field = "vlan",
		.type = VALUE_NUMBER},
	ADDRESS_OPTION(true), CE_OPTION(true),
	{.name = "mtu",
		.value = "BYTES",
		.help = "MTU of the customer link; the default is 1500",
		.field = "mtu",
		.type = VALUE_NUMBER},
	CE_MAC_OPTION(false),
	{.name = "server",
		.value = "SERVER",
		.help = "where its virtual machine shall run; else edgeplexd chooses",
		.field = "server",
		.names = NAMES_SERVERS},
	GRACEFUL_OPTION(false), WAIT_OPTIONS, TIMEOUT_OPTION, END_OPTIONS};

static const struct option port_set_options[] = {ADDRESS_OPTION(false), CE_OPTION(false),
	CE_MAC_OPTION(false), GRACEFUL_OPTION(false), WAIT_OPTIONS, TIMEOUT_OPTION, END_OPTIONS};

static const struct verb port_verbs[] = {
	{.name = "list", .summary = "list the customers' ports", .run = resource_run_list},
	{.name = "show",
		.summary = "show a port",
		.arguments = {{.name = "NAME", .help = "the port", .names = NAMES_PORTS}},
		.run = resource_run_show},
	{.name = "create",
		.summary = "make a customer port and start its virtual machine",
		.details =
			"Done when the port carries routes: every session to the customer and "
			"the one to the CVM are Established, and the forwarder has the whole FIB. "
			"If a step before the last fails, everything is taken back. If only the "
			"routes don't come, the port stays and comes up by itself, and the error "
			"says which session is in which state.",
		.example =
			"port create green-a --customer green --site a --switch-port cust1 "
			"--address 192.168.1.1/30 --address fd00:a1::1/64 --ce 192.168.1.2,65101 "
			"--ce fd00:a1::2,65101",
		.arguments = {{.name = "NAME", .help = "the new port's name", .field = "name"}},
		.options = port_options,
		.run = resource_run_create},
	{.name = "set",
		.summary = "change settings of a port while it runs",
		.details =
			"A list (--address, --ce) replaces the one there is; sessions that are in "
			"both are not touched.",
		.example = "port set green-a --ce 192.168.1.2,65101,50000 --ce fd00:a1::2,65101",
		.arguments = {{.name = "NAME", .help = "the port", .names = NAMES_PORTS}},
		.options = port_set_options,
		.run = resource_run_set},
	{.name = "delete",
		.summary = "remove a port and its virtual machine",
		.arguments = {{.name = "NAME", .help = "the port", .names = NAMES_PORTS}},
		.options = wait_options,
		.run = resource_run_delete},
	END_VERBS};

/* ---- PVMs ---------------------------------------------------------------------------------- */

static const struct resource_column pvm_columns[] = {{TABLE_LEFT("NAME"), "name", NULL},
	{TABLE_LEFT("SERVER"), "server", NULL}, {TABLE_LEFT("STATE"), "state", resource_cell_state},
	{TABLE_RIGHT("UP"), "uptime_ms", resource_cell_duration},
	{TABLE_LEFT("BGP"), "bgp", resource_cell_bgp},
	{TABLE_RIGHT("FIB IPV4"), "fwd/fib/ipv4", NULL},
	{TABLE_RIGHT("FIB IPV6"), "fwd/fib/ipv6", NULL}, END_COLUMNS};
static const struct resource pvms = {"/v1/pvms", "name", pvm_columns};

#define LIMIT_OPTION                                                 \
	{                                                            \
		.name = "limit", .type = VALUE_NUMBER, .value = "N", \
		.help = "stop after that many; else all are shown"   \
	}

static const struct option rib_options[] = {
	{.name = "family",
		.value = "FAMILY",
		.help = "which table; else that of PREFIX, else IPv4",
		.choices = "ipv4 ipv6"},
	LIMIT_OPTION, END_OPTIONS};

static const struct option fib_options[] = {
	{.name = "family",
		.value = "FAMILY",
		.help = "which table; else that of the address to look up, else IPv4",
		.choices = "ipv4 ipv6 mpls"},
	{.name = "lookup", .value = "ADDRESS", .help = "only the route that leads there"},
	LIMIT_OPTION, END_OPTIONS};

#define PVM_ARGUMENT                                                                      \
	{                                                                                 \
		.name = "NAME", .help = "the PVM, named as its port", .names = NAMES_PVMS \
	}

#define PROCESS_ARGUMENTS                                                    \
	{.name = "PROCESS",                                                  \
		.help = "its name, as the verb \"processes\" shows it",      \
		.field = "process"},                                         \
	{                                                                    \
		.name = "SIGNAL", .help = "what to send", .field = "signal", \
		.choices = "TERM KILL STOP CONT"                             \
	}

static const struct option migrate_options[] = {{.name = "to",
							.value = "SERVER",
							.help = "where to; else edgeplexd chooses",
							.field = "server",
							.names = NAMES_SERVERS},
	WAIT_OPTIONS, END_OPTIONS};

static const struct verb pvm_verbs[] = {
	{.name = "list", .summary = "list the PVMs", .run = resource_run_list},
	{.name = "show",
		.summary = "show a PVM: its virtual machine, BGP sessions and forwarder",
		.arguments = {PVM_ARGUMENT},
		.run = resource_run_show},
	{.name = "explain",
		.summary = "show why a PVM is on its server, and what speaks for the others",
		.details = "Rules of its placement that aren't met are listed: it should be apart "
			   "from spares that could stand in for it, and from other ports of its "
			   "customer, by server and by what their servers share.",
		.example = "pvm explain green-a",
		.arguments = {PVM_ARGUMENT},
		.run = explain_run_vm},
	{.name = "rib",
		.summary = "show the BGP routes that a PVM has",
		.example = "pvm rib green-a 10.2.0.0/16",
		.arguments = {PVM_ARGUMENT,
			{.name = "PREFIX", .help = "only this prefix", .optional = true}},
		.options = rib_options,
		.run = vm_run_rib},
	{.name = "fib",
		.summary = "show the routes that a PVM's forwarder uses",
		.example = "pvm fib green-a --lookup 10.2.0.1",
		.arguments = {PVM_ARGUMENT},
		.options = fib_options,
		.run = vm_run_fib},
	{.name = "neighbors",
		.summary = "show whom a PVM's forwarder knows on its links (ARP, ND)",
		.arguments = {PVM_ARGUMENT},
		.run = vm_run_neighbors},
	{.name = "processes",
		.summary = "show the processes in a PVM",
		.arguments = {PVM_ARGUMENT},
		.run = vm_run_processes},
	{.name = "migrate",
		.summary = "move a PVM to another server while it forwards",
		.details =
			"The new copy is made while the old one runs, and takes over when it has "
			"shown that it forwards: no packet is lost and no BGP session is reset. If "
			"anything goes wrong before that, the PVM stays where it is.",
		.example = "pvm migrate green-a --to a-right",
		.arguments = {PVM_ARGUMENT},
		.options = migrate_options,
		.run = vm_run_migrate},
	{.name = "signal",
		.summary = "send a signal to a process in a PVM",
		.details =
			"A process that ends is started again by its supervisor; forwarding goes "
			"on meanwhile if it is not the forwarder.",
		.example = "pvm signal green-a pvmd TERM",
		.arguments = {PVM_ARGUMENT, PROCESS_ARGUMENTS},
		.run = vm_run_signal},
	END_VERBS};

/* ---- CVMs ---------------------------------------------------------------------------------- */

static const struct resource_column cvm_columns[] = {{TABLE_LEFT("NAME"), "name", NULL},
	{TABLE_LEFT("SITE"), "site", NULL}, {TABLE_LEFT("SERVER"), "server", NULL},
	{TABLE_LEFT("STATE"), "state", resource_cell_state},
	{TABLE_RIGHT("UP"), "uptime_ms", resource_cell_duration},
	{TABLE_LEFT("BGP"), "bgp", resource_cell_bgp}, END_COLUMNS};
static const struct resource cvms = {"/v1/cvms", "name", cvm_columns};

#define CVM_ARGUMENT                                                                      \
	{                                                                                 \
		.name = "NAME", .help = "the CVM, named as its site", .names = NAMES_CVMS \
	}

static const struct option vpn_options[] = {
	{.name = "family",
		.value = "FAMILY",
		.help = "which table; else that of PREFIX, else VPNv4",
		.choices = "vpnv4 vpnv6"},
	LIMIT_OPTION, END_OPTIONS};

static const struct option protect_options[] = {
	{.name = "standby",
		.type = VALUE_OR_NONE,
		.value = "SERVER",
		.help = "where the standby waits; \"none\": edgeplexd chooses, as it does at first",
		.field = "standby",
		.names = NAMES_SERVERS},
	{.name = "interval",
		.type = VALUE_MS,
		.value = "TIME",
		.help = "from one checkpoint to the next, 25ms to 10s; the default is 100ms",
		.field = "interval_ms"},
	{.name = "timeout",
		.type = VALUE_MS,
		.value = "TIME",
		.help = "how long a checkpoint may take before the CVM goes on without its "
			"standby; "
			"the default is 1s",
		.field = "timeout_ms"},
	WAIT_OPTIONS, END_OPTIONS};

static const struct verb cvm_verbs[] = {
	{.name = "list", .summary = "list the CVMs", .run = resource_run_list},
	{.name = "show",
		.summary = "show a CVM: its virtual machine and BGP sessions",
		.arguments = {CVM_ARGUMENT},
		.run = resource_run_show},
	{.name = "explain",
		.summary = "show why a CVM and its standby are on their servers",
		.example = "cvm explain a",
		.arguments = {CVM_ARGUMENT},
		.run = explain_run_vm},
	{.name = "create",
		.summary = "start a site's CVM, which speaks for it towards the core",
		.example = "cvm create a",
		.arguments = {{.name = "SITE",
			.help = "a site that has a server",
			.field = "site",
			.names = NAMES_SITES}},
		.options = cvm_options,
		.run = resource_run_create},
	{.name = "delete",
		.summary = "remove a CVM; its site has no session to the core any more",
		.arguments = {CVM_ARGUMENT},
		.options = wait_options,
		.run = resource_run_delete},
	{.name = "rib",
		.summary = "show the VPN routes that a CVM has",
		.example = "cvm rib a --family vpnv6",
		.arguments = {CVM_ARGUMENT,
			{.name = "PREFIX", .help = "only this prefix", .optional = true}},
		.options = vpn_options,
		.run = vm_run_rib},
	{.name = "processes",
		.summary = "show the processes in a CVM",
		.arguments = {CVM_ARGUMENT},
		.run = vm_run_processes},
	{.name = "migrate",
		.summary = "move a CVM to another server while it speaks",
		.details = "It stands still for some milliseconds; no BGP session is reset. If "
			   "anything goes wrong before the copy has shown that it works, the CVM "
			   "stays where it is.",
		.example = "cvm migrate a --to a-right",
		.arguments = {CVM_ARGUMENT},
		.options = migrate_options,
		.run = vm_run_migrate},
	{.name = "protect",
		.summary = "protect a CVM by a standby on another server",
		.details =
			"The standby has the CVM's state as of the last checkpoint, and what the "
			"CVM says is sent when the standby has the checkpoint behind it. When the "
			"CVM or its server fails, the standby goes on; no BGP session is reset. "
			"Given again, it changes what is given. If the standby or the way to it "
			"fails, the CVM goes on unprotected, and a new standby is made.",
		.example = "cvm protect a --standby a-right --interval 100ms",
		.arguments = {CVM_ARGUMENT},
		.options = protect_options,
		.run = vm_run_protect},
	{.name = "unprotect",
		.summary = "end the protection of a CVM, and its standby",
		.arguments = {CVM_ARGUMENT},
		.options = wait_options,
		.run = vm_run_unprotect},
	{.name = "failover",
		.summary = "have the standby of a CVM take over now",
		.details = "As upon a failure; then a new standby is made.",
		.arguments = {CVM_ARGUMENT},
		.options = wait_options,
		.run = vm_run_failover},
	{.name = "signal",
		.summary = "send a signal to a process in a CVM",
		.details = "A process that ends is started again by its supervisor.",
		.example = "cvm signal a cvmd TERM",
		.arguments = {CVM_ARGUMENT, PROCESS_ARGUMENTS},
		.run = vm_run_signal},
	END_VERBS};

/* ---- operations, events -------------------------------------------------------------------- */

static const struct resource_column operation_columns[] = {{TABLE_RIGHT("ID"), "id", NULL},
	{TABLE_LEFT("VERB"), "verb", NULL}, {TABLE_LEFT("OBJECT"), "object", NULL},
	{TABLE_LEFT("STATE"), "state", resource_cell_state}, {TABLE_LEFT("STEP"), "step", NULL},
	{TABLE_RIGHT("DONE"), "progress", resource_cell_share},
	{TABLE_LEFT("CREATED"), "created", NULL}, END_COLUMNS};
static const struct resource operations = {"/v1/operations", "id", operation_columns};

#define OPERATION_ARGUMENT                                                                \
	{                                                                                 \
		.name = "ID", .help = "the operation's number", .names = NAMES_OPERATIONS \
	}

static const struct verb operation_verbs[] = {
	{.name = "list", .summary = "list the operations", .run = resource_run_list},
	{.name = "show",
		.summary = "show an operation with its steps",
		.arguments = {OPERATION_ARGUMENT},
		.run = resource_run_show},
	{.name = "wait",
		.summary = "wait until an operation has ended, showing its progress",
		.arguments = {OPERATION_ARGUMENT},
		.run = operation_run_wait},
	END_VERBS};

static const struct resource events = {"/v1/events", "id", NULL}; /* event.c shows them */

static const struct option event_options[] = {
	{.name = "after",
		.type = VALUE_NUMBER,
		.value = "ID",
		.help = "only those after the event of this number"},
	{.name = "follow", .help = "write events as they happen, the newest last"}, LIMIT_OPTION,
	END_OPTIONS};

static const struct verb event_verbs[] = {{.name = "list",
						  .summary = "list what happened, the newest first",
						  .options = event_options,
						  .run = event_run_list},
	END_VERBS};

/* ---- commands by themselves ---------------------------------------------------------------- */

static const struct verb status_verbs[] = {
	{.name = "",
		.summary = "show everything on one screen: sites, CVMs, ports, sessions, routes",
		.run = status_run},
	END_VERBS};

static const struct verb version_verbs[] = {
	{.name = "",
		.summary = "print the versions of this program and of edgeplexd",
		.run = version_run},
	END_VERBS};

static const struct verb completion_verbs[] = {
	{.name = "bash",
		.summary = "print the completion for bash",
		.details = "Load it with: . <(edgeplex completion bash)",
		.run = completion_run_bash},
	END_VERBS};

static const struct verb complete_verbs[] = {{.name = "",
						     .summary = "complete a command line",
						     .hidden = true,
						     .rest = true,
						     .run = completion_run},
	END_VERBS};

static const struct verb man_verbs[] = {
	{.name = "", .summary = "print the man page", .hidden = true, .run = help_run_man},
	END_VERBS};

const struct noun command_nouns[] = {
	{"status", "show everything on one screen", NULL, status_verbs},
	{"site", "sites, each one PE as the core sees it", &sites, site_verbs},
	{"server", "servers that run virtual machines", &servers, server_verbs},
	{"spare", "virtual machines that are kept for PVMs that die", &spares, spare_verbs},
	{"customer", "customers, each one VPN", &customers, customer_verbs},
	{"port", "customers' ports", &ports, port_verbs},
	{"pvm", "PortVMs: the virtual machines behind the ports", &pvms, pvm_verbs},
	{"cvm", "ControlVMs: what speaks for a site towards the core", &cvms, cvm_verbs},
	{"operation", "what edgeplexd is doing, and has done", &operations, operation_verbs},
	{"event", "what happened", &events, event_verbs},
	{"version", "print versions", NULL, version_verbs},
	{"completion", "completion of command lines", NULL, completion_verbs},
	{"__complete", "", NULL, complete_verbs}, {"__man", "", NULL, man_verbs},
	{NULL, NULL, NULL, NULL}};

/* ---- looking things up --------------------------------------------------------------------- */

const struct noun *command_find_noun(const char *name)
{
	for (const struct noun *noun = command_nouns; noun->name; noun++) {
		if (strcmp(noun->name, name) == 0)
			return noun;
	}
	return NULL;
}

const struct verb *command_find_verb(const struct noun *noun, const char *name)
{
	for (const struct verb *verb = noun->verbs; verb->name; verb++) {
		if (*name && strcmp(verb->name, name) == 0)
			return verb;
	}
	return NULL;
}

const struct option *command_find_option(const struct option *options, const char *name)
{
	for (; options && options->name; options++) {
		if (strcmp(options->name, name) == 0)
			return options;
	}
	return NULL;
}

size_t command_count_arguments(const struct verb *verb)
{
	size_t n = 0;

	while (n < COMMAND_MAX_ARGUMENTS && verb->arguments[n].name)
		n++;
	return n;
}

bool command_is_choice(const char *choices, const char *value)
{
	size_t len = strlen(value);

	while (*choices) {
		size_t n = strcspn(choices, " ");

		if (n == len && strncmp(choices, value, n) == 0)
			return true;
		choices += n + (choices[n] == ' ');
	}
	return false;
}
