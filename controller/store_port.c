/* SPDX-License-Identifier: GPL-2.0-or-later */

/* Ports, and the PVM of each. */

#include "controller/store_internal.h"

#include <errno.h>

#define PORT_SELECT                                                                               \
	"SELECT p.id, p.name, p.customer_id, c.name, p.site_id, t.name, p.switch_port, p.vlan,"   \
	" p.mtu, p.ce_mac, p.wanted_server, v.state, v.server_id, s.name, v.uuid, v.label,"       \
	" v.vlan_cust, v.vlan_core, v.rd_number, v.inside, v.started, v.in_cvm, v.in_fabric,"     \
	" c.vpn_id, v.move_state, v.move_server_id, m.name, p.graceful_restart_s"                 \
	" FROM ports p JOIN customers c ON c.id = p.customer_id JOIN sites t ON t.id = p.site_id" \
	" JOIN pvms v ON v.port_id = p.id LEFT JOIN servers s ON s.id = v.server_id"              \
	" LEFT JOIN servers m ON m.id = v.move_server_id"

static int write_port_lists(struct store *store, const struct port *port)
{
	char text[EP_PREFIX_STRLEN];
	int err = store_run(store, "DELETE FROM port_addresses WHERE port_id = ?", "i", port->id);
	if (err == 0)
		err = store_run(store, "DELETE FROM ce_neighbors WHERE port_id = ?", "i", port->id);
	for (size_t i = 0; i < port->n_addresses && err == 0; i++)
		err = store_change(store, "INSERT INTO port_addresses VALUES (?, ?, ?)", "iis",
			port->id, (int64_t)i, ep_prefix_format(&port->addresses[i], text));
	for (size_t i = 0; i < port->n_ce && err == 0; i++)
		err = store_change(store, "INSERT INTO ce_neighbors VALUES (?, ?, ?, ?, ?)",
			"iisii", port->id, (int64_t)i, ep_addr_format(&port->ce[i].address, text),
			(int64_t)port->ce[i].asn, (int64_t)port->ce[i].max_prefixes);
	return err;
}

static int write_pvm(struct store *store, const struct port *port)
{
	char inside[EP_PREFIX_STRLEN] = "";
	if (port->inside.family != 0)
		ep_addr_format(&port->inside, inside);
	return store_change(store,
		"INSERT OR REPLACE INTO pvms (port_id, state, server_id, uuid, label, vlan_cust,"
		" vlan_core, rd_number, inside, started, in_cvm, in_fabric, move_state,"
		" move_server_id)"
		" VALUES (?, ?, nullif(?, 0), ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, nullif(?, 0))",
		"iiisiiiisiiiii", port->id, (int64_t)port->state, port->server_id, port->uuid,
		(int64_t)port->label, (int64_t)port->vlan_cust, (int64_t)port->vlan_core,
		(int64_t)port->rd_number, inside, (int64_t)port->started, (int64_t)port->in_cvm,
		(int64_t)port->in_fabric, (int64_t)port->move.state, port->move.server_id);
}

int store_port_insert(struct store *store, struct port *port)
{
	char mac[EP_MAC_STRLEN];
	int err = store_begin(store);
	if (err != 0)
		return err;
	err = store_insert(store, &port->id,
		"INSERT INTO ports (name, customer_id, site_id, switch_port, vlan, mtu, ce_mac,"
		" wanted_server, graceful_restart_s) VALUES (?,?,?,?,?,?,?,?,?)",
		"siisiissi", port->name, port->customer_id, port->site_id, port->switch_port,
		(int64_t)port->vlan, (int64_t)port->mtu,
		port->has_ce_mac ? ep_mac_format(&port->ce_mac, mac) : NULL, port->wanted_server,
		(int64_t)port->graceful_restart_s);
	if (err == 0)
		err = write_port_lists(store, port);
	if (err == 0)
		err = write_pvm(store, port);
	return store_end(store, err);
}

int store_port_update(struct store *store, const struct port *port)
{
	char mac[EP_MAC_STRLEN];
	int err = store_begin(store);
	if (err != 0)
		return err;
	err = store_change(store,
		"UPDATE ports SET mtu = ?, ce_mac = ?, graceful_restart_s = ? WHERE id = ?", "isii",
		(int64_t)port->mtu, port->has_ce_mac ? ep_mac_format(&port->ce_mac, mac) : NULL,
		(int64_t)port->graceful_restart_s, port->id);
	if (err == 0)
		err = write_port_lists(store, port);
	if (err == 0)
		err = write_pvm(store, port);
	return store_end(store, err);
}

int store_port_delete(struct store *store, int64_t id)
{
	return store_change(store, "DELETE FROM ports WHERE id = ?", "i", id);
}

static int read_port_lists(struct store *store, struct port *port)
{
	sqlite3_stmt *stmt = store_prepare(store,
		"SELECT address FROM port_addresses WHERE port_id = ? ORDER BY position", "i",
		port->id);
	if (stmt == NULL)
		return EIO;
	int err;
	while ((err = store_next_row(store, stmt)) == 0 && port->n_addresses < MODEL_MAX_ADDRESSES)
		store_col_prefix(stmt, 0, &port->addresses[port->n_addresses++]);
	sqlite3_finalize(stmt);
	if (err != 0 && err != ENOENT)
		return err;

	stmt = store_prepare(store,
		"SELECT address, asn, max_prefixes FROM ce_neighbors WHERE port_id = ?"
		" ORDER BY position",
		"i", port->id);
	if (stmt == NULL)
		return EIO;
	while ((err = store_next_row(store, stmt)) == 0 && port->n_ce < MODEL_MAX_CE) {
		struct ce *ce = &port->ce[port->n_ce++];
		store_col_addr(stmt, 0, &ce->address);
		ce->asn = store_col_u32(stmt, 1);
		ce->max_prefixes = store_col_u32(stmt, 2);
	}
	sqlite3_finalize(stmt);
	return err == ENOENT ? 0 : err;
}

static int read_port(struct store *store, sqlite3_stmt *stmt, void *item)
{
	struct port *port = item;
	*port = (struct port){
		.id = sqlite3_column_int64(stmt, 0),
		.customer_id = sqlite3_column_int64(stmt, 2),
		.site_id = sqlite3_column_int64(stmt, 4),
		.vlan = store_col_u32(stmt, 7),
		.mtu = store_col_u32(stmt, 8),
		.state = (enum port_state)sqlite3_column_int(stmt, 11),
		.server_id = sqlite3_column_int64(stmt, 12),
		.label = store_col_u32(stmt, 15),
		.vlan_cust = store_col_u32(stmt, 16),
		.vlan_core = store_col_u32(stmt, 17),
		.rd_number = store_col_u32(stmt, 18),
		.started = sqlite3_column_int(stmt, 20) != 0,
		.in_cvm = sqlite3_column_int(stmt, 21) != 0,
		.in_fabric = sqlite3_column_int(stmt, 22) != 0,
		.vpn_id = store_col_u32(stmt, 23),
		.move.state = (enum move_state)sqlite3_column_int(stmt, 24),
		.move.server_id = sqlite3_column_int64(stmt, 25),
		.graceful_restart_s = store_col_u32(stmt, 27),
	};
	store_col_text(stmt, 1, port->name, sizeof(port->name));
	store_col_text(stmt, 3, port->customer, sizeof(port->customer));
	store_col_text(stmt, 5, port->site, sizeof(port->site));
	store_col_text(stmt, 6, port->switch_port, sizeof(port->switch_port));
	char mac[EP_MAC_STRLEN];
	store_col_text(stmt, 9, mac, sizeof(mac));
	port->has_ce_mac = mac[0] != '\0' && ep_mac_parse(mac, &port->ce_mac) == 0;
	store_col_text(stmt, 10, port->wanted_server, sizeof(port->wanted_server));
	store_col_text(stmt, 13, port->server, sizeof(port->server));
	store_col_text(stmt, 14, port->uuid, sizeof(port->uuid));
	store_col_addr(stmt, 19, &port->inside);
	store_col_text(stmt, 26, port->move.server, sizeof(port->move.server));
	return read_port_lists(store, port);
}

int store_port_get(struct store *store, const char *name, struct port *port)
{
	return store_read_one(store, read_port, port, PORT_SELECT " WHERE p.name = ?", "s", name);
}

int store_port_list(struct store *store, struct port **ports, size_t *n)
{
	return store_read_list(store, read_port, sizeof(**ports), (void **)ports, n,
		PORT_SELECT " ORDER BY p.name", "");
}
