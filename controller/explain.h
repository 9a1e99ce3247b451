/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef EDGEPLEX_EXPLAIN_H
#define EDGEPLEX_EXPLAIN_H

/*
 * Why a VM is where it is, what speaks for and against each server of its site now, and which rules
 * aren't met. Reads the store only. Any thread.
 */

#include "controller/fleet.h"
#include "controller/registry.h"

/*
 * Of the PVM of port `name`, or of the CVM of site `name` and its standby, if there is one. The
 * caller's; NULL with `problem` (404).
 */
cJSON *explain_port(struct store *store, const char *name, registry_reachable_fn reachable,
	void *ctx, struct problem *problem);
cJSON *explain_cvm(struct store *store, const char *name, registry_reachable_fn reachable,
	void *ctx, struct problem *problem);

/* The rules that such an object's explanation says aren't met, a list of texts; the caller's. */
cJSON *explain_unmet(const cJSON *explanation);

/* Tells by an event if `object` ("port/green-a", "standby/a") was placed where rules aren't met. */
void explain_warn(struct store *store, struct fleet *fleet, const char *object);

/* The same of a port's PVM, wherever it is now: a spare that took over wasn't placed for it. */
void explain_warn_port(struct store *store, struct fleet *fleet, const char *name,
	registry_reachable_fn reachable, void *ctx);

/* The site's hidden correlations (risks.h), with its name; the caller's. NULL with `problem`. */
cJSON *explain_risks(struct store *store, const char *site, struct problem *problem);

#endif
