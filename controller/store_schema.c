/* SPDX-License-Identifier: GPL-2.0-or-later */

/* The schema, as the migrations that lead to it. */

#include "controller/store_internal.h"

#include <errno.h>
#include <stdio.h>

/* Each entry takes the schema from its index to the next version. Entries never change. */
static const char *const migrations[] = {
	"CREATE TABLE sites (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE,"
	" asn INTEGER NOT NULL, pe_address TEXT NOT NULL UNIQUE, core_port TEXT NOT NULL,"
	" core_address TEXT NOT NULL, core_gateway TEXT NOT NULL, core_mtu INTEGER NOT NULL,"
	" transport_label INTEGER NOT NULL, switch TEXT NOT NULL UNIQUE,"
	" inside TEXT NOT NULL UNIQUE, label_first INTEGER NOT NULL, label_last INTEGER NOT NULL,"
	" vlan_first INTEGER NOT NULL, vlan_last INTEGER NOT NULL,"
	" pvm_memory_kib INTEGER NOT NULL, cvm_memory_kib INTEGER NOT NULL) STRICT;"
	"CREATE UNIQUE INDEX sites_label ON sites(transport_label) WHERE transport_label <> 3;"
	"CREATE TABLE site_route_reflectors (site_id INTEGER NOT NULL REFERENCES sites(id)"
	" ON DELETE CASCADE, position INTEGER NOT NULL, address TEXT NOT NULL,"
	" PRIMARY KEY (site_id, position)) STRICT;"
	"CREATE TABLE servers (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE,"
	" site_id INTEGER NOT NULL REFERENCES sites(id), uri TEXT NOT NULL UNIQUE,"
	" bridge TEXT NOT NULL, trunk TEXT NOT NULL, memory_mib INTEGER NOT NULL,"
	" UNIQUE (site_id, trunk)) STRICT;"
	"CREATE TABLE customers (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE,"
	" vpn_id INTEGER NOT NULL UNIQUE) STRICT;"
	"CREATE TABLE ports (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE,"
	" customer_id INTEGER NOT NULL REFERENCES customers(id),"
	" site_id INTEGER NOT NULL REFERENCES sites(id), switch_port TEXT NOT NULL,"
	" vlan INTEGER NOT NULL, mtu INTEGER NOT NULL, ce_mac TEXT, wanted_server TEXT NOT NULL,"
	" UNIQUE (site_id, switch_port, vlan)) STRICT;"
	"CREATE TABLE port_addresses (port_id INTEGER NOT NULL REFERENCES ports(id)"
	" ON DELETE CASCADE, position INTEGER NOT NULL, address TEXT NOT NULL,"
	" PRIMARY KEY (port_id, position)) STRICT;"
	"CREATE TABLE ce_neighbors (port_id INTEGER NOT NULL REFERENCES ports(id)"
	" ON DELETE CASCADE, position INTEGER NOT NULL, address TEXT NOT NULL,"
	" asn INTEGER NOT NULL, max_prefixes INTEGER NOT NULL,"
	" PRIMARY KEY (port_id, position)) STRICT;"
	"CREATE TABLE pvms (port_id INTEGER PRIMARY KEY REFERENCES ports(id) ON DELETE CASCADE,"
	" state INTEGER NOT NULL, server_id INTEGER REFERENCES servers(id), uuid TEXT NOT NULL,"
	" label INTEGER NOT NULL, vlan_cust INTEGER NOT NULL, vlan_core INTEGER NOT NULL,"
	" rd_number INTEGER NOT NULL, inside TEXT NOT NULL, started INTEGER NOT NULL,"
	" in_cvm INTEGER NOT NULL, in_fabric INTEGER NOT NULL) STRICT;"
	"CREATE TABLE cvms (site_id INTEGER PRIMARY KEY REFERENCES sites(id),"
	" state INTEGER NOT NULL, server_id INTEGER REFERENCES servers(id), uuid TEXT NOT NULL,"
	" vlan_core INTEGER NOT NULL, vlan_inside INTEGER NOT NULL, inside TEXT NOT NULL,"
	" started INTEGER NOT NULL, in_fabric INTEGER NOT NULL) STRICT;"
	"CREATE TABLE allocations (scope INTEGER NOT NULL, kind TEXT NOT NULL,"
	" value INTEGER NOT NULL, owner TEXT NOT NULL, PRIMARY KEY (scope, kind, value)) STRICT;"
	"CREATE INDEX allocations_owner ON allocations(owner);"
	"CREATE TABLE operations (id INTEGER PRIMARY KEY AUTOINCREMENT, verb TEXT NOT NULL,"
	" object TEXT NOT NULL, state INTEGER NOT NULL, undoing INTEGER NOT NULL,"
	" wait_s INTEGER NOT NULL, created_ms INTEGER NOT NULL, finished_ms INTEGER NOT NULL,"
	" error_status INTEGER NOT NULL, error_type TEXT NOT NULL, error_detail TEXT NOT NULL)"
	" STRICT;"
	"CREATE UNIQUE INDEX operations_running ON operations(object) WHERE state = 0;"
	"CREATE TABLE operation_steps (operation_id INTEGER NOT NULL REFERENCES operations(id)"
	" ON DELETE CASCADE, position INTEGER NOT NULL, name TEXT NOT NULL,"
	" state INTEGER NOT NULL, started_ms INTEGER NOT NULL, took_ms INTEGER NOT NULL,"
	" detail TEXT NOT NULL, PRIMARY KEY (operation_id, position)) STRICT;"
	"CREATE TABLE events (id INTEGER PRIMARY KEY AUTOINCREMENT, time_ms INTEGER NOT NULL,"
	" severity TEXT NOT NULL, object TEXT NOT NULL, text TEXT NOT NULL) STRICT;",
	"ALTER TABLE servers ADD COLUMN hostd TEXT NOT NULL DEFAULT '';",

	"ALTER TABLE pvms ADD COLUMN move_state INTEGER NOT NULL DEFAULT 0;"
	"ALTER TABLE pvms ADD COLUMN move_server_id INTEGER REFERENCES servers(id);"
	"ALTER TABLE cvms ADD COLUMN move_state INTEGER NOT NULL DEFAULT 0;"
	"ALTER TABLE cvms ADD COLUMN move_server_id INTEGER REFERENCES servers(id);"
	"ALTER TABLE servers ADD COLUMN drained INTEGER NOT NULL DEFAULT 0;"
	"CREATE TABLE pvm_history (id INTEGER PRIMARY KEY AUTOINCREMENT,"
	" port_id INTEGER NOT NULL REFERENCES ports(id) ON DELETE CASCADE,"
	" time_ms INTEGER NOT NULL, what TEXT NOT NULL, server TEXT NOT NULL,"
	" detail TEXT NOT NULL) STRICT;"
	"CREATE INDEX pvm_history_port ON pvm_history(port_id);",

	"CREATE TABLE cvm_protections (site_id INTEGER PRIMARY KEY REFERENCES cvms(site_id)"
	" ON DELETE CASCADE, ending INTEGER NOT NULL, wanted_server TEXT NOT NULL,"
	" interval_ms INTEGER NOT NULL, timeout_ms INTEGER NOT NULL, state INTEGER NOT NULL,"
	" standby_id INTEGER REFERENCES servers(id), failovers INTEGER NOT NULL,"
	" last_ms INTEGER NOT NULL, last_why INTEGER NOT NULL, last_from TEXT NOT NULL,"
	" last_to TEXT NOT NULL, last_fenced_us INTEGER NOT NULL,"
	" last_running_us INTEGER NOT NULL, last_detail TEXT NOT NULL) STRICT;"
	"CREATE TABLE cvm_voids (site_id INTEGER NOT NULL REFERENCES cvms(site_id)"
	" ON DELETE CASCADE, server_id INTEGER NOT NULL REFERENCES servers(id) ON DELETE CASCADE,"
	" PRIMARY KEY (site_id, server_id)) STRICT;",

	"CREATE TABLE server_risks (server_id INTEGER NOT NULL REFERENCES servers(id)"
	" ON DELETE CASCADE, position INTEGER NOT NULL, name TEXT NOT NULL,"
	" PRIMARY KEY (server_id, position), UNIQUE (server_id, name)) STRICT;",

	"ALTER TABLE sites ADD COLUMN spares INTEGER NOT NULL DEFAULT 0;"
	"ALTER TABLE ports ADD COLUMN graceful_restart_s INTEGER NOT NULL DEFAULT 120;"
	"CREATE TABLE spares (id INTEGER PRIMARY KEY AUTOINCREMENT,"
	" site_id INTEGER NOT NULL REFERENCES sites(id),"
	" server_id INTEGER NOT NULL REFERENCES servers(id), uuid TEXT NOT NULL UNIQUE,"
	" vlan_cust INTEGER NOT NULL, vlan_core INTEGER NOT NULL, memory_kib INTEGER NOT NULL,"
	" created_ms INTEGER NOT NULL) STRICT;"
	"CREATE TABLE pvm_voids (uuid TEXT NOT NULL, server_id INTEGER NOT NULL"
	" REFERENCES servers(id) ON DELETE CASCADE, object TEXT NOT NULL,"
	" PRIMARY KEY (uuid, server_id)) STRICT;",

	"CREATE TABLE placements (object TEXT NOT NULL, server_id INTEGER NOT NULL"
	" REFERENCES servers(id) ON DELETE CASCADE, time_ms INTEGER NOT NULL, why TEXT NOT NULL,"
	" PRIMARY KEY (object, server_id)) STRICT;",

	"CREATE TABLE cvm_failovers (site_id INTEGER PRIMARY KEY REFERENCES cvms(site_id)"
	" ON DELETE CASCADE, count INTEGER NOT NULL, time_ms INTEGER NOT NULL,"
	" why INTEGER NOT NULL, from_server TEXT NOT NULL, to_server TEXT NOT NULL,"
	" fenced_us INTEGER NOT NULL, running_us INTEGER NOT NULL, detail TEXT NOT NULL) STRICT;"
	"INSERT INTO cvm_failovers SELECT site_id, failovers, last_ms, last_why, last_from,"
	" last_to, last_fenced_us, last_running_us, last_detail FROM cvm_protections"
	" WHERE failovers > 0;"
	"ALTER TABLE cvm_protections ADD COLUMN takeover_ms INTEGER NOT NULL DEFAULT 0;"
	"ALTER TABLE cvm_protections ADD COLUMN takeover_why INTEGER NOT NULL DEFAULT 0;"
	"UPDATE cvm_protections SET takeover_ms = last_ms, takeover_why = last_why;"
	"ALTER TABLE cvm_protections DROP COLUMN failovers;"
	"ALTER TABLE cvm_protections DROP COLUMN last_ms;"
	"ALTER TABLE cvm_protections DROP COLUMN last_why;"
	"ALTER TABLE cvm_protections DROP COLUMN last_from;"
	"ALTER TABLE cvm_protections DROP COLUMN last_to;"
	"ALTER TABLE cvm_protections DROP COLUMN last_fenced_us;"
	"ALTER TABLE cvm_protections DROP COLUMN last_running_us;"
	"ALTER TABLE cvm_protections DROP COLUMN last_detail;",
};

#define SCHEMA_VERSION ((int)(sizeof(migrations) / sizeof(migrations[0])))

int store_migrate(struct store *store, struct why *why)
{
	sqlite3_stmt *stmt = store_prepare(store, "PRAGMA user_version", "");
	if (stmt == NULL || store_next_row(store, stmt) != 0) {
		sqlite3_finalize(stmt);
		return why_set(why, EIO, "not a database: %s", sqlite3_errmsg(store->db));
	}
	int version = sqlite3_column_int(stmt, 0);
	sqlite3_finalize(stmt);
	if (version > SCHEMA_VERSION)
		return why_set(why, EPROTO,
			"it was written by a newer edgeplexd (schema %d, this one knows %d): "
			"install that version again",
			version, SCHEMA_VERSION);
	for (; version < SCHEMA_VERSION; version++) {
		char set[64];
		snprintf(set, sizeof(set), "PRAGMA user_version = %d", version + 1);
		char *text = NULL;
		if (sqlite3_exec(store->db, "BEGIN IMMEDIATE", NULL, NULL, &text) != SQLITE_OK ||
			sqlite3_exec(store->db, migrations[version], NULL, NULL, &text) !=
				SQLITE_OK ||
			sqlite3_exec(store->db, set, NULL, NULL, &text) != SQLITE_OK ||
			sqlite3_exec(store->db, "COMMIT", NULL, NULL, &text) != SQLITE_OK) {
			why_set(why, EIO, "migration to schema %d failed: %s", version + 1,
				text ? text : "");
			sqlite3_free(text);
			return EIO;
		}
	}
	return 0;
}
