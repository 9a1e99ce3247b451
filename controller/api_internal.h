/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef EDGEPLEX_API_INTERNAL_H
#define EDGEPLEX_API_INTERNAL_H

/* What the API's files share: a request, and the table of routes. */

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

typedef void (*api_handler)(struct api_request *request);

struct api_parameter {
	const char *name, *description;
};

struct api_route {
	const char *method;
	const char *path; /* "/v1/sites/{name}" */
	api_handler handler;
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

/* The query's parameter, or NULL. */
const char *api_query(const struct api_request *request, const char *name);
/* A whole number of the query; `otherwise` if absent. -1 with the request's problem set. */
int64_t api_query_number(
	struct api_request *request, const char *name, int64_t max, int64_t otherwise);

void api_openapi(struct api_request *request);
void api_metrics(struct api_request *request);

/* "up", "degraded", "down", "creating", "deleting". */
const char *api_port_status(const struct port *port, const struct fleet_vm_view *view);

#endif
