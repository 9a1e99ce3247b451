/* SPDX-License-Identifier: GPL-2.0-or-later */

/* Statements, and reading their rows: all that the store's files ask of SQLite. */

#include "controller/store_internal.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/log.h"

static int errno_of(struct store *store, int rc)
{
	switch (rc & 0xff) {
	case SQLITE_OK:
	case SQLITE_DONE:
		return 0;
	case SQLITE_CONSTRAINT:
		return sqlite3_extended_errcode(store->db) == SQLITE_CONSTRAINT_FOREIGNKEY ? EBUSY
											   : EEXIST;
	case SQLITE_NOMEM:
		return ENOMEM;
	default:
		log_error("the database failed, check disk space and permissions error=\"%s\"",
			sqlite3_errmsg(store->db));
		return EIO;
	}
}

static sqlite3_stmt *vprepare(struct store *store, const char *sql, const char *types, va_list args)
{
	sqlite3_stmt *stmt = NULL;
	if (sqlite3_prepare_v2(store->db, sql, -1, &stmt, NULL) != SQLITE_OK) {
		log_error(
			"the database refused a statement error=\"%s\"", sqlite3_errmsg(store->db));
		return NULL;
	}
	for (int i = 1; *types != '\0'; types++, i++) {
		if (*types == 'i')
			sqlite3_bind_int64(stmt, i, va_arg(args, int64_t));
		else
			sqlite3_bind_text(
				stmt, i, va_arg(args, const char *), -1, SQLITE_TRANSIENT);
	}
	return stmt;
}

sqlite3_stmt *store_prepare(struct store *store, const char *sql, const char *types, ...)
{
	va_list args;
	va_start(args, types);
	sqlite3_stmt *stmt = vprepare(store, sql, types, args);
	va_end(args);
	return stmt;
}

int store_next_row(struct store *store, sqlite3_stmt *stmt)
{
	int rc = sqlite3_step(stmt);
	if (rc == SQLITE_ROW)
		return 0;
	return rc == SQLITE_DONE ? ENOENT : errno_of(store, rc);
}

static int vrun(struct store *store, const char *sql, const char *types, va_list args)
{
	sqlite3_stmt *stmt = vprepare(store, sql, types, args);
	if (stmt == NULL)
		return EIO;
	int err = errno_of(store, sqlite3_step(stmt));
	sqlite3_finalize(stmt);
	return err;
}

int store_run(struct store *store, const char *sql, const char *types, ...)
{
	va_list args;
	va_start(args, types);
	store_lock(store);
	int err = vrun(store, sql, types, args);
	store_unlock(store);
	va_end(args);
	return err;
}

int store_change(struct store *store, const char *sql, const char *types, ...)
{
	va_list args;
	va_start(args, types);
	store_lock(store);
	int err = vrun(store, sql, types, args);
	if (err == 0 && sqlite3_changes(store->db) == 0)
		err = ENOENT;
	store_unlock(store);
	va_end(args);
	return err;
}

int store_insert(struct store *store, int64_t *id, const char *sql, const char *types, ...)
{
	va_list args;
	va_start(args, types);
	store_lock(store);
	int err = vrun(store, sql, types, args);
	if (err == 0)
		*id = sqlite3_last_insert_rowid(store->db);
	store_unlock(store);
	va_end(args);
	return err;
}

/* Appends a zeroed element to a list that grows by doubling. Returns it, or NULL. */
static void *list_add(void **list, size_t *n, size_t size)
{
	if ((*n & (*n - 1)) == 0) {
		void *bigger = realloc(*list, (*n == 0 ? 1 : *n * 2) * size);
		if (bigger == NULL)
			return NULL;
		*list = bigger;
	}
	void *item = (char *)*list + (*n)++ * size;
	memset(item, 0, size);
	return item;
}

/* Reads all rows of `stmt` (taken; NULL: it couldn't be prepared). */
static int read_rows(struct store *store, sqlite3_stmt *stmt, store_row_reader reader, size_t size,
	void **list, size_t *n)
{
	*list = NULL;
	*n = 0;
	int err = stmt == NULL ? EIO : 0;
	while (err == 0 && (err = store_next_row(store, stmt)) == 0) {
		void *item = list_add(list, n, size);
		err = item == NULL ? ENOMEM : reader(store, stmt, item);
	}
	sqlite3_finalize(stmt);
	if (err == ENOENT)
		return 0;
	free(*list);
	*list = NULL;
	*n = 0;
	return err;
}

int store_read_list(struct store *store, store_row_reader reader, size_t size, void **list,
	size_t *n, const char *sql, const char *types, ...)
{
	va_list args;
	va_start(args, types);
	store_lock(store);
	int err = read_rows(store, vprepare(store, sql, types, args), reader, size, list, n);
	store_unlock(store);
	va_end(args);
	return err;
}

int store_read_one(struct store *store, store_row_reader reader, void *item, const char *sql,
	const char *types, ...)
{
	va_list args;
	va_start(args, types);
	store_lock(store);
	sqlite3_stmt *stmt = vprepare(store, sql, types, args);
	int err = stmt == NULL ? EIO : store_next_row(store, stmt);
	if (err == 0)
		err = reader(store, stmt, item);
	sqlite3_finalize(stmt);
	store_unlock(store);
	va_end(args);
	return err;
}

void store_col_text(sqlite3_stmt *stmt, int col, char *buf, size_t size)
{
	const unsigned char *text = sqlite3_column_text(stmt, col);
	snprintf(buf, size, "%s", text ? (const char *)text : "");
}

uint32_t store_col_u32(sqlite3_stmt *stmt, int col)
{
	return (uint32_t)sqlite3_column_int64(stmt, col);
}

void store_col_addr(sqlite3_stmt *stmt, int col, struct ep_prefix *addr)
{
	const unsigned char *text = sqlite3_column_text(stmt, col);
	if (text == NULL || ep_addr_parse((const char *)text, addr) != 0)
		*addr = (struct ep_prefix){0};
}

void store_col_prefix(sqlite3_stmt *stmt, int col, struct ep_prefix *prefix)
{
	const unsigned char *text = sqlite3_column_text(stmt, col);
	if (text == NULL || ep_prefix_parse((const char *)text, true, prefix, NULL) != 0)
		*prefix = (struct ep_prefix){0};
}
