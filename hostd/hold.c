/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "hostd/hold.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/log.h"

/*
 * QEMU reads a monitor byte by byte, so names are short. The one letter and the NIC's number
 * follow. A buffer lets go by itself after INTERVAL_US at the latest, the longest that QEMU takes:
 * should hostd and its guard both be killed, the VM isn't mute for ever.
 */
#define PREFIX "edgeplex-"
#define GATE 'g'
#define HOLD 'h'
#define INTERVAL_US 4294967295.0

struct hold {
	struct qmp *qmp;
	bool really;
	size_t n;
};

static char *name_of(char which, size_t nic, char name[32])
{
	snprintf(name, 32, PREFIX "%c%zu", which, nic);
	return name;
}

static struct qmp_call set_call(char which, size_t nic, bool on)
{
	cJSON *arguments = cJSON_CreateObject();
	char name[32], path[64];

	snprintf(path, sizeof(path), "/objects/%s", name_of(which, nic, name));
	cJSON_AddStringToObject(arguments, "path", path);
	cJSON_AddStringToObject(arguments, "property", "status");
	cJSON_AddStringToObject(arguments, "value", on ? "on" : "off");
	return (struct qmp_call){"qom-set", arguments};
}

static struct qmp_call remove_call(const char *name)
{
	cJSON *arguments = cJSON_CreateObject();

	cJSON_AddStringToObject(arguments, "id", name);
	return (struct qmp_call){"object-del", arguments};
}

/* Of a NIC, or of anything else: then there is none. The caller's. */
static char *netdev_of(struct qmp *qmp, const char *device, int timeout_ms)
{
	cJSON *arguments = cJSON_CreateObject(), *result = NULL;
	char *netdev = NULL;

	cJSON_AddStringToObject(arguments, "path", device);
	cJSON_AddStringToObject(arguments, "property", "netdev");
	if (qmp_command(qmp, "qom-get", arguments, timeout_ms, &result) == 0 &&
		cJSON_IsString(result) && result->valuestring[0] != '\0')
		netdev = strdup(result->valuestring);
	cJSON_Delete(result);
	return netdev;
}

static int list_children(struct qmp *qmp, const char *path, int timeout_ms, cJSON **list)
{
	cJSON *arguments = cJSON_CreateObject();

	cJSON_AddStringToObject(arguments, "path", path);
	return qmp_command(qmp, "qom-list", arguments, timeout_ms, list);
}

/* `hold` first: frames meet the object that was made last before the others. */
static int make_buffers(struct hold *hold, const char *netdev, int timeout_ms)
{
	const char which[2] = {HOLD, GATE};
	struct qmp_call calls[2];
	char name[32];

	for (int i = 0; i < 2; i++) {
		cJSON *arguments = cJSON_CreateObject();

		cJSON_AddStringToObject(arguments, "qom-type", "filter-buffer");
		cJSON_AddStringToObject(arguments, "id", name_of(which[i], hold->n, name));
		cJSON_AddStringToObject(arguments, "netdev", netdev);
		cJSON_AddStringToObject(arguments, "queue", "rx");
		cJSON_AddStringToObject(arguments, "status", "off");
		cJSON_AddNumberToObject(arguments, "interval", INTERVAL_US);
		calls[i] = (struct qmp_call){"object-add", arguments};
	}
	return qmp_batch(hold->qmp, calls, 2, timeout_ms);
}

static int add_nics(struct hold *hold, const char *container, int timeout_ms)
{
	const cJSON *item;
	cJSON *list = NULL;
	int error = list_children(hold->qmp, container, timeout_ms, &list);

	cJSON_ArrayForEach (item, list) {
		const char *name =
			cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(item, "name"));
		char path[256], *netdev;

		if (error != 0 || name == NULL || strcmp(name, "type") == 0)
			continue;
		snprintf(path, sizeof(path), "%s/%.200s", container, name);
		netdev = netdev_of(hold->qmp, path, timeout_ms);
		if (netdev == NULL)
			continue;
		error = hold->n < HOLD_MAX_NICS ? make_buffers(hold, netdev, timeout_ms) : ENOSPC;
		free(netdev);
		hold->n += error == 0;
	}
	cJSON_Delete(list);
	return error;
}

int hold_create(struct qmp *qmp, bool really, int timeout_ms, struct hold **out)
{
	struct hold *hold = calloc(1, sizeof(*hold));
	int error;

	if (hold == NULL)
		return ENOMEM;
	hold->qmp = qmp;
	hold->really = really;
	error = hold_recover(qmp, timeout_ms);
	if (error == 0 && really)
		error = add_nics(hold, "/machine/peripheral", timeout_ms);
	if (error == 0 && really)
		error = add_nics(hold, "/machine/peripheral-anon", timeout_ms);
	if (error != 0) {
		hold_recover(qmp, timeout_ms);
		free(hold);
		return error;
	}
	*out = hold;
	return 0;
}

void hold_destroy(struct hold *hold)
{
	free(hold);
}

size_t hold_n_nics(const struct hold *hold)
{
	return hold->n;
}

static int run(struct hold *hold, const struct qmp_call *calls, size_t n, int timeout_ms)
{
	return n > 0 ? qmp_batch(hold->qmp, calls, n, timeout_ms) : 0;
}

int hold_begin(struct hold *hold, int timeout_ms)
{
	struct qmp_call calls[HOLD_MAX_NICS];

	for (size_t i = 0; i < hold->n; i++)
		calls[i] = set_call(HOLD, i, true);
	return run(hold, calls, hold->n, timeout_ms);
}

size_t hold_cut(struct hold *hold, struct qmp_call *calls)
{
	for (size_t i = 0; i < hold->n; i++)
		calls[i] = set_call(GATE, i, true);
	return hold->n;
}

int hold_release(struct hold *hold, int timeout_ms)
{
	struct qmp_call calls[3 * HOLD_MAX_NICS];
	size_t n = 0;

	static_assert(3 * HOLD_MAX_NICS <= QMP_MAX_BATCH, "they fit");
	/* First what others wait for. */
	for (size_t i = 0; i < hold->n; i++)
		calls[n++] = set_call(HOLD, i, false);
	for (size_t i = 0; i < hold->n; i++) {
		calls[n++] = set_call(HOLD, i, true);
		calls[n++] = set_call(GATE, i, false);
	}
	return run(hold, calls, n, timeout_ms);
}

int hold_join(struct hold *hold, int timeout_ms)
{
	struct qmp_call calls[HOLD_MAX_NICS];

	for (size_t i = 0; i < hold->n; i++)
		calls[i] = set_call(GATE, i, false);
	return run(hold, calls, hold->n, timeout_ms);
}

int hold_end(struct hold *hold, int timeout_ms)
{
	return hold->really ? hold_recover(hold->qmp, timeout_ms) : 0;
}

/* Opens and removes the buffers of one kind that are in `list`. */
static int remove_kind(struct qmp *qmp, const cJSON *list, char which, int timeout_ms)
{
	char begin[32], path[64];
	const cJSON *item;
	int error = 0;

	snprintf(begin, sizeof(begin), PREFIX "%c", which);
	cJSON_ArrayForEach (item, list) {
		const char *name =
			cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(item, "name"));
		struct qmp_call calls[2];
		cJSON *arguments;
		int one;

		if (name == NULL || strncmp(name, begin, strlen(begin)) != 0)
			continue;
		snprintf(path, sizeof(path), "/objects/%.40s", name);
		arguments = cJSON_CreateObject();
		cJSON_AddStringToObject(arguments, "path", path);
		cJSON_AddStringToObject(arguments, "property", "status");
		cJSON_AddStringToObject(arguments, "value", "off");
		calls[0] = (struct qmp_call){"qom-set", arguments};
		calls[1] = remove_call(name);
		one = qmp_batch(qmp, calls, 2, timeout_ms);
		if (one != 0)
			error = one;
	}
	return error;
}

int hold_recover(struct qmp *qmp, int timeout_ms)
{
	cJSON *list = NULL;
	int error = list_children(qmp, "/objects", timeout_ms, &list), later = 0;

	if (error == 0) {
		/* The older frames first. */
		error = remove_kind(qmp, list, HOLD, timeout_ms);
		later = remove_kind(qmp, list, GATE, timeout_ms);
	}
	cJSON_Delete(list);
	if (error == 0)
		error = later;
	if (error != 0)
		log_error("QEMU may still hold the VM's output: %s", qmp_why(qmp));
	return error;
}
