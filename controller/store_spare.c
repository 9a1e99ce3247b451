/* SPDX-License-Identifier: GPL-2.0-or-later */

/* Spares, and void copies of PVMs. */

#include "controller/store_internal.h"

#define SPARE_SELECT                                                                \
	"SELECT v.id, v.site_id, t.name, v.server_id, s.name, v.uuid, v.vlan_cust," \
	" v.vlan_core, v.memory_kib, v.created_ms FROM spares v"                    \
	" JOIN sites t ON t.id = v.site_id JOIN servers s ON s.id = v.server_id"

int store_spare_insert(struct store *store, struct spare *spare)
{
	return store_insert(store, &spare->id,
		"INSERT INTO spares (site_id, server_id, uuid, vlan_cust, vlan_core, memory_kib,"
		" created_ms) VALUES (?, ?, ?, ?, ?, ?, ?)",
		"iisiiii", spare->site_id, spare->server_id, spare->uuid, (int64_t)spare->vlan_cust,
		(int64_t)spare->vlan_core, (int64_t)spare->memory_kib, spare->created_ms);
}

static int read_spare(struct store *store, sqlite3_stmt *stmt, void *item)
{
	(void)store;
	struct spare *spare = item;
	*spare = (struct spare){
		.id = sqlite3_column_int64(stmt, 0),
		.site_id = sqlite3_column_int64(stmt, 1),
		.server_id = sqlite3_column_int64(stmt, 3),
		.vlan_cust = store_col_u32(stmt, 6),
		.vlan_core = store_col_u32(stmt, 7),
		.memory_kib = store_col_u32(stmt, 8),
		.created_ms = sqlite3_column_int64(stmt, 9),
	};
	store_col_text(stmt, 2, spare->site, sizeof(spare->site));
	store_col_text(stmt, 4, spare->server, sizeof(spare->server));
	store_col_text(stmt, 5, spare->uuid, sizeof(spare->uuid));
	return 0;
}

int store_spare_get(struct store *store, int64_t id, struct spare *spare)
{
	return store_read_one(store, read_spare, spare, SPARE_SELECT " WHERE v.id = ?", "i", id);
}

int store_spare_list(struct store *store, struct spare **spares, size_t *n)
{
	return store_read_list(store, read_spare, sizeof(**spares), (void **)spares, n,
		SPARE_SELECT " ORDER BY v.id", "");
}

int store_spare_delete(struct store *store, int64_t id)
{
	return store_change(store, "DELETE FROM spares WHERE id = ?", "i", id);
}

int store_void_pvm_add(struct store *store, const char *uuid, int64_t server_id, const char *object)
{
	return store_run(store, "INSERT OR IGNORE INTO pvm_voids VALUES (?, ?, ?)", "sis", uuid,
		server_id, object);
}

int store_void_pvm_remove(struct store *store, const char *uuid, int64_t server_id)
{
	return store_run(store, "DELETE FROM pvm_voids WHERE uuid = ? AND server_id = ?", "si",
		uuid, server_id);
}

static int read_void_pvm(struct store *store, sqlite3_stmt *stmt, void *item)
{
	(void)store;
	struct void_pvm *copy = item;
	store_col_text(stmt, 0, copy->uuid, sizeof(copy->uuid));
	copy->server_id = sqlite3_column_int64(stmt, 1);
	store_col_text(stmt, 2, copy->server, sizeof(copy->server));
	store_col_text(stmt, 3, copy->object, sizeof(copy->object));
	return 0;
}

int store_void_pvm_list(struct store *store, struct void_pvm **voids, size_t *n)
{
	return store_read_list(store, read_void_pvm, sizeof(**voids), (void **)voids, n,
		"SELECT v.uuid, v.server_id, s.name, v.object FROM pvm_voids v"
		" JOIN servers s ON s.id = v.server_id ORDER BY s.name, v.uuid",
		"");
}
