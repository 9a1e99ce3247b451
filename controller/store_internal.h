/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef EDGEPLEX_STORE_INTERNAL_H
#define EDGEPLEX_STORE_INTERNAL_H

/*
 * What the store's files share: statements and their rows (store_sql.c), transactions (store.c),
 * the schema (store_schema.c). For store*.c only.
 *
 * `types` has one letter for each argument that follows: i = int64_t, s = const char * (NULL: SQL
 * NULL). A function that takes a statement's text takes the store's mutex itself; whoever steps
 * through a statement of its own, or needs two to be one, holds it (store_lock(), store_begin()).
 * Functions return 0 or an errno as store.h says.
 */

#include <pthread.h>
#include <sqlite3.h>

#include "controller/store.h"

struct store {
	sqlite3 *db;
	pthread_mutex_t mutex; /* recursive; held from store_begin() to the end of it */
	unsigned depth;        /* of transactions: only the outermost is SQLite's */
	_Atomic uint64_t generation;
};

void store_lock(struct store *store);
void store_unlock(struct store *store);
/* Ends a function's own transaction; a failure inside somebody else's is theirs to roll back. */
int store_end(struct store *store, int err);

/* Brings an open database's schema to the newest version. EIO or EPROTO (newer than we know). */
int store_migrate(struct store *store, struct why *why);

/* Runs a statement that returns no rows. */
int store_run(struct store *store, const char *sql, const char *types, ...);
/* The same; ENOENT when no row was changed. */
int store_change(struct store *store, const char *sql, const char *types, ...);
/* Runs an INSERT of one row, and tells the new row's id. */
int store_insert(struct store *store, int64_t *id, const char *sql, const char *types, ...);

/* Fills `item` from the current row of `stmt`. */
typedef int (*store_row_reader)(struct store *store, sqlite3_stmt *stmt, void *item);

/* The one row of a SELECT, or ENOENT. */
int store_read_one(struct store *store, store_row_reader reader, void *item, const char *sql,
	const char *types, ...);
/* All rows of a SELECT; the list is the caller's to free(), NULL when it is empty. */
int store_read_list(struct store *store, store_row_reader reader, size_t size, void **list,
	size_t *n, const char *sql, const char *types, ...);

/* A statement to step through, to be finalized; NULL: it failed, and the log tells why. */
sqlite3_stmt *store_prepare(struct store *store, const char *sql, const char *types, ...);
/* The next row: 0, ENOENT at the end, or another errno. */
int store_next_row(struct store *store, sqlite3_stmt *stmt);

/* A column of the current row. An address or prefix that isn't one reads as {0}. */
void store_col_text(sqlite3_stmt *stmt, int col, char *buf, size_t size);
uint32_t store_col_u32(sqlite3_stmt *stmt, int col);
void store_col_addr(sqlite3_stmt *stmt, int col, struct ep_prefix *addr);
void store_col_prefix(sqlite3_stmt *stmt, int col, struct ep_prefix *prefix);

#endif
