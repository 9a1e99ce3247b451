/* SPDX-License-Identifier: GPL-2.0-or-later */

/* CVMs, their protection, and void copies of them. */

#include "controller/store_internal.h"

#include <errno.h>

/* ---- CVMs --------------------------------------------------------------------------------- */

#define CVM_SELECT                                                                                 \
	"SELECT v.site_id, t.name, v.state, v.server_id, s.name, v.uuid, v.vlan_core,"             \
	" v.vlan_inside, v.inside, v.started, v.in_fabric, v.move_state, v.move_server_id, m.name" \
	" FROM cvms v JOIN sites t ON t.id = v.site_id LEFT JOIN servers s ON s.id = v.server_id"  \
	" LEFT JOIN servers m ON m.id = v.move_server_id"

static int write_cvm(struct store *store, const char *sql, const struct cvm *cvm)
{
	char inside[EP_PREFIX_STRLEN] = "";
	if (cvm->inside.family != 0)
		ep_addr_format(&cvm->inside, inside);
	return store_change(store, sql, "iiisiisiiii", cvm->site_id, (int64_t)cvm->state,
		cvm->server_id, cvm->uuid, (int64_t)cvm->vlan_core, (int64_t)cvm->vlan_inside,
		inside, (int64_t)cvm->started, (int64_t)cvm->in_fabric, (int64_t)cvm->move.state,
		cvm->move.server_id);
}

int store_cvm_insert(struct store *store, const struct cvm *cvm)
{
	return write_cvm(store,
		"INSERT INTO cvms (site_id, state, server_id, uuid, vlan_core, vlan_inside, inside,"
		" started, in_fabric, move_state, move_server_id)"
		" VALUES (?, ?, nullif(?, 0), ?, ?, ?, ?, ?, ?, ?, nullif(?, 0))",
		cvm);
}

int store_cvm_update(struct store *store, const struct cvm *cvm)
{
	return write_cvm(store,
		"UPDATE cvms SET state = ?2, server_id = nullif(?3, 0), uuid = ?4, vlan_core = ?5,"
		" vlan_inside = ?6, inside = ?7, started = ?8, in_fabric = ?9,"
		" move_state = ?10, move_server_id = nullif(?11, 0) WHERE site_id = ?1",
		cvm);
}

int store_cvm_delete(struct store *store, int64_t site_id)
{
	return store_change(store, "DELETE FROM cvms WHERE site_id = ?", "i", site_id);
}

static int read_cvm(struct store *store, sqlite3_stmt *stmt, void *item)
{
	(void)store;
	struct cvm *cvm = item;
	*cvm = (struct cvm){
		.site_id = sqlite3_column_int64(stmt, 0),
		.state = (enum port_state)sqlite3_column_int(stmt, 2),
		.server_id = sqlite3_column_int64(stmt, 3),
		.vlan_core = store_col_u32(stmt, 6),
		.vlan_inside = store_col_u32(stmt, 7),
		.started = sqlite3_column_int(stmt, 9) != 0,
		.in_fabric = sqlite3_column_int(stmt, 10) != 0,
		.move.state = (enum move_state)sqlite3_column_int(stmt, 11),
		.move.server_id = sqlite3_column_int64(stmt, 12),
	};
	store_col_text(stmt, 13, cvm->move.server, sizeof(cvm->move.server));
	store_col_text(stmt, 1, cvm->site, sizeof(cvm->site));
	store_col_text(stmt, 4, cvm->server, sizeof(cvm->server));
	store_col_text(stmt, 5, cvm->uuid, sizeof(cvm->uuid));
	store_col_addr(stmt, 8, &cvm->inside);
	return 0;
}

int store_cvm_get(struct store *store, const char *site, struct cvm *cvm)
{
	return store_read_one(store, read_cvm, cvm, CVM_SELECT " WHERE t.name = ?", "s", site);
}

int store_cvm_list(struct store *store, struct cvm **cvms, size_t *n)
{
	return store_read_list(store, read_cvm, sizeof(**cvms), (void **)cvms, n,
		CVM_SELECT " ORDER BY t.name", "");
}

/* ---- protection of CVMs ------------------------------------------------------------------- */

#define FAILOVERS                                                                           \
	"f.count, f.time_ms, f.why, f.from_server, f.to_server, f.fenced_us, f.running_us," \
	" f.detail"

#define PROTECTION_SELECT                                                                   \
	"SELECT p.site_id, t.name, p.ending, p.wanted_server, p.interval_ms, p.timeout_ms," \
	" p.state, p.standby_id, s.name, p.takeover_ms, p.takeover_why, " FAILOVERS         \
	" FROM cvm_protections p JOIN sites t ON t.id = p.site_id LEFT JOIN servers s"      \
	" ON s.id = p.standby_id LEFT JOIN cvm_failovers f ON f.site_id = p.site_id"

/* From the columns FAILOVERS, which begin at `col`: NULL where there was none. */
static void read_failovers(sqlite3_stmt *stmt, int col, struct failovers *past)
{
	*past = (struct failovers){
		.count = store_col_u32(stmt, col),
		.last.time_ms = sqlite3_column_int64(stmt, col + 1),
		.last.why = (enum failover_why)sqlite3_column_int(stmt, col + 2),
		.last.fenced_us = sqlite3_column_int64(stmt, col + 5),
		.last.running_us = sqlite3_column_int64(stmt, col + 6),
	};
	store_col_text(stmt, col + 3, past->last.from, sizeof(past->last.from));
	store_col_text(stmt, col + 4, past->last.to, sizeof(past->last.to));
	store_col_text(stmt, col + 7, past->last.detail, sizeof(past->last.detail));
}

static int read_failovers_row(struct store *store, sqlite3_stmt *stmt, void *item)
{
	(void)store;
	read_failovers(stmt, 0, item);
	return 0;
}

int store_failovers_get(struct store *store, int64_t site_id, struct failovers *past)
{
	int err = store_read_one(store, read_failovers_row, past,
		"SELECT " FAILOVERS " FROM cvm_failovers f WHERE f.site_id = ?", "i", site_id);
	if (err == ENOENT)
		*past = (struct failovers){.count = 0};
	return err == ENOENT ? 0 : err;
}

int store_failovers_put(struct store *store, int64_t site_id, const struct failovers *past)
{
	const struct failover *last = &past->last;
	return store_change(store,
		"INSERT OR REPLACE INTO cvm_failovers (site_id, count, time_ms, why, from_server,"
		" to_server, fenced_us, running_us, detail) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
		"iiiissiis", site_id, (int64_t)past->count, last->time_ms, (int64_t)last->why,
		last->from, last->to, last->fenced_us, last->running_us, last->detail);
}

static int read_protection(struct store *store, sqlite3_stmt *stmt, void *item)
{
	(void)store;
	struct protection *protection = item;
	*protection = (struct protection){
		.site_id = sqlite3_column_int64(stmt, 0),
		.ending = sqlite3_column_int(stmt, 2) != 0,
		.interval_ms = store_col_u32(stmt, 4),
		.timeout_ms = store_col_u32(stmt, 5),
		.state = (enum protection_state)sqlite3_column_int(stmt, 6),
		.standby_id = sqlite3_column_int64(stmt, 7),
		.takeover.time_ms = sqlite3_column_int64(stmt, 9),
		.takeover.why = (enum failover_why)sqlite3_column_int(stmt, 10),
	};
	read_failovers(stmt, 11, &protection->past);
	store_col_text(stmt, 1, protection->site, sizeof(protection->site));
	store_col_text(stmt, 3, protection->wanted_server, sizeof(protection->wanted_server));
	store_col_text(stmt, 8, protection->standby, sizeof(protection->standby));
	return 0;
}

int store_protection_get(struct store *store, const char *site, struct protection *protection)
{
	return store_read_one(store, read_protection, protection,
		PROTECTION_SELECT " WHERE t.name = ?", "s", site);
}

int store_protection_list(struct store *store, struct protection **protections, size_t *n)
{
	return store_read_list(store, read_protection, sizeof(**protections), (void **)protections,
		n, PROTECTION_SELECT " ORDER BY t.name", "");
}

int store_protection_put(struct store *store, const struct protection *protection)
{
	return store_change(store,
		"INSERT OR REPLACE INTO cvm_protections (site_id, ending, wanted_server,"
		" interval_ms, timeout_ms, state, standby_id, takeover_ms, takeover_why)"
		" VALUES (?, ?, ?, ?, ?, ?, nullif(?, 0), ?, ?)",
		"iisiiiiii", protection->site_id, (int64_t)protection->ending,
		protection->wanted_server, (int64_t)protection->interval_ms,
		(int64_t)protection->timeout_ms, (int64_t)protection->state, protection->standby_id,
		protection->takeover.time_ms, (int64_t)protection->takeover.why);
}

int store_protection_delete(struct store *store, int64_t site_id)
{
	return store_change(store, "DELETE FROM cvm_protections WHERE site_id = ?", "i", site_id);
}

int store_void_add(struct store *store, int64_t site_id, int64_t server_id)
{
	return store_run(
		store, "INSERT OR IGNORE INTO cvm_voids VALUES (?, ?)", "ii", site_id, server_id);
}

int store_void_remove(struct store *store, int64_t site_id, int64_t server_id)
{
	return store_run(store, "DELETE FROM cvm_voids WHERE site_id = ? AND server_id = ?", "ii",
		site_id, server_id);
}

static int read_void(struct store *store, sqlite3_stmt *stmt, void *item)
{
	(void)store;
	struct void_copy *copy = item;
	copy->site_id = sqlite3_column_int64(stmt, 0);
	copy->server_id = sqlite3_column_int64(stmt, 1);
	store_col_text(stmt, 2, copy->site, sizeof(copy->site));
	store_col_text(stmt, 3, copy->server, sizeof(copy->server));
	store_col_text(stmt, 4, copy->uuid, sizeof(copy->uuid));
	return 0;
}

int store_void_list(struct store *store, struct void_copy **voids, size_t *n)
{
	return store_read_list(store, read_void, sizeof(**voids), (void **)voids, n,
		"SELECT v.site_id, v.server_id, t.name, s.name, c.uuid FROM cvm_voids v"
		" JOIN sites t ON t.id = v.site_id JOIN servers s ON s.id = v.server_id"
		" JOIN cvms c ON c.site_id = v.site_id ORDER BY t.name, s.name",
		"");
}
