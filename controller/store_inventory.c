/* SPDX-License-Identifier: GPL-2.0-or-later */

/* What there is to work with: sites, their servers, customers. */

#include "controller/store_internal.h"

#include <errno.h>

/* ---- sites -------------------------------------------------------------------------------- */

#define SITE_COLUMNS                                                                        \
	"id, name, asn, pe_address, core_port, core_address, core_gateway, core_mtu,"       \
	" transport_label, switch, inside, label_first, label_last, vlan_first, vlan_last," \
	" pvm_memory_kib, cvm_memory_kib, spares"

static int write_rrs(struct store *store, const struct site *site)
{
	int err = store_run(
		store, "DELETE FROM site_route_reflectors WHERE site_id = ?", "i", site->id);
	for (size_t i = 0; i < site->n_rr && err == 0; i++) {
		char text[EP_PREFIX_STRLEN];
		err = store_change(store, "INSERT INTO site_route_reflectors VALUES (?, ?, ?)",
			"iis", site->id, (int64_t)i, ep_addr_format(&site->rr[i], text));
	}
	return err;
}

int store_site_insert(struct store *store, struct site *site)
{
	char pe[EP_PREFIX_STRLEN], core[EP_PREFIX_STRLEN], gw[EP_PREFIX_STRLEN],
		inside[EP_PREFIX_STRLEN];
	int err = store_begin(store);
	if (err != 0)
		return err;
	err = store_insert(store, &site->id,
		"INSERT INTO sites (name, asn, pe_address, core_port, core_address, core_gateway,"
		" core_mtu, transport_label, switch, inside, label_first, label_last, vlan_first,"
		" vlan_last, pvm_memory_kib, cvm_memory_kib, spares)"
		" VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)",
		"sissssiissiiiiiii", site->name, (int64_t)site->asn,
		ep_addr_format(&site->pe_address, pe), site->core_port,
		ep_prefix_format(&site->core_address, core),
		ep_addr_format(&site->core_gateway, gw), (int64_t)site->core_mtu,
		(int64_t)site->transport_label, site->switch_target,
		ep_prefix_format(&site->inside, inside), (int64_t)site->labels.first,
		(int64_t)site->labels.last, (int64_t)site->vlans.first, (int64_t)site->vlans.last,
		(int64_t)site->pvm_memory_kib, (int64_t)site->cvm_memory_kib,
		(int64_t)site->spares);
	if (err == 0)
		err = write_rrs(store, site);
	return store_end(store, err);
}

int store_site_update(struct store *store, const struct site *site)
{
	char gw[EP_PREFIX_STRLEN], core[EP_PREFIX_STRLEN];
	int err = store_begin(store);
	if (err != 0)
		return err;
	err = store_change(store,
		"UPDATE sites SET core_address = ?, core_gateway = ?, core_mtu = ?,"
		" transport_label = ?, switch = ?, label_first = ?, label_last = ?,"
		" vlan_first = ?, vlan_last = ?, pvm_memory_kib = ?, cvm_memory_kib = ?,"
		" spares = ? WHERE id = ?",
		"ssiisiiiiiiii", ep_prefix_format(&site->core_address, core),
		ep_addr_format(&site->core_gateway, gw), (int64_t)site->core_mtu,
		(int64_t)site->transport_label, site->switch_target, (int64_t)site->labels.first,
		(int64_t)site->labels.last, (int64_t)site->vlans.first, (int64_t)site->vlans.last,
		(int64_t)site->pvm_memory_kib, (int64_t)site->cvm_memory_kib, (int64_t)site->spares,
		site->id);
	if (err == 0)
		err = write_rrs(store, site);
	return store_end(store, err);
}

int store_site_delete(struct store *store, int64_t id)
{
	return store_change(store, "DELETE FROM sites WHERE id = ?", "i", id);
}

static int read_site(struct store *store, sqlite3_stmt *stmt, void *item)
{
	struct site *site = item;
	*site = (struct site){
		.id = sqlite3_column_int64(stmt, 0),
		.asn = store_col_u32(stmt, 2),
		.core_mtu = store_col_u32(stmt, 7),
		.transport_label = store_col_u32(stmt, 8),
		.labels = {store_col_u32(stmt, 11), store_col_u32(stmt, 12)},
		.vlans = {store_col_u32(stmt, 13), store_col_u32(stmt, 14)},
		.pvm_memory_kib = store_col_u32(stmt, 15),
		.cvm_memory_kib = store_col_u32(stmt, 16),
		.spares = store_col_u32(stmt, 17),
	};
	store_col_text(stmt, 1, site->name, sizeof(site->name));
	store_col_addr(stmt, 3, &site->pe_address);
	store_col_text(stmt, 4, site->core_port, sizeof(site->core_port));
	store_col_prefix(stmt, 5, &site->core_address);
	store_col_addr(stmt, 6, &site->core_gateway);
	store_col_text(stmt, 9, site->switch_target, sizeof(site->switch_target));
	store_col_prefix(stmt, 10, &site->inside);

	sqlite3_stmt *rrs = store_prepare(store,
		"SELECT address FROM site_route_reflectors WHERE site_id = ? ORDER BY position",
		"i", site->id);
	if (rrs == NULL)
		return EIO;
	int err;
	while ((err = store_next_row(store, rrs)) == 0 && site->n_rr < MODEL_MAX_RR)
		store_col_addr(rrs, 0, &site->rr[site->n_rr++]);
	sqlite3_finalize(rrs);
	return err == ENOENT ? 0 : err;
}

int store_site_get(struct store *store, const char *name, struct site *site)
{
	return store_read_one(store, read_site, site,
		"SELECT " SITE_COLUMNS " FROM sites WHERE name = ?", "s", name);
}

int store_site_list(struct store *store, struct site **sites, size_t *n)
{
	return store_read_list(store, read_site, sizeof(**sites), (void **)sites, n,
		"SELECT " SITE_COLUMNS " FROM sites ORDER BY name", "");
}

/* ---- servers ------------------------------------------------------------------------------ */

#define SERVER_SELECT                                                                     \
	"SELECT s.id, s.name, s.site_id, t.name, s.uri, s.bridge, s.trunk, s.memory_mib," \
	" s.hostd, s.drained"                                                             \
	" FROM servers s JOIN sites t ON t.id = s.site_id"

static int write_risks(struct store *store, const struct server *server)
{
	int err = store_run(store, "DELETE FROM server_risks WHERE server_id = ?", "i", server->id);
	for (size_t i = 0; i < server->risks.n && err == 0; i++)
		err = store_change(store, "INSERT INTO server_risks VALUES (?, ?, ?)", "iis",
			server->id, (int64_t)i, server->risks.name[i]);
	return err;
}

int store_server_insert(struct store *store, struct server *server)
{
	int err = store_begin(store);
	if (err != 0)
		return err;
	err = store_insert(store, &server->id,
		"INSERT INTO servers (name, site_id, uri, bridge, trunk, memory_mib, hostd)"
		" VALUES (?,?,?,?,?,?,?)",
		"sisssis", server->name, server->site_id, server->uri, server->bridge,
		server->trunk, (int64_t)server->memory_mib, server->hostd);
	if (err == 0)
		err = write_risks(store, server);
	return store_end(store, err);
}

int store_server_update(struct store *store, const struct server *server)
{
	int err = store_begin(store);
	if (err != 0)
		return err;
	err = store_change(store, "UPDATE servers SET memory_mib = ?, hostd = ? WHERE id = ?",
		"isi", (int64_t)server->memory_mib, server->hostd, server->id);
	if (err == 0)
		err = write_risks(store, server);
	return store_end(store, err);
}

int store_server_set_drained(struct store *store, int64_t id, bool drained)
{
	return store_change(
		store, "UPDATE servers SET drained = ? WHERE id = ?", "ii", (int64_t)drained, id);
}

int store_server_delete(struct store *store, int64_t id)
{
	return store_change(store, "DELETE FROM servers WHERE id = ?", "i", id);
}

static int read_server(struct store *store, sqlite3_stmt *stmt, void *item)
{
	struct server *server = item;
	*server = (struct server){
		.id = sqlite3_column_int64(stmt, 0),
		.site_id = sqlite3_column_int64(stmt, 2),
		.memory_mib = store_col_u32(stmt, 7),
		.drained = sqlite3_column_int(stmt, 9) != 0,
	};
	store_col_text(stmt, 1, server->name, sizeof(server->name));
	store_col_text(stmt, 3, server->site, sizeof(server->site));
	store_col_text(stmt, 4, server->uri, sizeof(server->uri));
	store_col_text(stmt, 5, server->bridge, sizeof(server->bridge));
	store_col_text(stmt, 6, server->trunk, sizeof(server->trunk));
	store_col_text(stmt, 8, server->hostd, sizeof(server->hostd));

	sqlite3_stmt *risks = store_prepare(store,
		"SELECT name FROM server_risks WHERE server_id = ? ORDER BY position", "i",
		server->id);
	if (risks == NULL)
		return EIO;
	int err = 0;
	while (server->risks.n < MODEL_MAX_RISKS && (err = store_next_row(store, risks)) == 0)
		store_col_text(risks, 0, server->risks.name[server->risks.n++], MODEL_RISK_SIZE);
	sqlite3_finalize(risks);
	return err == ENOENT ? 0 : err;
}

int store_server_get(struct store *store, const char *name, struct server *server)
{
	return store_read_one(
		store, read_server, server, SERVER_SELECT " WHERE s.name = ?", "s", name);
}

int store_server_list(struct store *store, struct server **servers, size_t *n)
{
	return store_read_list(store, read_server, sizeof(**servers), (void **)servers, n,
		SERVER_SELECT " ORDER BY s.name", "");
}

/* ---- customers ---------------------------------------------------------------------------- */

int store_customer_insert(struct store *store, struct customer *customer)
{
	return store_insert(store, &customer->id,
		"INSERT INTO customers (name, vpn_id) VALUES (?, ?)", "si", customer->name,
		(int64_t)customer->vpn_id);
}

int store_customer_delete(struct store *store, int64_t id)
{
	return store_change(store, "DELETE FROM customers WHERE id = ?", "i", id);
}

static int read_customer(struct store *store, sqlite3_stmt *stmt, void *item)
{
	(void)store;
	struct customer *customer = item;
	customer->id = sqlite3_column_int64(stmt, 0);
	store_col_text(stmt, 1, customer->name, sizeof(customer->name));
	customer->vpn_id = store_col_u32(stmt, 2);
	return 0;
}

int store_customer_get(struct store *store, const char *name, struct customer *customer)
{
	return store_read_one(store, read_customer, customer,
		"SELECT id, name, vpn_id FROM customers WHERE name = ?", "s", name);
}

int store_customer_list(struct store *store, struct customer **customers, size_t *n)
{
	return store_read_list(store, read_customer, sizeof(**customers), (void **)customers, n,
		"SELECT id, name, vpn_id FROM customers ORDER BY name", "");
}
