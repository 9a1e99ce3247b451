/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef EDGEPLEX_REGISTRY_INTERNAL_H
#define EDGEPLEX_REGISTRY_INTERNAL_H

/* What the registry's files share. Called within a transaction, but for the first. */

#include "controller/registry.h"

int registry_begin(struct store *store, struct problem *problem); /* a transaction; 0 or -1 */
/* Ends it: keeps it if there is no problem. 0 or -1. */
int registry_finish(struct store *store, struct problem *problem);
int registry_database_failed(struct store *store, struct problem *problem); /* sets it; -1 */

int registry_new_uuid(char uuid[MODEL_UUID_SIZE], struct problem *problem);
int registry_allocate_vlan(struct store *store, const struct site *site, const char *owner,
	uint32_t *vlan, struct problem *problem);
/* Memory that the VMs placed on the server need together. The store's errno. */
int registry_used_kib(
	struct store *store, const struct site *site, int64_t server_id, uint64_t *used);
/* Forgets what is void on a server that goes. 0 or -1. */
int registry_forget_voids(struct store *store, int64_t server_id, struct problem *problem);
/* A server for a VM of `need_kib`, but none of `but` (0: none). */
int registry_place(struct store *store, const struct site *site, uint64_t need_kib,
	const int64_t but[2], registry_reachable_fn reachable, void *ctx, int64_t *server_id,
	char server[MODEL_NAME_SIZE], struct problem *problem);

#endif
