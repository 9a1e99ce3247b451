/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef EDGEPLEX_REGISTRY_FIXTURE_H
#define EDGEPLEX_REGISTRY_FIXTURE_H

/* For tests: a database of one's own, and objects that the registry takes. Failures end the test.
 */

#include "controller/store.h"

struct fixture_db {
	char dir[64], path[96];
	struct store *store;
};

/* A new, empty database in a directory of its own; the store is that of `db`. */
struct store *fixture_db_open(struct fixture_db *db);
/* Closes it and opens it again, as edgeplexd does when it restarts. */
struct store *fixture_db_reopen(struct fixture_db *db);
/* Closes and removes it. */
void fixture_db_close(struct fixture_db *db);

struct ep_prefix fixture_addr(const char *text);
struct ep_prefix fixture_prefix(const char *text); /* with the host's bits */

/* Two sites with different `n` don't get into each other's way. Two labels, ten VLANs. */
struct site fixture_site(const char *name, unsigned n);
struct server fixture_server(const char *name, const char *site);
struct port fixture_port(const char *name, const char *customer, const char *site,
	const char *switch_port, const char *address, const char *ce);

/* The operation that made the port ends, and the port is in service. */
void fixture_port_up(struct store *store, struct port *port, struct operation *op);

#endif
