/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef EDGEPLEX_API_INTERNAL_H
#define EDGEPLEX_API_INTERNAL_H

/*
 * What the API's files share: a request, the table of routes (api_routes.c), the handlers in it,
 * and what these share (api.c).
 */

#include <microhttpd.h>

#include "controller/api.h"

struct MHD_Daemon;

enum api_counter { API_OK, API_REFUSED, API_FAILED, API_COUNTERS };

struct api {
	struct store *store;
	struct fleet *fleet;
	struct engine *engine;
	struct MHD_Daemon *daemon;
	char socket_path[108];
	int64_t started_ms; /* monotonic */
	_Atomic uint64_t requests[API_COUNTERS];
};

/* One request and what will be answered. Used by one thread. */
struct api_request {
	struct api *api;
	struct MHD_Connection *connection;
	char name[64];     /* what {name} or {id} stands for in the route; "" if nothing */
	const cJSON *body; /* NULL: none was sent */

	int status;                  /* of the answer; 200 unless changed */
	cJSON *answer;               /* the caller's */
	char *text;                  /* instead of `answer`: plain text */
	struct MHD_Response *stream; /* instead of `answer`: what goes on; queued, then let go */
	char location[96];           /* "": no such header */
	struct problem problem;
};

/*
 * Does what a route is for, on the connection's own thread, which may wait: fills in the answer or
 * sets the problem.
 */
typedef void api_handler(struct api_request *request);

struct api_parameter {
	const char *name, *description;
};

struct api_route {
	const char *method;
	const char *path; /* "/v1/sites/{name}" */
	api_handler *handler;
	const char *summary;
	/* Name of the body's schema; NULL: no body is taken; with "?" before it: may be left out.
	 */
	const char *body;
	int status;                             /* of success */
	const char *returns;                    /* name of the answer's schema; NULL: any object */
	const struct api_parameter *parameters; /* of the query; ends with a NULL name; or NULL */
};

extern const struct api_route api_routes[];
extern const size_t api_n_routes;

/* ---- what the handlers share ---------------------------------------------------------------- */

/* Most items of a list's page. */
#define API_LIST_LIMIT 1000

int64_t api_now_ms(void); /* monotonic */

/* The query's parameter, or NULL. */
const char *api_query(const struct api_request *request, const char *name);
/* A whole number of the query; `otherwise` if absent. -1 with the request's problem set. */
int64_t api_query_number(
	struct api_request *request, const char *name, int64_t max, int64_t otherwise);
/* `wait_s` of the query. Returns false with the problem set. */
bool api_read_wait(struct api_request *request, uint32_t *wait_s);

void api_database_failed(struct api_request *request); /* sets the problem */
/* The answer's status and Location: 201, and the object; or 202, and the operation, told, too. */
void api_created(struct api_request *request, const char *resource, const char *name);
void api_accepted(struct api_request *request, const struct operation *op);
/* `items` (taken) as a list's answer. */
void api_answer_list(struct api_request *request, cJSON *items);

/* "up", "degraded", "down", "creating", "deleting". */
const char *api_port_status(const struct port *port, const struct fleet_vm_view *view);

/* ---- handlers ------------------------------------------------------------------------------ */

/* api_inventory.c */
api_handler api_sites_list, api_site_create, api_site_show, api_site_change, api_site_delete,
	api_site_risks, api_spares_list, api_servers_list, api_server_create, api_server_show,
	api_server_change, api_server_drain, api_server_undrain, api_server_delete,
	api_customers_list, api_customer_create, api_customer_show, api_customer_change,
	api_customer_delete;
/* api_port.c */
api_handler api_ports_list, api_port_create, api_port_show, api_port_change, api_port_delete;
/* api_vm.c */
api_handler api_pvms_list, api_pvm_show, api_pvm_rib, api_pvm_fib, api_pvm_neighbors,
	api_pvm_processes, api_pvm_placement, api_pvm_migrate, api_pvm_signal, api_cvms_list,
	api_cvm_create, api_cvm_show, api_cvm_delete, api_cvm_rib, api_cvm_processes,
	api_cvm_placement, api_cvm_migrate, api_cvm_protect, api_cvm_unprotect, api_cvm_failover,
	api_cvm_signal;
/* api_progress.c */
api_handler api_operations_list, api_operation_show, api_events_list;
/* api_docs.c */
api_handler api_openapi, api_health, api_metrics;

#endif
