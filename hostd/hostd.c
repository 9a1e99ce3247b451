/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * edgeplex-hostd: the agent on each server that copies VMs' memory and device state to other
 * servers. Operators don't speak to it; the controller does, by JSON-RPC on its socket
 * (docs/protocols.md, "edgeplex-hostd").
 *
 * Threads: the main one accepts; each client of the socket has one (control.h); each copy has one
 * (source.h, standby.h). The lock below guards the tables; whoever uses a copy holds a reference to
 * its entry.
 */

#include <assert.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "common/jsonrpc.h"
#include "common/log.h"
#include "hostd/control.h"
#include "hostd/freeze.h"
#include "hostd/guardian.h"
#include "hostd/qmp.h"
#include "hostd/source.h"
#include "hostd/standby.h"

#define VERSION "0.1.0"
#define MAX_GREETINGS 64 /* other hostds in the middle of a handshake */
#define MAX_COPIES 256
#define HANDSHAKE_MS 5000
#define LOCK_WAIT_MS 15000
#define DEFAULT_SILENCE_MS 3000
#define DEFAULT_FREEZE_MS 30000
#define DEFAULT_INTERVAL_MS 100
#define DEFAULT_TIMEOUT_MS 1000
#define DEFAULT_STAGING_MB 512

enum side { SOURCE, STANDBY, GUARDIAN, N_SIDES };

struct copy { /* one side of it */
	struct copy *next;
	uint8_t uuid[16];
	enum side side;
	struct source *source; /* one of these three */
	struct standby *standby;
	struct guardian *guardian;
	unsigned users; /* the table is one */
};

struct hostd {
	const char *run_dir;
	uint64_t staging_limit;
	struct link_keys *keys;
	const char *listen; /* for other hostds */
	int listen_fd;
	struct control *control;
	pthread_mutex_t lock;
	pthread_cond_t left; /* a thread of ours has ended */
	unsigned n_greeting; /* threads */
	/* Who greeted last, to be joined by who does next: no thread outlives end_all(). */
	pthread_t last;
	bool has_last;
	struct copy *copies;
	unsigned n_copies;
};

/* Tells all clients. Takes `status`. */
static void announce(void *ctx, cJSON *status)
{
	struct hostd *hostd = ctx;

	control_notify(hostd->control, "hostd.changed", status);
	cJSON_Delete(status);
}

/* ---- the table of copies ----------------------------------------------------------------- */

static struct copy **find_locked(struct hostd *hostd, const uint8_t uuid[16], enum side side)
{
	struct copy **link = &hostd->copies;

	while (*link != NULL && (memcmp((*link)->uuid, uuid, 16) != 0 || (*link)->side != side))
		link = &(*link)->next;
	return link;
}

static struct copy *use_copy(struct hostd *hostd, const uint8_t uuid[16], enum side side)
{
	struct copy *copy;

	pthread_mutex_lock(&hostd->lock);
	copy = *find_locked(hostd, uuid, side);
	if (copy != NULL)
		copy->users++;
	pthread_mutex_unlock(&hostd->lock);
	return copy;
}

static void leave_copy(struct hostd *hostd, struct copy *copy, bool remove)
{
	bool last;

	pthread_mutex_lock(&hostd->lock);
	last = --copy->users == 0;
	pthread_mutex_unlock(&hostd->lock);
	if (!last)
		return;
	source_destroy(copy->source, remove);
	standby_destroy(copy->standby, remove);
	guardian_destroy(copy->guardian);
	free(copy);
}

/* Takes a copy out of the table, if `copy` is still in it. */
static void drop_copy(struct hostd *hostd, struct copy *copy, bool remove)
{
	struct copy **link = &hostd->copies;
	bool found;

	pthread_mutex_lock(&hostd->lock);
	while (*link != NULL && *link != copy)
		link = &(*link)->next;
	found = *link != NULL;
	if (found) {
		*link = copy->next;
		hostd->n_copies--;
	}
	pthread_mutex_unlock(&hostd->lock);
	if (found)
		leave_copy(hostd, copy, remove);
}

/* Adds a copy. Returns 0, or EEXIST, ENOSPC or ENOMEM; then nothing was taken. */
static int add_copy(struct hostd *hostd, const uint8_t uuid[16], enum side side, void *object)
{
	struct copy *copy = calloc(1, sizeof(*copy));
	int error = copy == NULL ? ENOMEM : 0;

	pthread_mutex_lock(&hostd->lock);
	if (error == 0 && *find_locked(hostd, uuid, side) != NULL)
		error = EEXIST;
	if (error == 0 && hostd->n_copies >= MAX_COPIES)
		error = ENOSPC;
	if (error == 0) {
		memcpy(copy->uuid, uuid, 16);
		copy->side = side;
		if (side == SOURCE)
			copy->source = object;
		else if (side == STANDBY)
			copy->standby = object;
		else
			copy->guardian = object;
		copy->users = 1;
		copy->next = hostd->copies;
		hostd->copies = copy;
		hostd->n_copies++;
	}
	pthread_mutex_unlock(&hostd->lock);
	if (error != 0)
		free(copy);
	return error;
}

/* ---- methods ----------------------------------------------------------------------------- */

static const char *get_text(const cJSON *params, const char *name, struct jsonrpc_error *err)
{
	const char *text = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(params, name));
	char field[64];

	if (text != NULL && text[0] != '\0')
		return text;
	snprintf(field, sizeof(field), "/%s", name);
	jsonrpc_fail(err, JSONRPC_INVALID_PARAMS, field, "must be a text");
	return NULL;
}

/* An absolute path that a socket address or a log line can hold. */
static const char *get_path(const cJSON *params, const char *name, struct jsonrpc_error *err)
{
	const char *text = get_text(params, name, err);
	char field[64];

	if (text == NULL || (text[0] == '/' && strlen(text) < 1024))
		return text;
	snprintf(field, sizeof(field), "/%s", name);
	jsonrpc_fail(err, JSONRPC_INVALID_PARAMS, field, "must be an absolute path");
	return NULL;
}

/* The same; NULL when it isn't given. */
static int get_optional_path(
	const cJSON *params, const char *name, const char **path, struct jsonrpc_error *err)
{
	*path = NULL;
	if (cJSON_GetObjectItemCaseSensitive(params, name) == NULL)
		return 0;
	*path = get_path(params, name, err);
	return *path != NULL ? 0 : -1;
}

static int get_uuid(const cJSON *params, uint8_t uuid[16], struct jsonrpc_error *err)
{
	const char *text = get_text(params, "uuid", err);

	if (text == NULL)
		return -1;
	if (frame_parse_uuid(text, uuid) != 0)
		return jsonrpc_fail(err, JSONRPC_INVALID_PARAMS, "/uuid",
			"must be a UUID like 01234567-89ab-cdef-0123-456789abcdef");
	return 0;
}

static int get_number(const cJSON *params, const char *name, int low, int high, int otherwise,
	int *value, struct jsonrpc_error *err)
{
	const cJSON *item = cJSON_GetObjectItemCaseSensitive(params, name);
	char field[64];

	*value = otherwise;
	if (item == NULL)
		return 0;
	if (cJSON_IsNumber(item) && item->valuedouble >= low && item->valuedouble <= high) {
		*value = (int)item->valuedouble;
		return 0;
	}
	snprintf(field, sizeof(field), "/%s", name);
	return jsonrpc_fail(
		err, JSONRPC_INVALID_PARAMS, field, "must be a number of %d to %d", low, high);
}

static int get_ticket(const cJSON *to, uint8_t ticket[32], struct jsonrpc_error *err)
{
	const char *text = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(to, "ticket"));
	bool good =
		text != NULL && strlen(text) == 64 && strspn(text, "0123456789abcdefABCDEF") == 64;

	if (!good)
		return jsonrpc_fail(err, JSONRPC_INVALID_PARAMS, "/to/ticket",
			"must be the ticket that receive.prepare gave");
	for (int i = 0; i < 32; i++) {
		char digits[3] = {text[2 * i], text[2 * i + 1], '\0'};

		ticket[i] = (uint8_t)strtoul(digits, NULL, 16);
	}
	return 0;
}

static int no_room(struct jsonrpc_error *err, int error)
{
	return jsonrpc_fail(err, error == EEXIST ? JSONRPC_CONFLICT : JSONRPC_INTERNAL_ERROR, "",
		"%s",
		error == EEXIST ? "another call began the same just now"
				: "too many copies; move.finish or move.abort old ones");
}

static int receive_prepare(
	struct hostd *hostd, const cJSON *params, cJSON **result, struct jsonrpc_error *err)
{
	struct standby_config config = {
		.qmp_path = get_path(params, "qmp_path", err),
		.run_dir = hostd->run_dir,
		.limit = hostd->staging_limit,
		.changed = announce,
		.ctx = hostd,
	};
	struct standby *standby;
	struct copy *old;
	int error;

	if (config.qmp_path == NULL ||
		get_number(params, "silence_ms", 50, 60000, 0, &config.silence_ms, err) != 0 ||
		get_optional_path(params, "ram_path", &config.ram_path, err) != 0 ||
		get_uuid(params, config.uuid, err) != 0)
		return -1;
	old = use_copy(hostd, config.uuid, STANDBY);
	if (old != NULL) {
		bool ended = standby_ended(old->standby);

		/* Prepared already: the same ticket again, if it wasn't used. */
		if (!ended)
			*result = standby_status(old->standby, true);
		else
			drop_copy(hostd, old, true);
		leave_copy(hostd, old, true);
		if (!ended)
			return 0;
	}
	if (standby_prepare(&config, &standby, err) != 0)
		return -1;
	*result = standby_status(standby, true);
	error = add_copy(hostd, config.uuid, STANDBY, standby);
	if (error != 0) {
		cJSON_Delete(*result);
		*result = NULL;
		standby_destroy(standby, true);
		return no_room(err, error);
	}
	return 0;
}

/* Who asks for a side that begins: nothing else of ours may be at work on the VM. */
static int check_free(
	struct hostd *hostd, const uint8_t uuid[16], enum side other, struct jsonrpc_error *err)
{
	struct copy *copy = use_copy(hostd, uuid, other);
	bool busy;

	if (copy == NULL)
		return 0;
	busy = other == SOURCE ? !source_ended(copy->source) : !guardian_ended(copy->guardian);
	if (!busy)
		drop_copy(hostd, copy, true); /* it has the monitor */
	leave_copy(hostd, copy, true);
	if (!busy)
		return 0;
	return jsonrpc_fail(err, JSONRPC_CONFLICT, "/uuid",
		other == SOURCE ? "this VM is being moved; wait, or move.abort"
				: "this VM is protected; protect.stop first");
}

static int move_start(
	struct hostd *hostd, const cJSON *params, cJSON **result, struct jsonrpc_error *err)
{
	const cJSON *to = cJSON_GetObjectItemCaseSensitive(params, "to");
	const char *engine =
		cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(params, "engine"));
	struct source_config config = {
		.qmp_path = get_path(params, "qmp_path", err),
		.address = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(to, "address")),
		.run_dir = hostd->run_dir,
		.keys = hostd->keys,
		.changed = announce,
		.ctx = hostd,
	};
	struct source *source;
	struct copy *old;
	int error;

	if (config.qmp_path == NULL ||
		get_optional_path(params, "ram_path", &config.ram_path, err) != 0 ||
		get_uuid(params, config.uuid, err) != 0)
		return -1;
	if (config.address == NULL)
		return jsonrpc_fail(err, JSONRPC_INVALID_PARAMS, "/to/address",
			"must be the other hostd's ADDRESS:PORT");
	if (get_ticket(to, config.ticket, err) != 0 ||
		get_number(params, "silence_ms", 100, 60000, DEFAULT_SILENCE_MS, &config.silence_ms,
			err) != 0)
		return -1;
	if (dirty_engine_parse(engine != NULL ? engine : "auto", &config.engine) != 0)
		return jsonrpc_fail(err, JSONRPC_INVALID_PARAMS, "/engine",
			"must be \"auto\", \"pagemap\" or \"compare\"");
	old = use_copy(hostd, config.uuid, SOURCE);
	if (old != NULL) {
		bool ended = source_ended(old->source);

		if (!ended)
			*result = source_status(old->source);
		else
			drop_copy(hostd, old, true);
		leave_copy(hostd, old, true);
		if (!ended)
			return 0;
	}
	if (check_free(hostd, config.uuid, GUARDIAN, err) != 0)
		return -1;
	if (source_start(&config, &source, err) != 0)
		return -1;
	*result = source_status(source);
	error = add_copy(hostd, config.uuid, SOURCE, source);
	if (error != 0) {
		cJSON_Delete(*result);
		*result = NULL;
		source_destroy(source, true);
		return no_room(err, error);
	}
	return 0;
}

static int no_copy(struct jsonrpc_error *err, const char *what)
{
	return jsonrpc_fail(err, JSONRPC_NOT_FOUND, "/uuid", "%s of this VM here", what);
}

/* move.freeze, move.resume_source: on the source. */
static int at_source(struct hostd *hostd, const char *method, const cJSON *params, cJSON **result,
	struct jsonrpc_error *err)
{
	struct copy *copy;
	uint8_t uuid[16];
	int status, timeout;

	if (get_uuid(params, uuid, err) != 0 || get_number(params, "timeout_ms", 100, 600000,
							DEFAULT_FREEZE_MS, &timeout, err) != 0)
		return -1;
	copy = use_copy(hostd, uuid, SOURCE);
	if (copy == NULL)
		return no_copy(err, "no move");
	if (strcmp(method, "move.freeze") == 0)
		status = source_freeze(copy->source,
			cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(params, "fenced")), timeout,
			err);
	else
		status = source_resume(copy->source, err);
	if (status == 0)
		*result = source_status(copy->source);
	leave_copy(hostd, copy, true);
	return status;
}

static int move_activate(
	struct hostd *hostd, const cJSON *params, cJSON **result, struct jsonrpc_error *err)
{
	bool fenced = cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(params, "fenced"));
	struct copy *copy;
	uint8_t uuid[16];
	int status;

	if (get_uuid(params, uuid, err) != 0)
		return -1;
	copy = use_copy(hostd, uuid, STANDBY);
	if (copy == NULL)
		return no_copy(err, "no copy");
	status = standby_activate(copy->standby, fenced, err);
	if (status == 0)
		*result = standby_status(copy->standby, false);
	leave_copy(hostd, copy, true);
	return status;
}

/* Which sides of a move are meant: both, if none is named. */
static int get_role(const cJSON *params, bool *source, bool *destination, struct jsonrpc_error *err)
{
	const cJSON *item = cJSON_GetObjectItemCaseSensitive(params, "role");
	const char *role = cJSON_GetStringValue(item);

	*source = item == NULL || (role != NULL && strcmp(role, "source") == 0);
	*destination = item == NULL || (role != NULL && strcmp(role, "destination") == 0);
	if (*source || *destination)
		return 0;
	return jsonrpc_fail(
		err, JSONRPC_INVALID_PARAMS, "/role", "must be \"source\" or \"destination\"");
}

/*
 * move.abort, move.finish: on either side; on both, if this hostd is both. A VM's server may be the
 * destination of a move that is over and the source of the next: `role` tells them apart.
 */
static int end_move(struct hostd *hostd, const char *method, const cJSON *params, cJSON **result,
	struct jsonrpc_error *err)
{
	bool abort = strcmp(method, "move.abort") == 0, meant[2];
	uint8_t uuid[16];
	int status = 0;

	if (get_uuid(params, uuid, err) != 0 || get_role(params, &meant[1], &meant[0], err) != 0)
		return -1;
	for (enum side side = SOURCE; side <= STANDBY && status == 0; side++) {
		struct copy *copy = meant[side == SOURCE] ? use_copy(hostd, uuid, side) : NULL;

		if (copy == NULL)
			continue;
		if (abort)
			status = side == SOURCE ? source_abort(copy->source, err)
						: standby_abort(copy->standby, err);
		if (status == 0)
			drop_copy(hostd, copy, true);
		leave_copy(hostd, copy, true);
	}
	if (status == 0)
		*result = cJSON_CreateObject();
	return status;
}

/* A guardian that still protects: its status. Returns false when a new one is to be made. */
static bool guarded_already(struct hostd *hostd, const uint8_t uuid[16], cJSON **result)
{
	struct copy *old = use_copy(hostd, uuid, GUARDIAN);
	bool ended;

	if (old == NULL)
		return false;
	ended = guardian_ended(old->guardian);
	if (!ended)
		*result = guardian_status(old->guardian);
	else
		drop_copy(hostd, old, true);
	leave_copy(hostd, old, true);
	return !ended;
}

static int protect_start(
	struct hostd *hostd, const cJSON *params, cJSON **result, struct jsonrpc_error *err)
{
	const cJSON *to = cJSON_GetObjectItemCaseSensitive(params, "to");
	const cJSON *engine = cJSON_GetObjectItemCaseSensitive(params, "engine");
	const cJSON *hold = cJSON_GetObjectItemCaseSensitive(params, "hold_output");
	struct guardian_config config = {
		.qmp_path = get_path(params, "qmp_path", err),
		.engine = DIRTY_AUTO,
		.hold_output = hold == NULL || cJSON_IsTrue(hold),
		.run_dir = hostd->run_dir,
		.keys = hostd->keys,
		.changed = announce,
		.ctx = hostd,
	};
	struct guardian *guardian;
	int error;

	if (config.qmp_path == NULL ||
		get_optional_path(params, "ram_path", &config.ram_path, err) != 0 ||
		get_uuid(params, config.uuid, err) != 0 ||
		get_number(params, "interval_ms", 10, 10000, DEFAULT_INTERVAL_MS,
			&config.interval_ms, err) != 0 ||
		get_number(params, "timeout_ms", 100, 10000, DEFAULT_TIMEOUT_MS, &config.timeout_ms,
			err) != 0 ||
		get_ticket(to, config.ticket, err) != 0)
		return -1;
	config.address = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(to, "address"));
	if (config.address == NULL)
		return jsonrpc_fail(
			err, JSONRPC_INVALID_PARAMS, "/to/address", "must be an ADDRESS:PORT");
	if (hold != NULL && !cJSON_IsBool(hold))
		return jsonrpc_fail(
			err, JSONRPC_INVALID_PARAMS, "/hold_output", "must be true or false");
	if (engine != NULL && (!cJSON_IsString(engine) ||
				      dirty_engine_parse(engine->valuestring, &config.engine) != 0))
		return jsonrpc_fail(err, JSONRPC_INVALID_PARAMS, "/engine",
			"must be \"auto\", \"pagemap\" or \"compare\"");
	if (guarded_already(hostd, config.uuid, result))
		return 0;
	if (check_free(hostd, config.uuid, SOURCE, err) != 0 ||
		guardian_start(&config, &guardian, err) != 0)
		return -1;
	*result = guardian_status(guardian);
	error = add_copy(hostd, config.uuid, GUARDIAN, guardian);
	if (error != 0) {
		cJSON_Delete(*result);
		*result = NULL;
		guardian_destroy(guardian);
		return no_room(err, error);
	}
	return 0;
}

/* protect.set, protect.stop, protect.status */
static int at_guardian(struct hostd *hostd, const char *what, const cJSON *params, cJSON **result,
	struct jsonrpc_error *err)
{
	struct copy *copy;
	uint8_t uuid[16];
	int status = 0, interval = 0;

	if (get_uuid(params, uuid, err) != 0 ||
		get_number(params, "interval_ms", 10, 10000, 0, &interval, err) != 0)
		return -1;
	if (strcmp(what, "set") == 0 && interval == 0)
		return jsonrpc_fail(err, JSONRPC_INVALID_PARAMS, "/interval_ms",
			"must be a number of 10 to 10000");
	copy = use_copy(hostd, uuid, GUARDIAN);
	if (copy == NULL)
		return no_copy(err, "no protection");
	if (strcmp(what, "set") == 0)
		guardian_set_interval(copy->guardian, interval);
	else if (strcmp(what, "stop") == 0)
		status = guardian_stop(copy->guardian, err);
	if (status == 0)
		*result = guardian_status(copy->guardian);
	if (status == 0 && strcmp(what, "stop") == 0)
		drop_copy(hostd, copy, true);
	leave_copy(hostd, copy, true);
	return status;
}

/* standby.activate */
static int take_over(
	struct hostd *hostd, const cJSON *params, cJSON **result, struct jsonrpc_error *err)
{
	struct copy *copy;
	uint8_t uuid[16];
	int status;

	if (get_uuid(params, uuid, err) != 0)
		return -1;
	if (!cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(params, "fenced")))
		return jsonrpc_fail(err, JSONRPC_INVALID_PARAMS, "/fenced",
			"must be true: fence the primary at the switch first");
	copy = use_copy(hostd, uuid, STANDBY);
	if (copy == NULL)
		return no_copy(err, "no standby");
	status = standby_take_over(copy->standby, err);
	if (status == 0)
		*result = standby_status(copy->standby, false);
	leave_copy(hostd, copy, true);
	return status;
}

static cJSON *copy_status(const struct copy *copy)
{
	switch (copy->side) {
	case SOURCE:
		return source_status(copy->source);
	case STANDBY:
		return standby_status(copy->standby, false);
	default:
		return guardian_status(copy->guardian);
	}
}

static int move_status(
	struct hostd *hostd, const cJSON *params, cJSON **result, struct jsonrpc_error *err)
{
	cJSON *list = cJSON_CreateArray();
	uint8_t uuid[16];

	if (get_uuid(params, uuid, err) != 0) {
		cJSON_Delete(list);
		return -1;
	}
	for (enum side side = SOURCE; side < N_SIDES; side++) {
		struct copy *copy = use_copy(hostd, uuid, side);

		if (copy == NULL)
			continue;
		if (side == SOURCE)
			source_touch(copy->source);
		cJSON_AddItemToArray(list, copy_status(copy));
		leave_copy(hostd, copy, true);
	}
	if (cJSON_GetArraySize(list) == 0) {
		cJSON_Delete(list);
		return no_copy(err, "no move");
	}
	*result = cJSON_CreateObject();
	cJSON_AddItemToObject(*result, "copies", list);
	return 0;
}

static int hostd_info(struct hostd *hostd, cJSON **result)
{
	cJSON *info = cJSON_CreateObject(), *list;

	cJSON_AddStringToObject(info, "version", VERSION);
	cJSON_AddNumberToObject(info, "protocol", FRAME_VERSION);
	cJSON_AddStringToObject(info, "listen", hostd->listen);
	cJSON_AddNumberToObject(info, "staging_limit_bytes", (double)hostd->staging_limit);
	list = cJSON_AddArrayToObject(info, "copies");
	pthread_mutex_lock(&hostd->lock);
	for (const struct copy *copy = hostd->copies; copy != NULL; copy = copy->next)
		cJSON_AddItemToArray(list, copy_status(copy));
	pthread_mutex_unlock(&hostd->lock);
	*result = info;
	return 0;
}

/* Is somebody there who serves this monitor socket? A QEMU that was killed leaves only its file. */
static bool is_served(const char *path)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	bool served = true;

	snprintf(address.sun_path, sizeof(address.sun_path), "%s", path);
	if (fd >= 0 && connect(fd, (struct sockaddr *)&address, sizeof(address)) != 0)
		served = errno != ECONNREFUSED && errno != ENOENT;
	if (fd >= 0)
		close(fd);
	return served;
}

/* Sets *path, NULL if it isn't said. */
static int get_monitor(const cJSON *params, const char **path, struct jsonrpc_error *err)
{
	*path = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(params, "qmp_path"));
	if (*path != NULL &&
		((*path)[0] != '/' || strlen(*path) >= sizeof(((struct sockaddr_un *)0)->sun_path)))
		return jsonrpc_fail(err, JSONRPC_INVALID_PARAMS, "/qmp_path",
			"must be an absolute path of a socket");
	return 0;
}

/* Takes away what a QEMU that was killed has left, if nobody will come back under its UUID. */
static int monitor_forget(const cJSON *params, cJSON **result, struct jsonrpc_error *err)
{
	const char *path;

	if (get_monitor(params, &path, err) != 0)
		return -1;
	if (path == NULL)
		return jsonrpc_fail(err, JSONRPC_INVALID_PARAMS, "/qmp_path", "is missing");
	*result = cJSON_CreateObject();
	cJSON_AddBoolToObject(*result, "removed", qmp_remove_stale(path));
	return 0;
}

static int hostd_alive(const cJSON *params, cJSON **result, struct jsonrpc_error *err)
{
	const char *path;

	if (get_monitor(params, &path, err) != 0)
		return -1;
	*result = cJSON_CreateObject();
	if (path != NULL)
		cJSON_AddBoolToObject(*result, "vm_ended", !is_served(path));
	return 0;
}

static int serve(void *ctx, const char *method, const cJSON *params, cJSON **result,
	struct jsonrpc_error *err)
{
	struct hostd *hostd = ctx;

	if (strcmp(method, "hostd.info") == 0)
		return hostd_info(hostd, result);
	if (strcmp(method, "hostd.alive") == 0)
		return hostd_alive(params, result, err);
	if (strcmp(method, "monitor.forget") == 0)
		return monitor_forget(params, result, err);
	if (strcmp(method, "receive.prepare") == 0)
		return receive_prepare(hostd, params, result, err);
	if (strcmp(method, "move.start") == 0)
		return move_start(hostd, params, result, err);
	if (strcmp(method, "move.freeze") == 0 || strcmp(method, "move.resume_source") == 0)
		return at_source(hostd, method, params, result, err);
	if (strcmp(method, "move.activate") == 0)
		return move_activate(hostd, params, result, err);
	if (strcmp(method, "move.abort") == 0 || strcmp(method, "move.finish") == 0)
		return end_move(hostd, method, params, result, err);
	if (strcmp(method, "protect.start") == 0)
		return protect_start(hostd, params, result, err);
	if (strncmp(method, "protect.", 8) == 0 &&
		(strcmp(method + 8, "set") == 0 || strcmp(method + 8, "stop") == 0 ||
			strcmp(method + 8, "status") == 0))
		return at_guardian(hostd, method + 8, params, result, err);
	if (strcmp(method, "standby.activate") == 0)
		return take_over(hostd, params, result, err);
	if (strcmp(method, "move.status") == 0)
		return move_status(hostd, params, result, err);
	return jsonrpc_fail(err, JSONRPC_METHOD_NOT_FOUND, "", "no method %.100s", method);
}

/* ---- other hostds ------------------------------------------------------------------------ */

struct greeting {
	struct hostd *hostd;
	int fd;
};

static void *greeting_main(void *ctx)
{
	struct greeting *greeting = ctx;
	struct hostd *hostd = greeting->hostd;
	char why[256] = "no such VM is awaited; call receive.prepare first";
	struct link *link = NULL;
	struct copy *copy = NULL;
	struct frame hello = {0};
	pthread_t before;
	bool join;
	int error = link_accept(hostd->keys, greeting->fd, HANDSHAKE_MS, &link, why);

	if (error != 0)
		log_warn("a hostd was refused: %s", why);
	if (error == 0)
		error = link_receive(link, &hello, HANDSHAKE_MS);
	if (error == 0 && hello.type == FRAME_HELLO) {
		copy = use_copy(hostd, hello.uuid, STANDBY);
		error = copy != NULL ? standby_attach(copy->standby, link, &hello, why) : ENOENT;
		if (error == 0)
			link = NULL;
	}
	if (link != NULL && error != 0 && hello.type == FRAME_HELLO) {
		struct frame refusal = {
			.type = FRAME_DISCARD,
			.length = (uint32_t)strlen(why),
			.payload = (const uint8_t *)why,
		};

		log_warn("a copy was refused: %s", why);
		link_send(link, &refusal, HANDSHAKE_MS);
	}
	link_close(link);
	if (copy != NULL)
		leave_copy(hostd, copy, true);
	free(greeting);
	pthread_mutex_lock(&hostd->lock);
	before = hostd->last;
	join = hostd->has_last;
	hostd->last = pthread_self();
	hostd->has_last = true;
	hostd->n_greeting--;
	pthread_cond_broadcast(&hostd->left);
	pthread_mutex_unlock(&hostd->lock);
	if (join)
		pthread_join(before, NULL);
	return NULL;
}

/* Takes `fd`. */
static void greet(struct hostd *hostd, int fd)
{
	struct greeting *greeting = calloc(1, sizeof(*greeting));
	pthread_t thread;
	bool started = false;

	pthread_mutex_lock(&hostd->lock);
	if (greeting != NULL && hostd->n_greeting < MAX_GREETINGS) {
		greeting->hostd = hostd;
		greeting->fd = fd;
		started = pthread_create(&thread, NULL, greeting_main, greeting) == 0;
		hostd->n_greeting += started;
	}
	pthread_mutex_unlock(&hostd->lock);
	if (!started) {
		free(greeting);
		close(fd);
	}
}

/* ---- main -------------------------------------------------------------------------------- */

/* Brings back what an earlier hostd held for others. */
static void reopen_standbys(struct hostd *hostd)
{
	struct dirent *entry;
	DIR *list;

	assert(hostd->run_dir != NULL);
	list = opendir(hostd->run_dir);
	while (list != NULL && (entry = readdir(list)) != NULL) {
		struct standby_config config = {
			.run_dir = hostd->run_dir,
			.limit = hostd->staging_limit,
			.changed = announce,
			.ctx = hostd,
		};
		struct standby *standby;
		char uuid[UUID_STRLEN];

		if (strlen(entry->d_name) != UUID_STRLEN - 1 + strlen(".epoch-0") ||
			strncmp(entry->d_name + UUID_STRLEN - 1, ".epoch-", 7) != 0)
			continue;
		snprintf(uuid, sizeof(uuid), "%.36s", entry->d_name);
		if (frame_parse_uuid(uuid, config.uuid) != 0 ||
			*find_locked(hostd, config.uuid, STANDBY) != NULL)
			continue;
		if (standby_reopen(&config, &standby) != 0) {
			unlinkat(dirfd(list), entry->d_name, 0); /* of no use to anybody */
			continue;
		}
		if (add_copy(hostd, config.uuid, STANDBY, standby) != 0)
			standby_destroy(standby, true);
		else
			log_info("found the copy of a VM again uuid=%s", uuid);
	}
	if (list != NULL)
		closedir(list);
}

/* Waits while the guard of a hostd that was killed puts things right. Returns 0 or errno. */
static int lock_run_dir(const char *dir)
{
	struct timespec tenth = {.tv_nsec = 100000000};
	char path[4200];
	int fd;

	if (mkdir(dir, 0700) < 0 && errno != EEXIST)
		return errno;
	snprintf(path, sizeof(path), "%.4000s/lock", dir);
	fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (fd < 0)
		return errno;
	for (int waited = 0; flock(fd, LOCK_EX | LOCK_NB) < 0; waited += 100) {
		if (errno != EWOULDBLOCK || waited >= LOCK_WAIT_MS) {
			int error = errno;

			close(fd);
			return error;
		}
		nanosleep(&tenth, NULL);
	}
	return 0; /* held as long as this process and its guard live */
}

static void run(struct hostd *hostd, int signal_fd)
{
	struct pollfd p[3] = {
		{.fd = control_fd(hostd->control), .events = POLLIN},
		{.fd = hostd->listen_fd, .events = POLLIN},
		{.fd = signal_fd, .events = POLLIN},
	};

	while (p[2].revents == 0) {
		int fd;

		freeze_pulse();
		if (poll(p, 3, FREEZE_PULSE_MS) < 0)
			continue;
		if (p[0].revents != 0)
			control_accept(hostd->control);
		while (p[1].revents != 0 &&
			(fd = accept4(hostd->listen_fd, NULL, NULL, SOCK_CLOEXEC)) >= 0)
			greet(hostd, fd);
	}
}

/* Ends all copies; sources resume. What is held for others stays, for the next hostd. */
static void end_all(struct hostd *hostd)
{
	struct copy *copy;

	/* Methods that wait for a source come back then. */
	pthread_mutex_lock(&hostd->lock);
	for (copy = hostd->copies; copy != NULL; copy = copy->next) {
		if (copy->source != NULL)
			source_quit(copy->source);
		if (copy->guardian != NULL)
			guardian_quit(copy->guardian);
	}
	pthread_mutex_unlock(&hostd->lock);
	control_stop(hostd->control);
	pthread_mutex_lock(&hostd->lock);
	while (hostd->n_greeting > 0)
		pthread_cond_wait(&hostd->left, &hostd->lock);
	pthread_mutex_unlock(&hostd->lock);
	if (hostd->has_last)
		pthread_join(hostd->last, NULL);
	while ((copy = hostd->copies) != NULL)
		drop_copy(hostd, copy, false);
}

static int usage(const char *wrong)
{
	if (wrong != NULL)
		fprintf(stderr, "edgeplex-hostd: %s\n", wrong);
	fprintf(wrong != NULL ? stderr : stdout,
		"Usage: edgeplex-hostd --socket PATH --listen ADDRESS:PORT --cert FILE --key FILE\n"
		"           --ca FILE --run-dir DIR [--staging-mb N] [--log-level LEVEL]\n"
		"\n"
		"Copies VMs' memory and device state between servers, as the controller says.\n"
		"\n"
		"  --socket PATH         the controller's socket (JSON-RPC); mode 0600\n"
		"  --listen ADDRESS:PORT for other hostds (TLS 1.3); IPv6: [ADDRESS]:PORT\n"
		"  --cert, --key FILE    this server's certificate and key (PEM)\n"
		"  --ca FILE             who signs hostds' certificates, and nothing else (PEM)\n"
		"  --run-dir DIR         for its state: on a tmpfs, not shared with another hostd\n"
		"  --staging-mb N        memory that one epoch of a VM may take (%d)\n"
		"  --log-level LEVEL     error, warn, info or debug\n",
		DEFAULT_STAGING_MB);
	return wrong != NULL ? 2 : 0;
}

struct options {
	const char *socket, *listen, *cert, *key, *ca, *run_dir, *staging_mb, *log_level;
	bool help;
};

static int parse_options(int argc, char **argv, struct options *o)
{
	static const struct option names[] = {
		{"socket", required_argument, NULL, 's'},
		{"listen", required_argument, NULL, 'l'},
		{"cert", required_argument, NULL, 'c'},
		{"key", required_argument, NULL, 'k'},
		{"ca", required_argument, NULL, 'a'},
		{"run-dir", required_argument, NULL, 'r'},
		{"staging-mb", required_argument, NULL, 'm'},
		{"log-level", required_argument, NULL, 'v'},
		{"help", no_argument, NULL, 'h'},
		{NULL, 0, NULL, 0},
	};
	int c;

	while ((c = getopt_long(argc, argv, "", names, NULL)) != -1) {
		const char **to = c == 's'   ? &o->socket
				  : c == 'l' ? &o->listen
				  : c == 'c' ? &o->cert
				  : c == 'k' ? &o->key
				  : c == 'a' ? &o->ca
				  : c == 'r' ? &o->run_dir
				  : c == 'm' ? &o->staging_mb
				  : c == 'v' ? &o->log_level
					     : NULL;

		if (c == 'h')
			o->help = true;
		else if (to == NULL)
			return -1;
		else
			*to = optarg;
	}
	return optind == argc ? 0 : -1;
}

static int signals(void)
{
	sigset_t set;

	signal(SIGPIPE, SIG_IGN);
	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	/* Before there are threads: they inherit it. */
	pthread_sigmask(SIG_BLOCK, &set, NULL);
	return signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
}

int main(int argc, char **argv)
{
	static struct hostd hostd = {
		.lock = PTHREAD_MUTEX_INITIALIZER, .left = PTHREAD_COND_INITIALIZER};
	struct options o = {.staging_mb = NULL};
	enum log_level level = LOG_LEVEL_INFO;
	unsigned long megabytes = DEFAULT_STAGING_MB;
	char why[256], *end = NULL;
	int error, signal_fd;

	if (parse_options(argc, argv, &o) != 0)
		return usage("unknown or incomplete option");
	if (o.help)
		return usage(NULL);
	if (o.socket == NULL || o.listen == NULL || o.cert == NULL || o.key == NULL ||
		o.ca == NULL || o.run_dir == NULL)
		return usage("an option is missing");
	if (o.log_level != NULL && log_level_parse(o.log_level, &level) != 0)
		return usage("--log-level is error, warn, info or debug");
	if (o.staging_mb != NULL)
		megabytes = strtoul(o.staging_mb, &end, 10);
	if (megabytes < 1 || megabytes > 1u << 20 || (end != NULL && *end != '\0'))
		return usage("--staging-mb is a number of 1 to 1048576");
	log_init("edgeplex-hostd");
	log_set_level(level);
	hostd.run_dir = o.run_dir;
	hostd.listen = o.listen;
	hostd.staging_limit = (uint64_t)megabytes << 20;
	if (link_keys_load(o.cert, o.key, o.ca, &hostd.keys, why) != 0) {
		log_error("can't use the certificates: %s", why);
		return 1;
	}
	error = lock_run_dir(o.run_dir);
	if (error != 0) {
		log_error("run directory: %s; is another hostd using it? dir=%s", strerror(error),
			o.run_dir);
		return 1;
	}
	freeze_recover(o.run_dir);
	signal_fd = signals();
	error = freeze_start_guard(o.run_dir);
	hostd.control = control_create(serve, &hostd);
	if (error != 0 || signal_fd < 0 || hostd.control == NULL) {
		log_error("resources ran out: %s", strerror(error != 0 ? error : errno));
		return 1;
	}
	reopen_standbys(&hostd);
	hostd.listen_fd = link_listen(o.listen, why);
	if (hostd.listen_fd < 0) {
		log_error("can't listen for other hostds: %s", why);
		return 1;
	}
	error = control_listen(hostd.control, o.socket);
	if (error != 0) {
		log_error(
			"can't listen for the controller: %s socket=%s", strerror(error), o.socket);
		return 1;
	}
	log_info("ready socket=%s listen=%s", o.socket, o.listen);
	run(&hostd, signal_fd);
	freeze_rest(); /* ending takes as long as it takes */
	end_all(&hostd);
	control_destroy(hostd.control);
	link_keys_free(hostd.keys);
	log_info("ended");
	return 0;
}
