/* SPDX-License-Identifier: GPL-2.0-or-later */

#include "controller/store.h"

#include <arpa/inet.h>
#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <sqlite3.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "common/log.h"

struct store {
	sqlite3 *db;
	pthread_mutex_t mutex; /* recursive; held from store_begin() to the end of it */
	unsigned depth;        /* of transactions: only the outermost is SQLite's */
	_Atomic uint64_t generation;
};

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
};

#define SCHEMA_VERSION ((int)(sizeof(migrations) / sizeof(migrations[0])))

/* ---- SQLite ------------------------------------------------------------------------------- */

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

/* `types`: one letter per argument, i = int64_t, s = const char * (NULL: SQL NULL). */
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

static sqlite3_stmt *prepare(struct store *store, const char *sql, const char *types, ...)
{
	va_list args;
	va_start(args, types);
	sqlite3_stmt *stmt = vprepare(store, sql, types, args);
	va_end(args);
	return stmt;
}

/* Runs a statement that returns no rows. ENOENT when `must_change` and no row was changed. */
static int run(struct store *store, bool must_change, const char *sql, const char *types, ...)
{
	va_list args;
	va_start(args, types);
	sqlite3_stmt *stmt = vprepare(store, sql, types, args);
	va_end(args);
	if (stmt == NULL)
		return EIO;
	int err = errno_of(store, sqlite3_step(stmt));
	sqlite3_finalize(stmt);
	if (err == 0 && must_change && sqlite3_changes(store->db) == 0)
		return ENOENT;
	return err;
}

/* The next row: 0, ENOENT at the end, or another errno. */
static int next_row(struct store *store, sqlite3_stmt *stmt)
{
	int rc = sqlite3_step(stmt);
	if (rc == SQLITE_ROW)
		return 0;
	return rc == SQLITE_DONE ? ENOENT : errno_of(store, rc);
}

static void col_text(sqlite3_stmt *stmt, int col, char *buf, size_t size)
{
	const unsigned char *text = sqlite3_column_text(stmt, col);
	snprintf(buf, size, "%s", text ? (const char *)text : "");
}

static uint32_t col_u32(sqlite3_stmt *stmt, int col)
{
	return (uint32_t)sqlite3_column_int64(stmt, col);
}

static void col_addr(sqlite3_stmt *stmt, int col, struct ep_prefix *addr)
{
	const unsigned char *text = sqlite3_column_text(stmt, col);
	if (text == NULL || ep_addr_parse((const char *)text, addr) != 0)
		*addr = (struct ep_prefix){0};
}

static void col_prefix(sqlite3_stmt *stmt, int col, struct ep_prefix *prefix)
{
	const unsigned char *text = sqlite3_column_text(stmt, col);
	if (text == NULL || ep_prefix_parse((const char *)text, true, prefix, NULL) != 0)
		*prefix = (struct ep_prefix){0};
}

static void lock(struct store *store)
{
	pthread_mutex_lock(&store->mutex);
}

static void unlock(struct store *store)
{
	pthread_mutex_unlock(&store->mutex);
}

static int64_t now_ms(void)
{
	struct timespec now;
	clock_gettime(CLOCK_REALTIME, &now);
	return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
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

static int migrate(struct store *store, struct why *why)
{
	sqlite3_stmt *stmt = prepare(store, "PRAGMA user_version", "");
	if (stmt == NULL || next_row(store, stmt) != 0) {
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
	err = migrate(store, why);
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
	lock(store);
	if (store->depth++ > 0)
		return 0;
	int err = run(store, false, "BEGIN IMMEDIATE", "");
	if (err != 0) {
		store->depth--;
		unlock(store);
	}
	return err;
}

int store_commit(struct store *store)
{
	assert(store->depth > 0);
	int err = 0;
	if (--store->depth == 0) {
		err = run(store, false, "COMMIT", "");
		if (err != 0)
			run(store, false, "ROLLBACK", "");
	}
	unlock(store);
	return err;
}

void store_rollback(struct store *store)
{
	assert(store->depth == 1);
	store->depth = 0;
	/* SQLite may have rolled back by itself (disk full); then there is nothing to do. */
	if (sqlite3_get_autocommit(store->db) == 0)
		run(store, false, "ROLLBACK", "");
	unlock(store);
}

/* Ends a function's own transaction; a failure inside somebody else's is theirs to roll back. */
static int end(struct store *store, int err)
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

typedef int (*row_reader)(struct store *store, sqlite3_stmt *stmt, void *item);

/* Reads all rows of `stmt` (taken) to a list. */
static int read_list(struct store *store, sqlite3_stmt *stmt, row_reader reader, size_t size,
	void **list, size_t *n)
{
	*list = NULL;
	*n = 0;
	int err = stmt == NULL ? EIO : 0;
	while (err == 0 && (err = next_row(store, stmt)) == 0) {
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

/* Reads the one row of `stmt` (taken). */
static int read_one(struct store *store, sqlite3_stmt *stmt, row_reader reader, void *item)
{
	if (stmt == NULL)
		return EIO;
	int err = next_row(store, stmt);
	if (err == 0)
		err = reader(store, stmt, item);
	sqlite3_finalize(stmt);
	return err;
}

/* ---- sites -------------------------------------------------------------------------------- */

#define SITE_COLUMNS                                                                        \
	"id, name, asn, pe_address, core_port, core_address, core_gateway, core_mtu,"       \
	" transport_label, switch, inside, label_first, label_last, vlan_first, vlan_last," \
	" pvm_memory_kib, cvm_memory_kib, spares"

static int write_rrs(struct store *store, const struct site *site)
{
	int err = run(
		store, false, "DELETE FROM site_route_reflectors WHERE site_id = ?", "i", site->id);
	for (size_t i = 0; i < site->n_rr && err == 0; i++) {
		char text[EP_PREFIX_STRLEN];
		err = run(store, true, "INSERT INTO site_route_reflectors VALUES (?, ?, ?)", "iis",
			site->id, (int64_t)i, ep_addr_format(&site->rr[i], text));
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
	err = run(store, true,
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
	if (err == 0) {
		site->id = sqlite3_last_insert_rowid(store->db);
		err = write_rrs(store, site);
	}
	return end(store, err);
}

int store_site_update(struct store *store, const struct site *site)
{
	char gw[EP_PREFIX_STRLEN], core[EP_PREFIX_STRLEN];
	int err = store_begin(store);
	if (err != 0)
		return err;
	err = run(store, true,
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
	return end(store, err);
}

int store_site_delete(struct store *store, int64_t id)
{
	lock(store);
	int err = run(store, true, "DELETE FROM sites WHERE id = ?", "i", id);
	unlock(store);
	return err;
}

static int read_site(struct store *store, sqlite3_stmt *stmt, void *item)
{
	struct site *site = item;
	*site = (struct site){
		.id = sqlite3_column_int64(stmt, 0),
		.asn = col_u32(stmt, 2),
		.core_mtu = col_u32(stmt, 7),
		.transport_label = col_u32(stmt, 8),
		.labels = {col_u32(stmt, 11), col_u32(stmt, 12)},
		.vlans = {col_u32(stmt, 13), col_u32(stmt, 14)},
		.pvm_memory_kib = col_u32(stmt, 15),
		.cvm_memory_kib = col_u32(stmt, 16),
		.spares = col_u32(stmt, 17),
	};
	col_text(stmt, 1, site->name, sizeof(site->name));
	col_addr(stmt, 3, &site->pe_address);
	col_text(stmt, 4, site->core_port, sizeof(site->core_port));
	col_prefix(stmt, 5, &site->core_address);
	col_addr(stmt, 6, &site->core_gateway);
	col_text(stmt, 9, site->switch_target, sizeof(site->switch_target));
	col_prefix(stmt, 10, &site->inside);

	sqlite3_stmt *rrs = prepare(store,
		"SELECT address FROM site_route_reflectors WHERE site_id = ? ORDER BY position",
		"i", site->id);
	if (rrs == NULL)
		return EIO;
	int err;
	while ((err = next_row(store, rrs)) == 0 && site->n_rr < MODEL_MAX_RR)
		col_addr(rrs, 0, &site->rr[site->n_rr++]);
	sqlite3_finalize(rrs);
	return err == ENOENT ? 0 : err;
}

int store_site_get(struct store *store, const char *name, struct site *site)
{
	lock(store);
	int err = read_one(store,
		prepare(store, "SELECT " SITE_COLUMNS " FROM sites WHERE name = ?", "s", name),
		read_site, site);
	unlock(store);
	return err;
}

int store_site_list(struct store *store, struct site **sites, size_t *n)
{
	lock(store);
	int err = read_list(store,
		prepare(store, "SELECT " SITE_COLUMNS " FROM sites ORDER BY name", ""), read_site,
		sizeof(**sites), (void **)sites, n);
	unlock(store);
	return err;
}

/* ---- servers ------------------------------------------------------------------------------ */

#define SERVER_SELECT                                                                     \
	"SELECT s.id, s.name, s.site_id, t.name, s.uri, s.bridge, s.trunk, s.memory_mib," \
	" s.hostd, s.drained"                                                             \
	" FROM servers s JOIN sites t ON t.id = s.site_id"

static int write_risks(struct store *store, const struct server *server)
{
	int err =
		run(store, false, "DELETE FROM server_risks WHERE server_id = ?", "i", server->id);
	for (size_t i = 0; i < server->risks.n && err == 0; i++)
		err = run(store, true, "INSERT INTO server_risks VALUES (?, ?, ?)", "iis",
			server->id, (int64_t)i, server->risks.name[i]);
	return err;
}

int store_server_insert(struct store *store, struct server *server)
{
	int err = store_begin(store);
	if (err != 0)
		return err;
	err = run(store, true,
		"INSERT INTO servers (name, site_id, uri, bridge, trunk, memory_mib, hostd)"
		" VALUES (?,?,?,?,?,?,?)",
		"sisssis", server->name, server->site_id, server->uri, server->bridge,
		server->trunk, (int64_t)server->memory_mib, server->hostd);
	if (err == 0) {
		server->id = sqlite3_last_insert_rowid(store->db);
		err = write_risks(store, server);
	}
	return end(store, err);
}

int store_server_update(struct store *store, const struct server *server)
{
	int err = store_begin(store);
	if (err != 0)
		return err;
	err = run(store, true, "UPDATE servers SET memory_mib = ?, hostd = ? WHERE id = ?", "isi",
		(int64_t)server->memory_mib, server->hostd, server->id);
	if (err == 0)
		err = write_risks(store, server);
	return end(store, err);
}

int store_server_set_drained(struct store *store, int64_t id, bool drained)
{
	lock(store);
	int err = run(store, true, "UPDATE servers SET drained = ? WHERE id = ?", "ii",
		(int64_t)drained, id);
	unlock(store);
	return err;
}

int store_server_delete(struct store *store, int64_t id)
{
	lock(store);
	int err = run(store, true, "DELETE FROM servers WHERE id = ?", "i", id);
	unlock(store);
	return err;
}

static int read_server(struct store *store, sqlite3_stmt *stmt, void *item)
{
	struct server *server = item;
	*server = (struct server){
		.id = sqlite3_column_int64(stmt, 0),
		.site_id = sqlite3_column_int64(stmt, 2),
		.memory_mib = col_u32(stmt, 7),
		.drained = sqlite3_column_int(stmt, 9) != 0,
	};
	col_text(stmt, 1, server->name, sizeof(server->name));
	col_text(stmt, 3, server->site, sizeof(server->site));
	col_text(stmt, 4, server->uri, sizeof(server->uri));
	col_text(stmt, 5, server->bridge, sizeof(server->bridge));
	col_text(stmt, 6, server->trunk, sizeof(server->trunk));
	col_text(stmt, 8, server->hostd, sizeof(server->hostd));

	sqlite3_stmt *risks = prepare(store,
		"SELECT name FROM server_risks WHERE server_id = ? ORDER BY position", "i",
		server->id);
	if (risks == NULL)
		return EIO;
	int err = 0;
	while (server->risks.n < MODEL_MAX_RISKS && (err = next_row(store, risks)) == 0)
		col_text(risks, 0, server->risks.name[server->risks.n++], MODEL_RISK_SIZE);
	sqlite3_finalize(risks);
	return err == ENOENT ? 0 : err;
}

int store_server_get(struct store *store, const char *name, struct server *server)
{
	lock(store);
	int err = read_one(store, prepare(store, SERVER_SELECT " WHERE s.name = ?", "s", name),
		read_server, server);
	unlock(store);
	return err;
}

int store_server_list(struct store *store, struct server **servers, size_t *n)
{
	lock(store);
	int err = read_list(store, prepare(store, SERVER_SELECT " ORDER BY s.name", ""),
		read_server, sizeof(**servers), (void **)servers, n);
	unlock(store);
	return err;
}

/* ---- customers ---------------------------------------------------------------------------- */

int store_customer_insert(struct store *store, struct customer *customer)
{
	lock(store);
	int err = run(store, true, "INSERT INTO customers (name, vpn_id) VALUES (?, ?)", "si",
		customer->name, (int64_t)customer->vpn_id);
	if (err == 0)
		customer->id = sqlite3_last_insert_rowid(store->db);
	unlock(store);
	return err;
}

int store_customer_delete(struct store *store, int64_t id)
{
	lock(store);
	int err = run(store, true, "DELETE FROM customers WHERE id = ?", "i", id);
	unlock(store);
	return err;
}

static int read_customer(struct store *store, sqlite3_stmt *stmt, void *item)
{
	(void)store;
	struct customer *customer = item;
	customer->id = sqlite3_column_int64(stmt, 0);
	col_text(stmt, 1, customer->name, sizeof(customer->name));
	customer->vpn_id = col_u32(stmt, 2);
	return 0;
}

int store_customer_get(struct store *store, const char *name, struct customer *customer)
{
	lock(store);
	int err = read_one(store,
		prepare(store, "SELECT id, name, vpn_id FROM customers WHERE name = ?", "s", name),
		read_customer, customer);
	unlock(store);
	return err;
}

int store_customer_list(struct store *store, struct customer **customers, size_t *n)
{
	lock(store);
	int err = read_list(store,
		prepare(store, "SELECT id, name, vpn_id FROM customers ORDER BY name", ""),
		read_customer, sizeof(**customers), (void **)customers, n);
	unlock(store);
	return err;
}

/* ---- ports and their PVMs ------------------------------------------------------------------ */

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
	int err = run(store, false, "DELETE FROM port_addresses WHERE port_id = ?", "i", port->id);
	if (err == 0)
		err = run(
			store, false, "DELETE FROM ce_neighbors WHERE port_id = ?", "i", port->id);
	for (size_t i = 0; i < port->n_addresses && err == 0; i++)
		err = run(store, true, "INSERT INTO port_addresses VALUES (?, ?, ?)", "iis",
			port->id, (int64_t)i, ep_prefix_format(&port->addresses[i], text));
	for (size_t i = 0; i < port->n_ce && err == 0; i++)
		err = run(store, true, "INSERT INTO ce_neighbors VALUES (?, ?, ?, ?, ?)", "iisii",
			port->id, (int64_t)i, ep_addr_format(&port->ce[i].address, text),
			(int64_t)port->ce[i].asn, (int64_t)port->ce[i].max_prefixes);
	return err;
}

static int write_pvm(struct store *store, const struct port *port)
{
	char inside[EP_PREFIX_STRLEN] = "";
	if (port->inside.family != 0)
		ep_addr_format(&port->inside, inside);
	return run(store, true,
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
	err = run(store, true,
		"INSERT INTO ports (name, customer_id, site_id, switch_port, vlan, mtu, ce_mac,"
		" wanted_server, graceful_restart_s) VALUES (?,?,?,?,?,?,?,?,?)",
		"siisiissi", port->name, port->customer_id, port->site_id, port->switch_port,
		(int64_t)port->vlan, (int64_t)port->mtu,
		port->has_ce_mac ? ep_mac_format(&port->ce_mac, mac) : NULL, port->wanted_server,
		(int64_t)port->graceful_restart_s);
	if (err == 0) {
		port->id = sqlite3_last_insert_rowid(store->db);
		err = write_port_lists(store, port);
	}
	if (err == 0)
		err = write_pvm(store, port);
	return end(store, err);
}

int store_port_update(struct store *store, const struct port *port)
{
	char mac[EP_MAC_STRLEN];
	int err = store_begin(store);
	if (err != 0)
		return err;
	err = run(store, true,
		"UPDATE ports SET mtu = ?, ce_mac = ?, graceful_restart_s = ? WHERE id = ?", "isii",
		(int64_t)port->mtu, port->has_ce_mac ? ep_mac_format(&port->ce_mac, mac) : NULL,
		(int64_t)port->graceful_restart_s, port->id);
	if (err == 0)
		err = write_port_lists(store, port);
	if (err == 0)
		err = write_pvm(store, port);
	return end(store, err);
}

int store_port_delete(struct store *store, int64_t id)
{
	lock(store);
	int err = run(store, true, "DELETE FROM ports WHERE id = ?", "i", id);
	unlock(store);
	return err;
}

static int read_port_lists(struct store *store, struct port *port)
{
	sqlite3_stmt *stmt = prepare(store,
		"SELECT address FROM port_addresses WHERE port_id = ? ORDER BY position", "i",
		port->id);
	if (stmt == NULL)
		return EIO;
	int err;
	while ((err = next_row(store, stmt)) == 0 && port->n_addresses < MODEL_MAX_ADDRESSES)
		col_prefix(stmt, 0, &port->addresses[port->n_addresses++]);
	sqlite3_finalize(stmt);
	if (err != 0 && err != ENOENT)
		return err;

	stmt = prepare(store,
		"SELECT address, asn, max_prefixes FROM ce_neighbors WHERE port_id = ?"
		" ORDER BY position",
		"i", port->id);
	if (stmt == NULL)
		return EIO;
	while ((err = next_row(store, stmt)) == 0 && port->n_ce < MODEL_MAX_CE) {
		struct ce *ce = &port->ce[port->n_ce++];
		col_addr(stmt, 0, &ce->address);
		ce->asn = col_u32(stmt, 1);
		ce->max_prefixes = col_u32(stmt, 2);
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
		.vlan = col_u32(stmt, 7),
		.mtu = col_u32(stmt, 8),
		.state = (enum port_state)sqlite3_column_int(stmt, 11),
		.server_id = sqlite3_column_int64(stmt, 12),
		.label = col_u32(stmt, 15),
		.vlan_cust = col_u32(stmt, 16),
		.vlan_core = col_u32(stmt, 17),
		.rd_number = col_u32(stmt, 18),
		.started = sqlite3_column_int(stmt, 20) != 0,
		.in_cvm = sqlite3_column_int(stmt, 21) != 0,
		.in_fabric = sqlite3_column_int(stmt, 22) != 0,
		.vpn_id = col_u32(stmt, 23),
		.move.state = (enum move_state)sqlite3_column_int(stmt, 24),
		.move.server_id = sqlite3_column_int64(stmt, 25),
		.graceful_restart_s = col_u32(stmt, 27),
	};
	col_text(stmt, 1, port->name, sizeof(port->name));
	col_text(stmt, 3, port->customer, sizeof(port->customer));
	col_text(stmt, 5, port->site, sizeof(port->site));
	col_text(stmt, 6, port->switch_port, sizeof(port->switch_port));
	char mac[EP_MAC_STRLEN];
	col_text(stmt, 9, mac, sizeof(mac));
	port->has_ce_mac = mac[0] != '\0' && ep_mac_parse(mac, &port->ce_mac) == 0;
	col_text(stmt, 10, port->wanted_server, sizeof(port->wanted_server));
	col_text(stmt, 13, port->server, sizeof(port->server));
	col_text(stmt, 14, port->uuid, sizeof(port->uuid));
	col_addr(stmt, 19, &port->inside);
	col_text(stmt, 26, port->move.server, sizeof(port->move.server));
	return read_port_lists(store, port);
}

int store_port_get(struct store *store, const char *name, struct port *port)
{
	lock(store);
	int err = read_one(
		store, prepare(store, PORT_SELECT " WHERE p.name = ?", "s", name), read_port, port);
	unlock(store);
	return err;
}

int store_port_list(struct store *store, struct port **ports, size_t *n)
{
	lock(store);
	int err = read_list(store, prepare(store, PORT_SELECT " ORDER BY p.name", ""), read_port,
		sizeof(**ports), (void **)ports, n);
	unlock(store);
	return err;
}

int store_history_add(struct store *store, int64_t port_id, const char *what, const char *server,
	const char *detail)
{
	int err = store_begin(store);
	if (err != 0)
		return err;
	err = run(store, true,
		"INSERT INTO pvm_history (port_id, time_ms, what, server, detail) VALUES "
		"(?,?,?,?,?)",
		"iisss", port_id, now_ms(), what, server, detail);
	if (err == 0)
		err = run(store, false,
			"DELETE FROM pvm_history WHERE port_id = ? AND id NOT IN (SELECT id FROM"
			" pvm_history WHERE port_id = ? ORDER BY id DESC LIMIT ?)",
			"iii", port_id, port_id, (int64_t)STORE_HISTORY_KEPT);
	return end(store, err);
}

static int read_history(struct store *store, sqlite3_stmt *stmt, void *item)
{
	(void)store;
	struct history *history = item;
	history->time_ms = sqlite3_column_int64(stmt, 0);
	col_text(stmt, 1, history->what, sizeof(history->what));
	col_text(stmt, 2, history->server, sizeof(history->server));
	col_text(stmt, 3, history->detail, sizeof(history->detail));
	return 0;
}

int store_history_list(struct store *store, int64_t port_id, struct history **history, size_t *n)
{
	lock(store);
	int err = read_list(store,
		prepare(store,
			"SELECT time_ms, what, server, detail FROM pvm_history WHERE port_id = ?"
			" ORDER BY id DESC",
			"i", port_id),
		read_history, sizeof(**history), (void **)history, n);
	unlock(store);
	return err;
}

/* ---- reasons of placements ---------------------------------------------------------------- */

int store_placement_put(struct store *store, const char *object, int64_t server_id, const char *why)
{
	lock(store);
	int err = run(store, true, "INSERT OR REPLACE INTO placements VALUES (?, ?, ?, ?)", "siis",
		object, server_id, now_ms(), why);
	unlock(store);
	return err;
}

int store_placement_get(
	struct store *store, const char *object, int64_t server_id, int64_t *time_ms, char **why)
{
	lock(store);
	sqlite3_stmt *stmt = prepare(store,
		"SELECT time_ms, why FROM placements WHERE object = ?1 AND (?2 = 0 OR server_id = "
		"?2) ORDER BY time_ms DESC",
		"si", object, server_id);
	int err = stmt == NULL ? EIO : next_row(store, stmt);
	if (err == 0) {
		const unsigned char *text = sqlite3_column_text(stmt, 1);
		*time_ms = sqlite3_column_int64(stmt, 0);
		*why = strdup(text ? (const char *)text : "");
		err = *why == NULL ? ENOMEM : 0;
	}
	sqlite3_finalize(stmt);
	unlock(store);
	return err;
}

int store_placement_rename(struct store *store, const char *from, const char *to)
{
	lock(store);
	int err = run(
		store, false, "UPDATE placements SET object = ? WHERE object = ?", "ss", to, from);
	unlock(store);
	return err;
}

int store_placement_forget(struct store *store, const char *object)
{
	lock(store);
	int err = run(store, false, "DELETE FROM placements WHERE object = ?", "s", object);
	unlock(store);
	return err;
}

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
	lock(store);
	int err = run(store, true, sql, "iiisiisiiii", cvm->site_id, (int64_t)cvm->state,
		cvm->server_id, cvm->uuid, (int64_t)cvm->vlan_core, (int64_t)cvm->vlan_inside,
		inside, (int64_t)cvm->started, (int64_t)cvm->in_fabric, (int64_t)cvm->move.state,
		cvm->move.server_id);
	unlock(store);
	return err;
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
	lock(store);
	int err = run(store, true, "DELETE FROM cvms WHERE site_id = ?", "i", site_id);
	unlock(store);
	return err;
}

static int read_cvm(struct store *store, sqlite3_stmt *stmt, void *item)
{
	(void)store;
	struct cvm *cvm = item;
	*cvm = (struct cvm){
		.site_id = sqlite3_column_int64(stmt, 0),
		.state = (enum port_state)sqlite3_column_int(stmt, 2),
		.server_id = sqlite3_column_int64(stmt, 3),
		.vlan_core = col_u32(stmt, 6),
		.vlan_inside = col_u32(stmt, 7),
		.started = sqlite3_column_int(stmt, 9) != 0,
		.in_fabric = sqlite3_column_int(stmt, 10) != 0,
		.move.state = (enum move_state)sqlite3_column_int(stmt, 11),
		.move.server_id = sqlite3_column_int64(stmt, 12),
	};
	col_text(stmt, 13, cvm->move.server, sizeof(cvm->move.server));
	col_text(stmt, 1, cvm->site, sizeof(cvm->site));
	col_text(stmt, 4, cvm->server, sizeof(cvm->server));
	col_text(stmt, 5, cvm->uuid, sizeof(cvm->uuid));
	col_addr(stmt, 8, &cvm->inside);
	return 0;
}

int store_cvm_get(struct store *store, const char *site, struct cvm *cvm)
{
	lock(store);
	int err = read_one(
		store, prepare(store, CVM_SELECT " WHERE t.name = ?", "s", site), read_cvm, cvm);
	unlock(store);
	return err;
}

int store_cvm_list(struct store *store, struct cvm **cvms, size_t *n)
{
	lock(store);
	int err = read_list(store, prepare(store, CVM_SELECT " ORDER BY t.name", ""), read_cvm,
		sizeof(**cvms), (void **)cvms, n);
	unlock(store);
	return err;
}

/* ---- protection of CVMs ------------------------------------------------------------------- */

#define PROTECTION_SELECT                                                                   \
	"SELECT p.site_id, t.name, p.ending, p.wanted_server, p.interval_ms, p.timeout_ms," \
	" p.state, p.standby_id, s.name, p.failovers, p.last_ms, p.last_why, p.last_from,"  \
	" p.last_to, p.last_fenced_us, p.last_running_us, p.last_detail"                    \
	" FROM cvm_protections p JOIN sites t ON t.id = p.site_id LEFT JOIN servers s"      \
	" ON s.id = p.standby_id"

static int read_protection(struct store *store, sqlite3_stmt *stmt, void *item)
{
	(void)store;
	struct protection *protection = item;
	*protection = (struct protection){
		.site_id = sqlite3_column_int64(stmt, 0),
		.ending = sqlite3_column_int(stmt, 2) != 0,
		.interval_ms = col_u32(stmt, 4),
		.timeout_ms = col_u32(stmt, 5),
		.state = (enum protection_state)sqlite3_column_int(stmt, 6),
		.standby_id = sqlite3_column_int64(stmt, 7),
		.failovers = col_u32(stmt, 9),
		.last.time_ms = sqlite3_column_int64(stmt, 10),
		.last.why = (enum failover_why)sqlite3_column_int(stmt, 11),
		.last.fenced_us = sqlite3_column_int64(stmt, 14),
		.last.running_us = sqlite3_column_int64(stmt, 15),
	};
	col_text(stmt, 1, protection->site, sizeof(protection->site));
	col_text(stmt, 3, protection->wanted_server, sizeof(protection->wanted_server));
	col_text(stmt, 8, protection->standby, sizeof(protection->standby));
	col_text(stmt, 12, protection->last.from, sizeof(protection->last.from));
	col_text(stmt, 13, protection->last.to, sizeof(protection->last.to));
	col_text(stmt, 16, protection->last.detail, sizeof(protection->last.detail));
	return 0;
}

int store_protection_get(struct store *store, const char *site, struct protection *protection)
{
	lock(store);
	int err = read_one(store, prepare(store, PROTECTION_SELECT " WHERE t.name = ?", "s", site),
		read_protection, protection);
	unlock(store);
	return err;
}

int store_protection_list(struct store *store, struct protection **protections, size_t *n)
{
	lock(store);
	int err = read_list(store, prepare(store, PROTECTION_SELECT " ORDER BY t.name", ""),
		read_protection, sizeof(**protections), (void **)protections, n);
	unlock(store);
	return err;
}

int store_protection_put(struct store *store, const struct protection *protection)
{
	const struct failover *last = &protection->last;
	lock(store);
	int err = run(store, true,
		"INSERT OR REPLACE INTO cvm_protections (site_id, ending, wanted_server,"
		" interval_ms, timeout_ms, state, standby_id, failovers, last_ms, last_why,"
		" last_from, last_to, last_fenced_us, last_running_us, last_detail)"
		" VALUES (?, ?, ?, ?, ?, ?, nullif(?, 0), ?, ?, ?, ?, ?, ?, ?, ?)",
		"iisiiiiiiissiis", protection->site_id, (int64_t)protection->ending,
		protection->wanted_server, (int64_t)protection->interval_ms,
		(int64_t)protection->timeout_ms, (int64_t)protection->state, protection->standby_id,
		(int64_t)protection->failovers, last->time_ms, (int64_t)last->why, last->from,
		last->to, last->fenced_us, last->running_us, last->detail);
	unlock(store);
	return err;
}

int store_protection_delete(struct store *store, int64_t site_id)
{
	lock(store);
	int err = run(store, true, "DELETE FROM cvm_protections WHERE site_id = ?", "i", site_id);
	unlock(store);
	return err;
}

int store_void_add(struct store *store, int64_t site_id, int64_t server_id)
{
	lock(store);
	int err = run(store, false, "INSERT OR IGNORE INTO cvm_voids VALUES (?, ?)", "ii", site_id,
		server_id);
	unlock(store);
	return err;
}

int store_void_remove(struct store *store, int64_t site_id, int64_t server_id)
{
	lock(store);
	int err = run(store, false, "DELETE FROM cvm_voids WHERE site_id = ? AND server_id = ?",
		"ii", site_id, server_id);
	unlock(store);
	return err;
}

static int read_void(struct store *store, sqlite3_stmt *stmt, void *item)
{
	(void)store;
	struct void_copy *copy = item;
	copy->site_id = sqlite3_column_int64(stmt, 0);
	copy->server_id = sqlite3_column_int64(stmt, 1);
	col_text(stmt, 2, copy->site, sizeof(copy->site));
	col_text(stmt, 3, copy->server, sizeof(copy->server));
	col_text(stmt, 4, copy->uuid, sizeof(copy->uuid));
	return 0;
}

int store_void_list(struct store *store, struct void_copy **voids, size_t *n)
{
	lock(store);
	int err = read_list(store,
		prepare(store,
			"SELECT v.site_id, v.server_id, t.name, s.name, c.uuid FROM cvm_voids v"
			" JOIN sites t ON t.id = v.site_id JOIN servers s ON s.id = v.server_id"
			" JOIN cvms c ON c.site_id = v.site_id ORDER BY t.name, s.name",
			""),
		read_void, sizeof(**voids), (void **)voids, n);
	unlock(store);
	return err;
}

/* ---- spares, and void copies of PVMs ------------------------------------------------------- */

#define SPARE_SELECT                                                                \
	"SELECT v.id, v.site_id, t.name, v.server_id, s.name, v.uuid, v.vlan_cust," \
	" v.vlan_core, v.memory_kib, v.created_ms FROM spares v"                    \
	" JOIN sites t ON t.id = v.site_id JOIN servers s ON s.id = v.server_id"

int store_spare_insert(struct store *store, struct spare *spare)
{
	lock(store);
	int err = run(store, true,
		"INSERT INTO spares (site_id, server_id, uuid, vlan_cust, vlan_core, memory_kib,"
		" created_ms) VALUES (?, ?, ?, ?, ?, ?, ?)",
		"iisiiii", spare->site_id, spare->server_id, spare->uuid, (int64_t)spare->vlan_cust,
		(int64_t)spare->vlan_core, (int64_t)spare->memory_kib, spare->created_ms);
	if (err == 0)
		spare->id = sqlite3_last_insert_rowid(store->db);
	unlock(store);
	return err;
}

static int read_spare(struct store *store, sqlite3_stmt *stmt, void *item)
{
	(void)store;
	struct spare *spare = item;
	*spare = (struct spare){
		.id = sqlite3_column_int64(stmt, 0),
		.site_id = sqlite3_column_int64(stmt, 1),
		.server_id = sqlite3_column_int64(stmt, 3),
		.vlan_cust = col_u32(stmt, 6),
		.vlan_core = col_u32(stmt, 7),
		.memory_kib = col_u32(stmt, 8),
		.created_ms = sqlite3_column_int64(stmt, 9),
	};
	col_text(stmt, 2, spare->site, sizeof(spare->site));
	col_text(stmt, 4, spare->server, sizeof(spare->server));
	col_text(stmt, 5, spare->uuid, sizeof(spare->uuid));
	return 0;
}

int store_spare_get(struct store *store, int64_t id, struct spare *spare)
{
	lock(store);
	int err = read_one(
		store, prepare(store, SPARE_SELECT " WHERE v.id = ?", "i", id), read_spare, spare);
	unlock(store);
	return err;
}

int store_spare_list(struct store *store, struct spare **spares, size_t *n)
{
	lock(store);
	int err = read_list(store, prepare(store, SPARE_SELECT " ORDER BY v.id", ""), read_spare,
		sizeof(**spares), (void **)spares, n);
	unlock(store);
	return err;
}

int store_spare_delete(struct store *store, int64_t id)
{
	lock(store);
	int err = run(store, true, "DELETE FROM spares WHERE id = ?", "i", id);
	unlock(store);
	return err;
}

int store_void_pvm_add(struct store *store, const char *uuid, int64_t server_id, const char *object)
{
	lock(store);
	int err = run(store, false, "INSERT OR IGNORE INTO pvm_voids VALUES (?, ?, ?)", "sis", uuid,
		server_id, object);
	unlock(store);
	return err;
}

int store_void_pvm_remove(struct store *store, const char *uuid, int64_t server_id)
{
	lock(store);
	int err = run(store, false, "DELETE FROM pvm_voids WHERE uuid = ? AND server_id = ?", "si",
		uuid, server_id);
	unlock(store);
	return err;
}

static int read_void_pvm(struct store *store, sqlite3_stmt *stmt, void *item)
{
	(void)store;
	struct void_pvm *copy = item;
	col_text(stmt, 0, copy->uuid, sizeof(copy->uuid));
	copy->server_id = sqlite3_column_int64(stmt, 1);
	col_text(stmt, 2, copy->server, sizeof(copy->server));
	col_text(stmt, 3, copy->object, sizeof(copy->object));
	return 0;
}

int store_void_pvm_list(struct store *store, struct void_pvm **voids, size_t *n)
{
	lock(store);
	int err = read_list(store,
		prepare(store,
			"SELECT v.uuid, v.server_id, s.name, v.object FROM pvm_voids v"
			" JOIN servers s ON s.id = v.server_id ORDER BY s.name, v.uuid",
			""),
		read_void_pvm, sizeof(**voids), (void **)voids, n);
	unlock(store);
	return err;
}

/* ---- allocations -------------------------------------------------------------------------- */

static const char *kind_name(enum alloc_kind kind)
{
	static const char *const names[] = {"label", "vlan", "inside", "mac", "rd"};
	return names[kind];
}

int store_alloc_exact(
	struct store *store, int64_t scope, enum alloc_kind kind, int64_t value, const char *owner)
{
	lock(store);
	int err = run(store, true, "INSERT INTO allocations VALUES (?, ?, ?, ?)", "isis", scope,
		kind_name(kind), value, owner);
	unlock(store);
	return err;
}

int store_alloc_lowest(struct store *store, int64_t scope, enum alloc_kind kind, struct range range,
	const char *owner, uint32_t *value)
{
	int err = store_begin(store);
	if (err != 0)
		return err;
	/* The first value itself, or the successor of a taken one, whichever is free and lowest. */
	sqlite3_stmt *stmt = prepare(store,
		"SELECT min(v) FROM (SELECT ?3 AS v UNION ALL SELECT value + 1 FROM allocations"
		" WHERE scope = ?1 AND kind = ?2 AND value >= ?3 AND value < ?4) WHERE NOT EXISTS"
		" (SELECT 1 FROM allocations WHERE scope = ?1 AND kind = ?2 AND value = v)",
		"isii", scope, kind_name(kind), (int64_t)range.first, (int64_t)range.last);
	err = stmt == NULL ? EIO : next_row(store, stmt);
	if (err == 0 && sqlite3_column_type(stmt, 0) == SQLITE_NULL)
		err = ENOSPC;
	if (err == 0)
		*value = col_u32(stmt, 0);
	sqlite3_finalize(stmt);
	if (err == 0)
		err = store_alloc_exact(store, scope, kind, *value, owner);
	return end(store, err);
}

int store_alloc_give(
	struct store *store, int64_t scope, enum alloc_kind kind, int64_t value, const char *owner)
{
	lock(store);
	int err = run(store, true,
		"UPDATE allocations SET owner = ? WHERE scope = ? AND kind = ? AND value = ?",
		"sisi", owner, scope, kind_name(kind), value);
	unlock(store);
	return err;
}

int store_alloc_release(struct store *store, const char *owner)
{
	lock(store);
	int err = run(store, false, "DELETE FROM allocations WHERE owner = ?", "s", owner);
	unlock(store);
	return err;
}

int store_alloc_count(
	struct store *store, int64_t scope, enum alloc_kind kind, struct range range, uint32_t *n)
{
	lock(store);
	sqlite3_stmt *stmt = prepare(store,
		"SELECT count(*) FROM allocations WHERE scope = ? AND kind = ? AND value >= ?"
		" AND value <= ?",
		"isii", scope, kind_name(kind), (int64_t)range.first, (int64_t)range.last);
	int err = stmt == NULL ? EIO : next_row(store, stmt);
	if (err == 0)
		*n = col_u32(stmt, 0);
	sqlite3_finalize(stmt);
	unlock(store);
	return err;
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
		err = run(store, true,
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
	err = run(store, true,
		"INSERT INTO operations (verb, object, state, undoing, wait_s, created_ms,"
		" finished_ms, error_status, error_type, error_detail)"
		" VALUES (?, ?, ?, ?, ?, ?, 0, 0, '', '')",
		"ssiiii", op->verb, op->object, (int64_t)op->state, (int64_t)op->undoing,
		(int64_t)op->wait_s, op->created_ms);
	if (err == 0) {
		op->id = sqlite3_last_insert_rowid(store->db);
		err = write_steps(store, op);
	}
	if (err == 0)
		err = run(store, false, "DELETE FROM operations WHERE id <= ? AND state <> 0", "i",
			op->id - STORE_OPERATIONS_KEPT);
	return end(store, err);
}

int store_operation_update(struct store *store, const struct operation *op)
{
	int err = store_begin(store);
	if (err != 0)
		return err;
	err = run(store, true,
		"UPDATE operations SET state = ?, undoing = ?, finished_ms = ?, error_status = ?,"
		" error_type = ?, error_detail = ? WHERE id = ?",
		"iiiissi", (int64_t)op->state, (int64_t)op->undoing, op->finished_ms,
		(int64_t)op->error.status, op->error.type, op->error.detail, op->id);
	if (err == 0)
		err = write_steps(store, op);
	return end(store, err);
}

static int read_operation(struct store *store, sqlite3_stmt *stmt, void *item)
{
	struct operation *op = item;
	*op = (struct operation){
		.id = sqlite3_column_int64(stmt, 0),
		.state = (enum operation_state)sqlite3_column_int(stmt, 3),
		.undoing = sqlite3_column_int(stmt, 4) != 0,
		.wait_s = col_u32(stmt, 5),
		.created_ms = sqlite3_column_int64(stmt, 6),
		.finished_ms = sqlite3_column_int64(stmt, 7),
		.error = {.status = sqlite3_column_int(stmt, 8)},
	};
	col_text(stmt, 1, op->verb, sizeof(op->verb));
	col_text(stmt, 2, op->object, sizeof(op->object));
	col_text(stmt, 9, op->error.type, sizeof(op->error.type));
	col_text(stmt, 10, op->error.detail, sizeof(op->error.detail));

	sqlite3_stmt *steps = prepare(store,
		"SELECT name, state, started_ms, took_ms, detail FROM operation_steps"
		" WHERE operation_id = ? ORDER BY position",
		"i", op->id);
	if (steps == NULL)
		return EIO;
	int err;
	while ((err = next_row(store, steps)) == 0 && op->n_steps < OPERATION_MAX_STEPS) {
		struct operation_step *step = &op->steps[op->n_steps++];
		col_text(steps, 0, step->name, sizeof(step->name));
		step->state = (enum step_state)sqlite3_column_int(steps, 1);
		step->started_ms = sqlite3_column_int64(steps, 2);
		step->took_ms = sqlite3_column_int64(steps, 3);
		col_text(steps, 4, step->detail, sizeof(step->detail));
	}
	sqlite3_finalize(steps);
	return err == ENOENT ? 0 : err;
}

int store_operation_get(struct store *store, int64_t id, struct operation *op)
{
	lock(store);
	int err = read_one(store,
		prepare(store, "SELECT " OPERATION_COLUMNS " FROM operations WHERE id = ?", "i",
			id),
		read_operation, op);
	unlock(store);
	return err;
}

int store_operation_list(
	struct store *store, int64_t before, size_t limit, struct operation **ops, size_t *n)
{
	lock(store);
	int err = read_list(store,
		prepare(store,
			"SELECT " OPERATION_COLUMNS " FROM operations WHERE ?1 = 0 OR id < ?1"
			" ORDER BY id DESC LIMIT ?2",
			"ii", before, (int64_t)limit),
		read_operation, sizeof(**ops), (void **)ops, n);
	unlock(store);
	return err;
}

static int read_id(struct store *store, sqlite3_stmt *stmt, void *item)
{
	(void)store;
	*(int64_t *)item = sqlite3_column_int64(stmt, 0);
	return 0;
}

int store_operation_unfinished(struct store *store, int64_t **ids, size_t *n)
{
	lock(store);
	int err = read_list(store,
		prepare(store, "SELECT id FROM operations WHERE state = 0 ORDER BY id", ""),
		read_id, sizeof(**ids), (void **)ids, n);
	unlock(store);
	return err;
}

int store_operation_of(struct store *store, const char *object, int64_t *id)
{
	lock(store);
	int err = read_one(store,
		prepare(store, "SELECT id FROM operations WHERE state = 0 AND object = ?", "s",
			object),
		read_id, id);
	unlock(store);
	return err;
}

/* ---- events ------------------------------------------------------------------------------- */

int store_event_add(struct store *store, const char *severity, const char *object, const char *text)
{
	lock(store);
	int err = run(store, true,
		"INSERT INTO events (time_ms, severity, object, text) VALUES (?, ?, ?, ?)", "isss",
		now_ms(), severity, object, text);
	if (err == 0)
		err = run(store, false, "DELETE FROM events WHERE id <= ?", "i",
			sqlite3_last_insert_rowid(store->db) - STORE_EVENTS_KEPT);
	unlock(store);
	return err;
}

static int read_event(struct store *store, sqlite3_stmt *stmt, void *item)
{
	(void)store;
	struct event *event = item;
	event->id = sqlite3_column_int64(stmt, 0);
	event->time_ms = sqlite3_column_int64(stmt, 1);
	col_text(stmt, 2, event->severity, sizeof(event->severity));
	col_text(stmt, 3, event->object, sizeof(event->object));
	col_text(stmt, 4, event->text, sizeof(event->text));
	return 0;
}

int store_event_list(
	struct store *store, int64_t after, size_t limit, struct event **events, size_t *n)
{
	lock(store);
	int err = read_list(store,
		prepare(store,
			"SELECT id, time_ms, severity, object, text FROM events WHERE id > ?"
			" ORDER BY id LIMIT ?",
			"ii", after, (int64_t)limit),
		read_event, sizeof(**events), (void **)events, n);
	unlock(store);
	return err;
}

int store_event_newest(struct store *store, int64_t after, int64_t before, size_t limit,
	struct event **events, size_t *n)
{
	lock(store);
	int err = read_list(store,
		prepare(store,
			"SELECT id, time_ms, severity, object, text FROM events"
			" WHERE id > ? AND id < ? ORDER BY id DESC LIMIT ?",
			"iii", after, before > 0 ? before : INT64_MAX, (int64_t)limit),
		read_event, sizeof(**events), (void **)events, n);
	unlock(store);
	return err;
}
