/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "hostd/qmp.h"

#include <assert.h>
#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "common/jsonrpc.h"

/* While waiting for QEMU to save or load: how often it is asked, unless an event comes first. */
#define ASK_EVERY_MS 1
/* The same where it tells by an event, which is enough. */
#define ASK_ANYWAY_MS 20

#define DESERTED_MS 200 /* what the end of a process may take */

struct qmp {
	int fd;
	char *path;
	pid_t pid;
	unsigned long last_id;
	unsigned long awaited;
	cJSON *answer; /* to `awaited` */
	bool greeted;
	bool event;         /* something happened since this was cleared */
	char migration[32]; /* the last event about it since it was begun; "" for none */
	/* Of a batch: the ids, how many were answered in a row, and what the first error was. */
	unsigned long batch_first;
	size_t batch_n, batch_done;
	size_t batch_failed; /* its index + 1; 0: none */
	const char *batch_commands[QMP_MAX_BATCH];
	char batch_error[200];
	bool begun; /* qmp_begin_state() was called, and `events_were_on` is known */
	bool events_were_on;
	struct jsonrpc_lines lines;
	char why[256];
};

static int64_t now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

const char *qmp_why(const struct qmp *qmp)
{
	return qmp->why;
}

pid_t qmp_pid(const struct qmp *qmp)
{
	return qmp->pid;
}

/* Returns `error`, so that a function can `return fail(...)`. */
static int fail(struct qmp *qmp, int error, const char *command, const char *text)
{
	snprintf(qmp->why, sizeof(qmp->why), "QEMU, %s: %s", command, text);
	return error;
}

static int timed_out(struct qmp *qmp, const char *command)
{
	return fail(qmp, ETIMEDOUT, command, "no answer in time; is the process stopped?");
}

static int gone(struct qmp *qmp, const char *command)
{
	return fail(qmp, ECONNRESET, command, "the monitor's connection is gone");
}

static void take_event(struct qmp *qmp, const cJSON *message)
{
	const char *name = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(message, "event"));
	const cJSON *data = cJSON_GetObjectItemCaseSensitive(message, "data");
	const char *status = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(data, "status"));

	qmp->event = true;
	if (name != NULL && status != NULL && strcmp(name, "MIGRATION") == 0)
		snprintf(qmp->migration, sizeof(qmp->migration), "%s", status);
}

/* Answers come in the order of the commands. */
static void take_batch_answer(struct qmp *qmp, const cJSON *message, double id)
{
	const cJSON *error = cJSON_GetObjectItemCaseSensitive(message, "error");
	const char *desc = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(error, "desc"));

	if (qmp->batch_done >= qmp->batch_n || id != (double)(qmp->batch_first + qmp->batch_done))
		return;
	qmp->batch_done++;
	if (error != NULL && qmp->batch_failed == 0) {
		qmp->batch_failed = qmp->batch_done;
		snprintf(qmp->batch_error, sizeof(qmp->batch_error), "%s",
			desc != NULL ? desc : "refused");
	}
}

static void take_line(void *ctx, char *text)
{
	struct qmp *qmp = ctx;
	cJSON *message = cJSON_Parse(text);
	const cJSON *id = cJSON_GetObjectItemCaseSensitive(message, "id");

	if (cJSON_HasObjectItem(message, "QMP"))
		qmp->greeted = true;
	if (cJSON_HasObjectItem(message, "event"))
		take_event(qmp, message);
	if (cJSON_IsNumber(id))
		take_batch_answer(qmp, message, id->valuedouble);
	if (cJSON_IsNumber(id) && qmp->answer == NULL && id->valuedouble == (double)qmp->awaited)
		qmp->answer = message;
	else
		cJSON_Delete(message);
}

/* Waits for something from QEMU, and reads it. Returns 0, ETIMEDOUT or ECONNRESET. */
static int read_some(struct qmp *qmp, int64_t deadline)
{
	struct pollfd p = {.fd = qmp->fd, .events = POLLIN};
	int64_t left = deadline - now_ms();
	char chunk[16384];
	ssize_t n;

	if (poll(&p, 1, left > 0 ? (int)left : 0) <= 0)
		return ETIMEDOUT;
	n = recv(qmp->fd, chunk, sizeof(chunk), MSG_DONTWAIT);
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return 0;
	if (n <= 0 || jsonrpc_lines_feed(&qmp->lines, chunk, (size_t)n, take_line, qmp) != 0)
		return ECONNRESET;
	return 0;
}

/* Sends `text`, with `fd` as ancillary data of its first byte unless -1. */
static int send_text(struct qmp *qmp, const char *text, int fd, int64_t deadline)
{
	size_t left = strlen(text);

	while (left > 0) {
		char control[CMSG_SPACE(sizeof(int))] = {0};
		struct iovec iov = {.iov_base = (void *)(uintptr_t)text, .iov_len = left};
		struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
		struct pollfd p = {.fd = qmp->fd, .events = POLLOUT};
		int64_t wait = deadline - now_ms();
		ssize_t n;

		if (fd >= 0) {
			struct cmsghdr *cmsg;

			msg.msg_control = control;
			msg.msg_controllen = sizeof(control);
			cmsg = CMSG_FIRSTHDR(&msg);
			cmsg->cmsg_level = SOL_SOCKET;
			cmsg->cmsg_type = SCM_RIGHTS;
			cmsg->cmsg_len = CMSG_LEN(sizeof(int));
			memcpy(CMSG_DATA(cmsg), &fd, sizeof(int));
		}
		n = sendmsg(qmp->fd, &msg, MSG_DONTWAIT | MSG_NOSIGNAL);
		if (n > 0) {
			text += n;
			left -= (size_t)n;
			fd = -1;
			continue;
		}
		if (n < 0 && errno != EAGAIN && errno != EINTR)
			return ECONNRESET;
		if (wait <= 0 || poll(&p, 1, (int)wait) == 0)
			return ETIMEDOUT;
	}
	return 0;
}

/* Takes `arguments`. NULL when memory ran out. */
static char *format_command(const char *command, cJSON *arguments, unsigned long id)
{
	cJSON *message = cJSON_CreateObject();
	char *text;

	cJSON_AddStringToObject(message, "execute", command);
	if (arguments != NULL)
		cJSON_AddItemToObject(message, "arguments", arguments);
	cJSON_AddNumberToObject(message, "id", (double)id);
	text = cJSON_PrintUnformatted(message);
	cJSON_Delete(message);
	return text;
}

static int command_with_fd(struct qmp *qmp, const char *command, cJSON *arguments, int fd,
	int timeout_ms, cJSON **result)
{
	int64_t deadline = now_ms() + timeout_ms;
	char *text = format_command(command, arguments, ++qmp->last_id);
	const cJSON *error;
	int status;

	if (result != NULL)
		*result = NULL;
	if (text == NULL)
		return fail(qmp, ENOMEM, command, "out of memory");
	qmp->awaited = qmp->last_id;
	cJSON_Delete(qmp->answer);
	qmp->answer = NULL;
	status = send_text(qmp, text, fd, deadline);
	free(text);
	while (status == 0 && qmp->answer == NULL)
		status = read_some(qmp, deadline);
	if (status == ETIMEDOUT)
		return timed_out(qmp, command);
	if (status != 0)
		return gone(qmp, command);
	error = cJSON_GetObjectItemCaseSensitive(qmp->answer, "error");
	if (error != NULL) {
		const char *desc =
			cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(error, "desc"));

		return fail(qmp, EREMOTEIO, command, desc != NULL ? desc : "refused");
	}
	if (result != NULL)
		*result = cJSON_DetachItemFromObjectCaseSensitive(qmp->answer, "return");
	return 0;
}

int qmp_command(
	struct qmp *qmp, const char *command, cJSON *arguments, int timeout_ms, cJSON **result)
{
	return command_with_fd(qmp, command, arguments, -1, timeout_ms, result);
}

int qmp_batch_begin(struct qmp *qmp, const struct qmp_call *calls, size_t n, int fd, int timeout_ms)
{
	int64_t deadline = now_ms() + timeout_ms;
	char *texts[QMP_MAX_BATCH] = {NULL}, *all;
	size_t length = 0;
	int status = 0;

	assert(n > 0 && n <= QMP_MAX_BATCH);
	qmp->batch_first = qmp->last_id + 1;
	qmp->batch_n = n;
	qmp->batch_done = qmp->batch_failed = 0;
	for (size_t i = 0; i < n; i++) {
		qmp->batch_commands[i] = calls[i].command;
		texts[i] = format_command(calls[i].command, calls[i].arguments, ++qmp->last_id);
		if (texts[i] == NULL)
			status = ENOMEM;
		else
			length += strlen(texts[i]);
	}
	all = malloc(length + 1);
	if (all != NULL) {
		char *end = all;

		*end = '\0';
		for (size_t i = 0; i < n && status == 0; i++)
			end = stpcpy(end, texts[i]);
	}
	for (size_t i = 0; i < n; i++)
		free(texts[i]);
	if (all == NULL || status != 0) {
		free(all);
		return fail(qmp, ENOMEM, calls[0].command, "out of memory");
	}
	status = send_text(qmp, all, fd, deadline);
	free(all);
	if (status == ETIMEDOUT)
		return timed_out(qmp, calls[0].command);
	return status != 0 ? gone(qmp, calls[0].command) : 0;
}

int qmp_batch_wait(struct qmp *qmp, size_t n, int timeout_ms)
{
	int64_t deadline = now_ms() + timeout_ms;
	int status = 0;

	assert(n <= qmp->batch_n);
	while (qmp->batch_done < n && status == 0)
		status = read_some(qmp, deadline);
	if (qmp->batch_failed > 0 && qmp->batch_failed <= n)
		return fail(qmp, EREMOTEIO, qmp->batch_commands[qmp->batch_failed - 1],
			qmp->batch_error);
	if (status == ETIMEDOUT)
		return timed_out(qmp, qmp->batch_commands[qmp->batch_done]);
	return status != 0 ? gone(qmp, qmp->batch_commands[qmp->batch_done]) : 0;
}

int qmp_batch(struct qmp *qmp, const struct qmp_call *calls, size_t n, int timeout_ms)
{
	int error = qmp_batch_begin(qmp, calls, n, -1, timeout_ms);

	return error != 0 ? error : qmp_batch_wait(qmp, n, timeout_ms);
}

int qmp_open(const char *path, int timeout_ms, struct qmp **out, char why[256])
{
	int64_t deadline = now_ms() + timeout_ms;
	struct qmp *qmp = calloc(1, sizeof(*qmp));
	struct ucred peer;
	socklen_t length = sizeof(peer);
	char ignored[256];
	int error = 0;

	if (why == NULL)
		why = ignored;
	snprintf(why, 256, "out of memory");
	if (qmp == NULL)
		return ENOMEM;
	qmp->path = strdup(path);
	qmp->fd = jsonrpc_connect_unix(path);
	if (qmp->fd < 0) {
		error = errno;
		snprintf(why, 256, "monitor socket %.180s: %s", path, strerror(error));
		qmp_close(qmp);
		return error;
	}
	if (getsockopt(qmp->fd, SOL_SOCKET, SO_PEERCRED, &peer, &length) == 0)
		qmp->pid = peer.pid;
	/* A monitor serves one client: behind another one this waits, like with a stopped QEMU. */
	while (error == 0 && !qmp->greeted)
		error = read_some(qmp, deadline);
	if (error == ETIMEDOUT)
		timed_out(qmp, "greeting");
	else if (error != 0)
		gone(qmp, "greeting");
	if (error == 0)
		error = qmp_command(
			qmp, "qmp_capabilities", NULL, (int)(deadline - now_ms()), NULL);
	if (error != 0) {
		snprintf(why, 256, "%s", qmp->why);
		qmp_close(qmp);
		return error;
	}
	*out = qmp;
	return 0;
}

int qmp_fd(const struct qmp *qmp)
{
	return qmp->fd;
}

bool qmp_gone(const struct qmp *qmp)
{
	struct pollfd p = {.fd = qmp->fd};

	return poll(&p, 1, 0) > 0 && (p.revents & (POLLHUP | POLLERR)) != 0;
}

/* Does nobody listen there any more? A process that dies may close its listener last. */
static bool is_deserted(const struct sockaddr_un *address)
{
	bool deserted = false;

	for (int tries = 0; tries < 2 && !deserted; tries++) {
		int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
		struct pollfd p = {.fd = fd, .events = POLLIN};

		if (fd < 0)
			return false;
		if (connect(fd, (const struct sockaddr *)address, sizeof(*address)) == 0)
			poll(&p, 1, DESERTED_MS); /* a greeting, or its end */
		else
			deserted = errno == ECONNREFUSED;
		close(fd);
	}
	return deserted;
}

bool qmp_remove_stale(const char *path)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	struct stat before, now;

	snprintf(address.sun_path, sizeof(address.sun_path), "%s", path);
	if (lstat(path, &before) == 0 && S_ISSOCK(before.st_mode) && is_deserted(&address) &&
		lstat(path, &now) == 0 && now.st_ino == before.st_ino)
		return unlink(path) == 0;
	return false;
}

void qmp_close(struct qmp *qmp)
{
	bool gone;

	if (qmp == NULL)
		return;
	gone = qmp->fd >= 0 && qmp_gone(qmp);
	if (qmp->fd >= 0)
		close(qmp->fd);
	if (gone && qmp->path != NULL)
		qmp_remove_stale(qmp->path);
	free(qmp->path);
	cJSON_Delete(qmp->answer);
	jsonrpc_lines_free(&qmp->lines);
	free(qmp);
}

/* The text in field `name` of what `command` answers. */
static int ask_text(
	struct qmp *qmp, const char *command, const char *name, char text[32], int timeout_ms)
{
	cJSON *result;
	const char *value;
	int error = qmp_command(qmp, command, NULL, timeout_ms, &result);

	if (error != 0)
		return error;
	value = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(result, name));
	snprintf(text, 32, "%s", value != NULL ? value : "none");
	cJSON_Delete(result);
	return 0;
}

int qmp_status(struct qmp *qmp, char status[32], int timeout_ms)
{
	return ask_text(qmp, "query-status", "status", status, timeout_ms);
}

static int get_property(struct qmp *qmp, const char *object, const char *name, char *text,
	size_t size, int timeout_ms)
{
	cJSON *arguments = cJSON_CreateObject(), *result = NULL;
	int error;

	cJSON_AddStringToObject(arguments, "path", object);
	cJSON_AddStringToObject(arguments, "property", name);
	error = qmp_command(qmp, "qom-get", arguments, timeout_ms, &result);
	if (error == 0) {
		const char *value = cJSON_GetStringValue(result);

		snprintf(text, size, "%s", value != NULL ? value : "");
	}
	cJSON_Delete(result);
	return error;
}

/* The descriptor by which `pid` has the nameless file that QEMU made as `made` and some letters. */
static int find_nameless(pid_t pid, const char *made, char *path, size_t size)
{
	char dir[64], target[PATH_MAX];
	struct dirent *entry;
	DIR *list;
	int error = ENOENT;

	snprintf(dir, sizeof(dir), "/proc/%d/fd", (int)pid);
	list = opendir(dir);
	if (list == NULL)
		return errno;
	while (error != 0 && (entry = readdir(list)) != NULL) {
		ssize_t n = readlinkat(dirfd(list), entry->d_name, target, sizeof(target) - 1);

		if (n < 0)
			continue;
		target[n] = '\0';
		if (strncmp(target, made, strlen(made)) == 0 &&
			(size_t)snprintf(path, size, "%s/%s", dir, entry->d_name) < size)
			error = 0;
	}
	closedir(list);
	return error;
}

int qmp_ram_path(struct qmp *qmp, char *path, size_t size, int timeout_ms)
{
	char backend[128], made[PATH_MAX + 256], dir[PATH_MAX];
	const char *id;
	struct stat st;
	int error = get_property(
		qmp, "/machine", "memory-backend", backend, sizeof(backend), timeout_ms);

	if (error == 0 && backend[0] == '/')
		error = get_property(qmp, backend, "mem-path", dir, sizeof(dir), timeout_ms);
	if (error != 0 && error != EREMOTEIO)
		return error;
	if (error != 0 || backend[0] != '/' || dir[0] != '/') {
		snprintf(qmp->why, sizeof(qmp->why),
			"the VM's memory is not a file; start it with memory-backend-file");
		return ENOTSUP;
	}
	error = stat(dir, &st) < 0 ? errno : 0;
	if (error == 0 && S_ISDIR(st.st_mode)) {
		id = strrchr(backend, '/') + 1;
		snprintf(made, sizeof(made), "%s/qemu_back_mem.%s.", dir, id);
		error = find_nameless(qmp->pid, made, path, size);
	} else if (error == 0 && (size_t)snprintf(path, size, "%s", dir) >= size) {
		error = ENAMETOOLONG;
	}
	if (error != 0)
		snprintf(qmp->why, sizeof(qmp->why), "the VM's memory is in %.100s: %s", dir,
			strerror(error));
	return error;
}

int qmp_stop(struct qmp *qmp, int timeout_ms)
{
	return qmp_command(qmp, "stop", NULL, timeout_ms, NULL);
}

int qmp_cont(struct qmp *qmp, int timeout_ms)
{
	int64_t deadline = now_ms() + timeout_ms;
	char status[32];
	int error;

	/* Refused while the state is on its way: cancel that, and ask until it is done. */
	while ((error = qmp_command(qmp, "cont", NULL, (int)(deadline - now_ms()), NULL)) ==
		EREMOTEIO) {
		char why[256];

		snprintf(why, sizeof(why), "%s", qmp->why);
		error = qmp_command(qmp, "migrate_cancel", NULL, (int)(deadline - now_ms()), NULL);
		if (error == 0)
			error = qmp_status(qmp, status, (int)(deadline - now_ms()));
		if (error != 0)
			return error;
		if (now_ms() >= deadline || (strcmp(status, "finish-migrate") != 0 &&
						    strcmp(status, "postmigrate") != 0 &&
						    strcmp(status, "paused") != 0)) {
			snprintf(qmp->why, sizeof(qmp->why), "%s", why);
			return EREMOTEIO;
		}
		read_some(qmp, now_ms() + ASK_EVERY_MS);
	}
	return error;
}

static void add_capability(cJSON *list, const char *name, bool on)
{
	cJSON *item = cJSON_CreateObject();

	cJSON_AddStringToObject(item, "capability", name);
	cJSON_AddBoolToObject(item, "state", on);
	cJSON_AddItemToArray(list, item);
}

/* `events` is left as it is unless that is known. */
struct qmp_call qmp_state_call(struct qmp *qmp, bool begin)
{
	cJSON *arguments = cJSON_CreateObject();
	cJSON *list = cJSON_AddArrayToObject(arguments, "capabilities");

	add_capability(list, "x-ignore-shared", begin);
	if (qmp->begun)
		add_capability(list, "events", begin || qmp->events_were_on);
	return (struct qmp_call){"migrate-set-capabilities", arguments};
}

static int set_capabilities(struct qmp *qmp, bool begin, int timeout_ms)
{
	struct qmp_call call = qmp_state_call(qmp, begin);

	return qmp_command(qmp, call.command, call.arguments, timeout_ms, NULL);
}

int qmp_begin_state(struct qmp *qmp, int timeout_ms)
{
	const cJSON *item;
	cJSON *list;
	int error = qmp_command(qmp, "query-migrate-capabilities", NULL, timeout_ms, &list);

	if (error != 0)
		return error;
	cJSON_ArrayForEach (item, list) {
		const char *name =
			cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(item, "capability"));

		/* libvirt has it on, and would miss it. */
		if (name != NULL && strcmp(name, "events") == 0)
			qmp->events_were_on =
				cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(item, "state"));
	}
	cJSON_Delete(list);
	qmp->begun = true;
	return set_capabilities(qmp, true, timeout_ms);
}

int qmp_end_state(struct qmp *qmp, int timeout_ms)
{
	return set_capabilities(qmp, false, timeout_ms);
}

static cJSON *text_argument(const char *name, const char *value)
{
	cJSON *arguments = cJSON_CreateObject();

	cJSON_AddStringToObject(arguments, name, value);
	return arguments;
}

/* Has QEMU migrate to or from the descriptor that is sent with these calls. */
static void migrate_calls(struct qmp *qmp, const char *command, struct qmp_call calls[2])
{
	qmp->migration[0] = '\0';
	/* QEMU reads a monitor byte by byte: short names. */
	calls[0] = (struct qmp_call){"getfd", text_argument("fdname", "s")};
	calls[1] = (struct qmp_call){command, text_argument("uri", "fd:s")};
}

static int migrate(struct qmp *qmp, const char *command, int fd, int timeout_ms)
{
	struct qmp_call calls[2];
	int error;

	migrate_calls(qmp, command, calls);
	error = qmp_batch_begin(qmp, calls, 2, fd, timeout_ms);
	return error != 0 ? error : qmp_batch_wait(qmp, 2, timeout_ms);
}

void qmp_save_calls(struct qmp *qmp, struct qmp_call calls[2])
{
	migrate_calls(qmp, "migrate", calls);
}

/* QEMU tells each step by an event, once qmp_begin_state() has switched them on. */
static int wait_completed(struct qmp *qmp, int timeout_ms)
{
	int64_t deadline = now_ms() + timeout_ms, ask_at = now_ms() + ASK_ANYWAY_MS;
	char status[32];

	for (;;) {
		int error = 0;

		snprintf(status, sizeof(status), "%s", qmp->migration);
		if (status[0] == '\0' && now_ms() >= ask_at) {
			error = ask_text(
				qmp, "query-migrate", "status", status, (int)(deadline - now_ms()));
			ask_at = now_ms() + ASK_ANYWAY_MS;
		}
		if (error != 0)
			return error;
		if (strcmp(status, "completed") == 0)
			return 0;
		if (strcmp(status, "failed") == 0 || strcmp(status, "cancelled") == 0 ||
			strcmp(status, "none") == 0)
			return fail(qmp, EREMOTEIO, "device state", status);
		if (now_ms() >= deadline)
			return fail(qmp, ETIMEDOUT, "device state", "not completed in time");
		error = read_some(qmp, status[0] == '\0' && ask_at < deadline ? ask_at : deadline);
		if (error == ECONNRESET)
			return gone(qmp, "device state");
	}
}

int qmp_save_begin(struct qmp *qmp, int fd, int timeout_ms)
{
	return migrate(qmp, "migrate", fd, timeout_ms);
}

int qmp_save_wait(struct qmp *qmp, int timeout_ms)
{
	return wait_completed(qmp, timeout_ms);
}

int qmp_load(struct qmp *qmp, int fd, int timeout_ms)
{
	int error = migrate(qmp, "migrate-incoming", fd, timeout_ms);

	return error != 0 ? error : wait_completed(qmp, timeout_ms);
}
