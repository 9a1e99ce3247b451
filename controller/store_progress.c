/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * What the store tells of the work: operations, events, what became of PVMs, why VMs are where
 * they are. None of it is desired state, so none of it grows the generation (store.c).
 */

#include "controller/store_internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static int64_t now_ms(void)
{
	struct timespec now;
	clock_gettime(CLOCK_REALTIME, &now);
	return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* ---- what became of PVMs ------------------------------------------------------------------- */

int store_history_add(struct store *store, int64_t port_id, const char *what, const char *server,
	const char *detail)
{
	int err = store_begin(store);
	if (err != 0)
		return err;
	err = store_change(store,
		"INSERT INTO pvm_history (port_id, time_ms, what, server, detail) VALUES "
		"(?,?,?,?,?)",
		"iisss", port_id, now_ms(), what, server, detail);
	if (err == 0)
		err = store_run(store,
			"DELETE FROM pvm_history WHERE port_id = ? AND id NOT IN (SELECT id FROM"
			" pvm_history WHERE port_id = ? ORDER BY id DESC LIMIT ?)",
			"iii", port_id, port_id, (int64_t)STORE_HISTORY_KEPT);
	return store_end(store, err);
}

static int read_history(struct store *store, sqlite3_stmt *stmt, void *item)
{
	(void)store;
	struct history *history = item;
	history->time_ms = sqlite3_column_int64(stmt, 0);
	store_col_text(stmt, 1, history->what, sizeof(history->what));
	store_col_text(stmt, 2, history->server, sizeof(history->server));
	store_col_text(stmt, 3, history->detail, sizeof(history->detail));
	return 0;
}

int store_history_list(struct store *store, int64_t port_id, struct history **history, size_t *n)
{
	return store_read_list(store, read_history, sizeof(**history), (void **)history, n,
		"SELECT time_ms, what, server, detail FROM pvm_history WHERE port_id = ?"
		" ORDER BY id DESC",
		"i", port_id);
}

/* ---- reasons of placements ---------------------------------------------------------------- */

int store_placement_put(struct store *store, const char *object, int64_t server_id, const char *why)
{
	return store_change(store, "INSERT OR REPLACE INTO placements VALUES (?, ?, ?, ?)", "siis",
		object, server_id, now_ms(), why);
}

int store_placement_get(
	struct store *store, const char *object, int64_t server_id, int64_t *time_ms, char **why)
{
	store_lock(store);
	sqlite3_stmt *stmt = store_prepare(store,
		"SELECT time_ms, why FROM placements WHERE object = ?1 AND (?2 = 0 OR server_id = "
		"?2) ORDER BY time_ms DESC",
		"si", object, server_id);
	int err = stmt == NULL ? EIO : store_next_row(store, stmt);
	if (err == 0) {
		const unsigned char *text = sqlite3_column_text(stmt, 1);
		*time_ms = sqlite3_column_int64(stmt, 0);
		*why = strdup(text ? (const char *)text : "");
		err = *why == NULL ? ENOMEM : 0;
	}
	sqlite3_finalize(stmt);
	store_unlock(store);
	return err;
}

int store_placement_rename(struct store *store, const char *from, const char *to)
{
	return store_run(
		store, "UPDATE placements SET object = ? WHERE object = ?", "ss", to, from);
}

int store_placement_forget(struct store *store, const char *object)
{
	return store_run(store, "DELETE FROM placements WHERE object = ?", "s", object);
}

/* ---- operations --------------------------------------------------------------------------- */

#define OPERATION_COLUMNS                                                                  \
	"id, verb, object, state, undoing, wait_s, created_ms, finished_ms, error_status," \
	" error_type, error_detail"

static int write_steps(struct store *store, const struct operation *op)
{
	int err = 0;
	for (size_t i = 0; i < op->n_steps && err == 0; i++) {
		const struct operation_step *step = &op->steps[i];
		err = store_change(store,
			"INSERT OR REPLACE INTO operation_steps VALUES (?, ?, ?, ?, ?, ?, ?)",
			"iisiiis", op->id, (int64_t)i, step->name, (int64_t)step->state,
			step->started_ms, step->took_ms, step->detail);
	}
	return err;
}

int store_operation_insert(struct store *store, struct operation *op)
{
	int err = store_begin(store);
	if (err != 0)
		return err;
	err = store_insert(store, &op->id,
		"INSERT INTO operations (verb, object, state, undoing, wait_s, created_ms,"
		" finished_ms, error_status, error_type, error_detail)"
		" VALUES (?, ?, ?, ?, ?, ?, 0, 0, '', '')",
		"ssiiii", op->verb, op->object, (int64_t)op->state, (int64_t)op->undoing,
		(int64_t)op->wait_s, op->created_ms);
	if (err == 0)
		err = write_steps(store, op);
	if (err == 0)
		err = store_run(store, "DELETE FROM operations WHERE id <= ? AND state <> 0", "i",
			op->id - STORE_OPERATIONS_KEPT);
	return store_end(store, err);
}

int store_operation_update(struct store *store, const struct operation *op)
{
	int err = store_begin(store);
	if (err != 0)
		return err;
	err = store_change(store,
		"UPDATE operations SET state = ?, undoing = ?, finished_ms = ?, error_status = ?,"
		" error_type = ?, error_detail = ? WHERE id = ?",
		"iiiissi", (int64_t)op->state, (int64_t)op->undoing, op->finished_ms,
		(int64_t)op->error.status, op->error.type, op->error.detail, op->id);
	if (err == 0)
		err = write_steps(store, op);
	return store_end(store, err);
}

static int read_operation(struct store *store, sqlite3_stmt *stmt, void *item)
{
	struct operation *op = item;
	*op = (struct operation){
		.id = sqlite3_column_int64(stmt, 0),
		.state = (enum operation_state)sqlite3_column_int(stmt, 3),
		.undoing = sqlite3_column_int(stmt, 4) != 0,
		.wait_s = store_col_u32(stmt, 5),
		.created_ms = sqlite3_column_int64(stmt, 6),
		.finished_ms = sqlite3_column_int64(stmt, 7),
		.error = {.status = sqlite3_column_int(stmt, 8)},
	};
	store_col_text(stmt, 1, op->verb, sizeof(op->verb));
	store_col_text(stmt, 2, op->object, sizeof(op->object));
	store_col_text(stmt, 9, op->error.type, sizeof(op->error.type));
	store_col_text(stmt, 10, op->error.detail, sizeof(op->error.detail));

	sqlite3_stmt *steps = store_prepare(store,
		"SELECT name, state, started_ms, took_ms, detail FROM operation_steps"
		" WHERE operation_id = ? ORDER BY position",
		"i", op->id);
	if (steps == NULL)
		return EIO;
	int err;
	while ((err = store_next_row(store, steps)) == 0 && op->n_steps < OPERATION_MAX_STEPS) {
		struct operation_step *step = &op->steps[op->n_steps++];
		store_col_text(steps, 0, step->name, sizeof(step->name));
		step->state = (enum step_state)sqlite3_column_int(steps, 1);
		step->started_ms = sqlite3_column_int64(steps, 2);
		step->took_ms = sqlite3_column_int64(steps, 3);
		store_col_text(steps, 4, step->detail, sizeof(step->detail));
	}
	sqlite3_finalize(steps);
	return err == ENOENT ? 0 : err;
}

int store_operation_get(struct store *store, int64_t id, struct operation *op)
{
	return store_read_one(store, read_operation, op,
		"SELECT " OPERATION_COLUMNS " FROM operations WHERE id = ?", "i", id);
}

int store_operation_list(
	struct store *store, int64_t before, size_t limit, struct operation **ops, size_t *n)
{
	return store_read_list(store, read_operation, sizeof(**ops), (void **)ops, n,
		"SELECT " OPERATION_COLUMNS " FROM operations WHERE ?1 = 0 OR id < ?1"
		" ORDER BY id DESC LIMIT ?2",
		"ii", before, (int64_t)limit);
}

static int read_id(struct store *store, sqlite3_stmt *stmt, void *item)
{
	(void)store;
	*(int64_t *)item = sqlite3_column_int64(stmt, 0);
	return 0;
}

int store_operation_unfinished(struct store *store, int64_t **ids, size_t *n)
{
	return store_read_list(store, read_id, sizeof(**ids), (void **)ids, n,
		"SELECT id FROM operations WHERE state = 0 ORDER BY id", "");
}

int store_operation_of(struct store *store, const char *object, int64_t *id)
{
	return store_read_one(store, read_id, id,
		"SELECT id FROM operations WHERE state = 0 AND object = ?", "s", object);
}

/* ---- events ------------------------------------------------------------------------------- */

int store_event_add(struct store *store, const char *severity, const char *object, const char *text)
{
	store_lock(store);
	int err = store_change(store,
		"INSERT INTO events (time_ms, severity, object, text) VALUES (?, ?, ?, ?)", "isss",
		now_ms(), severity, object, text);
	if (err == 0)
		err = store_run(store, "DELETE FROM events WHERE id <= ?", "i",
			sqlite3_last_insert_rowid(store->db) - STORE_EVENTS_KEPT);
	store_unlock(store);
	return err;
}

static int read_event(struct store *store, sqlite3_stmt *stmt, void *item)
{
	(void)store;
	struct event *event = item;
	event->id = sqlite3_column_int64(stmt, 0);
	event->time_ms = sqlite3_column_int64(stmt, 1);
	store_col_text(stmt, 2, event->severity, sizeof(event->severity));
	store_col_text(stmt, 3, event->object, sizeof(event->object));
	store_col_text(stmt, 4, event->text, sizeof(event->text));
	return 0;
}

int store_event_list(
	struct store *store, int64_t after, size_t limit, struct event **events, size_t *n)
{
	return store_read_list(store, read_event, sizeof(**events), (void **)events, n,
		"SELECT id, time_ms, severity, object, text FROM events WHERE id > ?"
		" ORDER BY id LIMIT ?",
		"ii", after, (int64_t)limit);
}

int store_event_newest(struct store *store, int64_t after, int64_t before, size_t limit,
	struct event **events, size_t *n)
{
	return store_read_list(store, read_event, sizeof(**events), (void **)events, n,
		"SELECT id, time_ms, severity, object, text FROM events"
		" WHERE id > ? AND id < ? ORDER BY id DESC LIMIT ?",
		"iii", after, before > 0 ? before : INT64_MAX, (int64_t)limit);
}
