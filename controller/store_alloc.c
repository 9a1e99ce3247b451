/* SPDX-License-Identifier: GPL-2.0-or-later */

/* Allocations: labels, VLANs, addresses and the like, and who has them. */

#include "controller/store_internal.h"

#include <errno.h>

static const char *kind_name(enum alloc_kind kind)
{
	static const char *const names[] = {"label", "vlan", "inside", "mac", "rd"};
	return names[kind];
}

int store_alloc_exact(
	struct store *store, int64_t scope, enum alloc_kind kind, int64_t value, const char *owner)
{
	return store_change(store, "INSERT INTO allocations VALUES (?, ?, ?, ?)", "isis", scope,
		kind_name(kind), value, owner);
}

int store_alloc_lowest(struct store *store, int64_t scope, enum alloc_kind kind, struct range range,
	const char *owner, uint32_t *value)
{
	int err = store_begin(store);
	if (err != 0)
		return err;
	/* The first value itself, or the successor of a taken one, whichever is free and lowest. */
	sqlite3_stmt *stmt = store_prepare(store,
		"SELECT min(v) FROM (SELECT ?3 AS v UNION ALL SELECT value + 1 FROM allocations"
		" WHERE scope = ?1 AND kind = ?2 AND value >= ?3 AND value < ?4) WHERE NOT EXISTS"
		" (SELECT 1 FROM allocations WHERE scope = ?1 AND kind = ?2 AND value = v)",
		"isii", scope, kind_name(kind), (int64_t)range.first, (int64_t)range.last);
	err = stmt == NULL ? EIO : store_next_row(store, stmt);
	if (err == 0 && sqlite3_column_type(stmt, 0) == SQLITE_NULL)
		err = ENOSPC;
	if (err == 0)
		*value = store_col_u32(stmt, 0);
	sqlite3_finalize(stmt);
	if (err == 0)
		err = store_alloc_exact(store, scope, kind, *value, owner);
	return store_end(store, err);
}

int store_alloc_give(
	struct store *store, int64_t scope, enum alloc_kind kind, int64_t value, const char *owner)
{
	return store_change(store,
		"UPDATE allocations SET owner = ? WHERE scope = ? AND kind = ? AND value = ?",
		"sisi", owner, scope, kind_name(kind), value);
}

int store_alloc_release(struct store *store, const char *owner)
{
	return store_run(store, "DELETE FROM allocations WHERE owner = ?", "s", owner);
}

int store_alloc_count(
	struct store *store, int64_t scope, enum alloc_kind kind, struct range range, uint32_t *n)
{
	store_lock(store);
	sqlite3_stmt *stmt = store_prepare(store,
		"SELECT count(*) FROM allocations WHERE scope = ? AND kind = ? AND value >= ?"
		" AND value <= ?",
		"isii", scope, kind_name(kind), (int64_t)range.first, (int64_t)range.last);
	int err = stmt == NULL ? EIO : store_next_row(store, stmt);
	if (err == 0)
		*n = store_col_u32(stmt, 0);
	sqlite3_finalize(stmt);
	store_unlock(store);
	return err;
}
