/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef EDGEPLEX_HEALTH_H
#define EDGEPLEX_HEALTH_H

/* What the guests' own status says about service, in the operator's words. Pure; thread-safe. */

#include <stdbool.h>
#include <stddef.h>
#include <cjson/cJSON.h>

/*
 * Does a PVM carry routes: is every CE session and the session to the CVM Established, and has the
 * forwarder the whole FIB? `pvm` and `fwd` are the results of pvm.status and fwd.status, NULL when
 * unknown. If not, `missing` (of `size` bytes) says what is missing and what to check.
 */
bool health_pvm(const cJSON *pvm, const cJSON *fwd, char *missing, size_t size);

/* As far as pvmd alone knows: without this a PVM carries no routes, whatever its forwarder says. */
bool health_pvm_routes(const cJSON *pvm, char *missing, size_t size);

/* The same for a CVM's sessions to the core; `cvm` is the result of cvm.status. */
bool health_cvm(const cJSON *cvm, char *missing, size_t size);

/* How many neighbours of `role` there are, and how many are Established. */
void health_sessions(const cJSON *status, const char *role, unsigned *up, unsigned *all);

#endif
