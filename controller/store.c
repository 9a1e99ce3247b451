/* SPDX-License-Identifier: GPL-2.0-or-later */

/* The database: opening it, transactions, its generation. */

#include "controller/store_internal.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

void store_lock(struct store *store)
{
	pthread_mutex_lock(&store->mutex);
}

void store_unlock(struct store *store)
{
	pthread_mutex_unlock(&store->mutex);
}

/* SQLite calls it for each row that is written. */
static void note_change(
	void *ctx, int what, const char *database, const char *table, sqlite3_int64 row)
{
	static const char *const progress[] = {
		"operations", "operation_steps", "events", "pvm_history", "placements"};
	struct store *store = ctx;
	(void)what;
	(void)database;
	(void)row;
	for (size_t i = 0; i < sizeof(progress) / sizeof(progress[0]); i++) {
		if (strcmp(table, progress[i]) == 0)
			return;
	}
	store->generation++;
}

uint64_t store_generation(const struct store *store)
{
	return store->generation;
}

int store_open(const char *path, struct store **out, struct why *why)
{
	struct store *store = calloc(1, sizeof(*store));
	if (store == NULL)
		return why_set(why, ENOMEM, "no memory");
	pthread_mutexattr_t attr;
	pthread_mutexattr_init(&attr);
	pthread_mutexattr_settype(&attr, PTHREAD_MUTEX_RECURSIVE);
	pthread_mutex_init(&store->mutex, &attr);
	pthread_mutexattr_destroy(&attr);

	int err = EIO;
	if (sqlite3_open_v2(path, &store->db,
		    SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_FULLMUTEX,
		    NULL) != SQLITE_OK) {
		why_set(why, EIO, "%s", sqlite3_errmsg(store->db));
		goto fail;
	}
	sqlite3_extended_result_codes(store->db, 1);
	sqlite3_busy_timeout(store->db, 2000);
	if (sqlite3_exec(store->db,
		    "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;"
		    "PRAGMA foreign_keys = ON;",
		    NULL, NULL, NULL) != SQLITE_OK) {
		why_set(why, EIO, "%s", sqlite3_errmsg(store->db));
		goto fail;
	}
	err = store_migrate(store, why);
	if (err != 0)
		goto fail;
	sqlite3_update_hook(store->db, note_change, store);
	*out = store;
	return 0;
fail:
	store_close(store);
	return err;
}

void store_close(struct store *store)
{
	if (store == NULL)
		return;
	sqlite3_close(store->db);
	pthread_mutex_destroy(&store->mutex);
	free(store);
}

int store_begin(struct store *store)
{
	store_lock(store);
	if (store->depth++ > 0)
		return 0;
	int err = store_run(store, "BEGIN IMMEDIATE", "");
	if (err != 0) {
		store->depth--;
		store_unlock(store);
	}
	return err;
}

int store_commit(struct store *store)
{
	assert(store->depth > 0);
	int err = 0;
	if (--store->depth == 0) {
		err = store_run(store, "COMMIT", "");
		if (err != 0)
			store_run(store, "ROLLBACK", "");
	}
	store_unlock(store);
	return err;
}

void store_rollback(struct store *store)
{
	assert(store->depth == 1);
	store->depth = 0;
	/* SQLite may have rolled back by itself (disk full); then there is nothing to do. */
	if (sqlite3_get_autocommit(store->db) == 0)
		store_run(store, "ROLLBACK", "");
	store_unlock(store);
}

int store_end(struct store *store, int err)
{
	if (err == 0 || store->depth > 1) {
		int committed = store_commit(store);
		return err != 0 ? err : committed;
	}
	store_rollback(store);
	return err;
}

const char *store_error_text(struct store *store)
{
	return sqlite3_errmsg(store->db);
}
