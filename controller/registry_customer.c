/* SPDX-License-Identifier: GPL-2.0-or-later */

/* Customers. */

#include "controller/registry_internal.h"

#include <stdlib.h>
#include <string.h>

#define FIRST_VPN_ID 100

static int choose_vpn_id(
	struct customer *customer, const struct customer *others, size_t n, struct problem *problem)
{
	for (uint32_t id = FIRST_VPN_ID; id <= REGISTRY_RD_MAX; id++) {
		bool taken = false;
		for (size_t i = 0; i < n && !taken; i++)
			taken = others[i].vpn_id == id;
		if (!taken) {
			customer->vpn_id = id;
			return 0;
		}
	}
	return problem_set(problem, 409, "exhausted",
		"every VPN ID from %u to %u is taken: delete customers that have left",
		FIRST_VPN_ID, REGISTRY_RD_MAX);
}

int registry_customer_create(
	struct store *store, struct customer *customer, struct problem *problem)
{
	struct customer *others = NULL;
	size_t n = 0;
	if (registry_begin(store, problem) != 0)
		return -1;
	if (store_customer_list(store, &others, &n) != 0) {
		registry_database_failed(store, problem);
		goto out;
	}
	for (size_t i = 0; i < n; i++) {
		if (strcmp(customer->name, others[i].name) == 0) {
			registry_exists(problem, "customer", customer->name);
			goto out;
		}
	}
	for (size_t i = 0; i < n; i++) {
		if (customer->vpn_id == others[i].vpn_id)
			problem_field(problem, "/vpn_id", "choose another, or leave it out",
				"%u is the VPN of customer %s", customer->vpn_id, others[i].name);
	}
	if (problem->status != 0)
		goto out;
	if (customer->vpn_id == 0 && choose_vpn_id(customer, others, n, problem) != 0)
		goto out;
	if (store_customer_insert(store, customer) != 0)
		registry_database_failed(store, problem);
out:
	free(others);
	return registry_finish(store, problem);
}

int registry_customer_delete(struct store *store, const char *name, struct problem *problem)
{
	struct customer customer;
	struct port *ports = NULL;
	size_t n = 0;
	if (registry_begin(store, problem) != 0)
		return -1;
	if (registry_find_customer(store, name, &customer, problem) != 0)
		goto out;
	if (store_port_list(store, &ports, &n) != 0) {
		registry_database_failed(store, problem);
		goto out;
	}
	for (size_t i = 0; i < n; i++) {
		if (ports[i].customer_id == customer.id)
			problem_set(problem, 409, "in-use",
				"customer %s has port %s: delete its ports first", name,
				ports[i].name);
	}
	if (problem->status == 0 && store_customer_delete(store, customer.id) != 0)
		registry_database_failed(store, problem);
out:
	free(ports);
	return registry_finish(store, problem);
}
