/* SPDX-License-Identifier: GPL-2.0-or-later */

/* The table of routes: the whole of the API. */

#include "controller/api_internal.h"

static const struct api_parameter wait_parameters[] = {
	{"wait_s", "how long the operation waits for service, in seconds (default 120)"},
	{0},
};
static const struct api_parameter table_parameters[] = {
	{"family", "ipv4, ipv6, mpls, vpnv4 or vpnv6, as far as the table has it"},
	{"prefix", "only this prefix"},
	{"lookup", "the longest match of this address (fib)"},
	{"after", "\"next\" of the page before"},
	{"limit", "routes of a page, at most 1000"},
	{0},
};
static const struct api_parameter operation_parameters[] = {
	{"wait_ms", "wait up to this long for news"},
	{"since_step", "how many of its steps had begun when it was last seen"},
	{0},
};
static const struct api_parameter operations_parameters[] = {
	{"before", "only operations with a lower id"},
	{"limit", "at most so many, newest first (default 100)"},
	{0},
};
static const struct api_parameter events_parameters[] = {
	{"after", "only events with a higher id"},
	{"before", "only events with a lower id (0: any), newest first"},
	{"limit", "at most so many; oldest first without \"before\""},
	{"wait_ms", "wait up to this long for one (not with \"before\")"},
	{0},
};

const struct api_route api_routes[] = {
	{"GET", "/v1/sites", api_sites_list, "List the sites", NULL, 200, NULL, NULL},
	{"POST", "/v1/sites", api_site_create, "Create a site; connects to its edge switch", "Site",
		201, "Site", NULL},
	{"GET", "/v1/sites/{name}", api_site_show, "Show a site", NULL, 200, "Site", NULL},
	{"PATCH", "/v1/sites/{name}", api_site_change, "Change a site", "Patch", 200, "Site", NULL},
	{"DELETE", "/v1/sites/{name}", api_site_delete, "Delete a site that nothing uses", NULL,
		200, NULL, NULL},

	{"GET", "/v1/sites/{name}/risks", api_site_risks,
		"What would fail together at a site though it should not", NULL, 200, NULL, NULL},

	{"GET", "/v1/spares", api_spares_list, "List the spares: booted VMs for PVMs that die",
		NULL, 200, NULL, NULL},

	{"GET", "/v1/servers", api_servers_list, "List the servers", NULL, 200, NULL, NULL},
	{"POST", "/v1/servers", api_server_create, "Create a server; connects to its libvirt",
		"Server", 201, "Server", NULL},
	{"GET", "/v1/servers/{name}", api_server_show, "Show a server", NULL, 200, "Server", NULL},
	{"PATCH", "/v1/servers/{name}", api_server_change, "Change a server", "Patch", 200,
		"Server", NULL},
	{"POST", "/v1/servers/{name}/drain", api_server_drain,
		"Take a server out of service and move its VMs away", NULL, 202, "Operation", NULL},
	{"POST", "/v1/servers/{name}/undrain", api_server_undrain,
		"Put a server into service again", NULL, 200, "Server", NULL},
	{"DELETE", "/v1/servers/{name}", api_server_delete, "Delete a server without VMs", NULL,
		200, NULL, NULL},

	{"GET", "/v1/customers", api_customers_list, "List the customers", NULL, 200, NULL, NULL},
	{"POST", "/v1/customers", api_customer_create, "Create a customer", "Customer", 201,
		"Customer", NULL},
	{"GET", "/v1/customers/{name}", api_customer_show, "Show a customer", NULL, 200, "Customer",
		NULL},
	{"PATCH", "/v1/customers/{name}", api_customer_change,
		"Change a customer (nothing of it can be changed yet)", "Patch", 200, "Customer",
		NULL},
	{"DELETE", "/v1/customers/{name}", api_customer_delete, "Delete a customer without ports",
		NULL, 200, NULL, NULL},

	{"GET", "/v1/ports", api_ports_list, "List the ports", NULL, 200, NULL, NULL},
	{"POST", "/v1/ports", api_port_create, "Create a port and its PVM", "Port", 202,
		"Operation", wait_parameters},
	{"GET", "/v1/ports/{name}", api_port_show, "Show a port", NULL, 200, "Port", NULL},
	{"PATCH", "/v1/ports/{name}", api_port_change, "Change a port while it runs", "Patch", 202,
		"Operation", wait_parameters},
	{"DELETE", "/v1/ports/{name}", api_port_delete, "Delete a port and its PVM", NULL, 202,
		"Operation", NULL},

	{"GET", "/v1/pvms", api_pvms_list, "List the PVMs", NULL, 200, NULL, NULL},
	{"GET", "/v1/pvms/{name}", api_pvm_show, "Show a PVM", NULL, 200, NULL, NULL},
	{"GET", "/v1/pvms/{name}/rib", api_pvm_rib, "Routes of a PVM", NULL, 200, NULL,
		table_parameters},
	{"GET", "/v1/pvms/{name}/fib", api_pvm_fib, "Forwarding table of a PVM", NULL, 200, NULL,
		table_parameters},
	{"GET", "/v1/pvms/{name}/neighbors", api_pvm_neighbors, "ARP and ND entries of a PVM", NULL,
		200, NULL, NULL},
	{"GET", "/v1/pvms/{name}/processes", api_pvm_processes, "Processes of a PVM", NULL, 200,
		NULL, NULL},
	{"GET", "/v1/pvms/{name}/placement", api_pvm_placement, "Why a PVM is where it is", NULL,
		200, NULL, NULL},
	{"POST", "/v1/pvms/{name}/migrate", api_pvm_migrate,
		"Move a PVM to another server of its site, make before break", "?Migrate", 202,
		"Operation", NULL},
	{"POST", "/v1/pvms/{name}/signal", api_pvm_signal, "Send a signal to a process of a PVM",
		"Signal", 200, NULL, NULL},

	{"GET", "/v1/cvms", api_cvms_list, "List the CVMs", NULL, 200, NULL, NULL},
	{"POST", "/v1/cvms", api_cvm_create, "Create a site's CVM", "Cvm", 202, "Operation",
		wait_parameters},
	{"GET", "/v1/cvms/{name}", api_cvm_show, "Show a CVM", NULL, 200, NULL, NULL},
	{"DELETE", "/v1/cvms/{name}", api_cvm_delete, "Delete the CVM of a site without ports",
		NULL, 202, "Operation", NULL},
	{"GET", "/v1/cvms/{name}/rib", api_cvm_rib, "Routes of a CVM", NULL, 200, NULL,
		table_parameters},
	{"GET", "/v1/cvms/{name}/processes", api_cvm_processes, "Processes of a CVM", NULL, 200,
		NULL, NULL},
	{"GET", "/v1/cvms/{name}/placement", api_cvm_placement,
		"Why a CVM and its standby are where they are", NULL, 200, NULL, NULL},
	{"POST", "/v1/cvms/{name}/migrate", api_cvm_migrate,
		"Move a CVM to another server of its site while it speaks", "?Migrate", 202,
		"Operation", NULL},
	{"POST", "/v1/cvms/{name}/protect", api_cvm_protect,
		"Protect a CVM by a standby on another server, or change how", "?Protect", 202,
		"Operation", NULL},
	{"POST", "/v1/cvms/{name}/unprotect", api_cvm_unprotect, "End the protection of a CVM",
		NULL, 202, "Operation", NULL},
	{"POST", "/v1/cvms/{name}/failover", api_cvm_failover,
		"Have the standby of a CVM take over now", NULL, 202, "Operation", NULL},
	{"POST", "/v1/cvms/{name}/signal", api_cvm_signal, "Send a signal to a process of a CVM",
		"Signal", 200, NULL, NULL},

	{"GET", "/v1/operations", api_operations_list, "List the operations, newest first", NULL,
		200, NULL, operations_parameters},
	{"GET", "/v1/operations/{id}", api_operation_show,
		"Show an operation, or wait for its news", NULL, 200, "Operation",
		operation_parameters},
	{"GET", "/v1/events", api_events_list,
		"List the events; with Accept: text/event-stream, follow them", NULL, 200, NULL,
		events_parameters},
	{"GET", "/v1/openapi.json", api_openapi, "This document", NULL, 200, NULL, NULL},
	{"GET", "/v1/health", api_health, "Is the controller well?", NULL, 200, NULL, NULL},
	{"GET", "/metrics", api_metrics, "Prometheus metrics", NULL, 200, NULL, NULL},
};

const size_t api_n_routes = sizeof(api_routes) / sizeof(api_routes[0]);
