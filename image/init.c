/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * PID 1 of a VM: makes the system, keeps the programs of the VM's role running, and serves guest.*
 * (docs/protocols.md) on INIT_SOCKET to the agent.
 */

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/uio.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

#include "common/jsonrpc.h"
#include "common/log.h"
#include "image/beat.h"
#include "image/boot.h"
#include "image/supervisor.h"

#define INIT_SOCKET "/run/edgeplex/init.sock"
#define IMAGE_ID "/etc/edgeplex-image"

struct init {
	struct boot_params params;
	struct supervisor *supervisor;
	struct jsonrpc_server *server;
	int console_fd;
	bool console_torn; /* the last line didn't fit: begin with a new one */
	char image[80];
	char kernel[80];
};

/* ---- console ------------------------------------------------------------------------------- */

static int open_console(void)
{
	int fd = open("/dev/console", O_RDWR | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);

	if (fd >= 0) {
		dup2(fd, STDIN_FILENO);
		dup2(fd, STDOUT_FILENO);
		dup2(fd, STDERR_FILENO);
	}
	return fd;
}

/* Never waits for the serial line: what it can't take is in guest.log. */
static void echo_line(void *ctx, const char *name, const char *line)
{
	struct init *init = ctx;
	char text[SUPERVISOR_LINE_MAX + 64];
	int n = snprintf(
		text, sizeof(text), "%s%s: %s\n", init->console_torn ? "\n" : "", name, line);

	if (n > (int)sizeof(text) - 1)
		n = (int)sizeof(text) - 1;
	if (init->console_fd >= 0)
		init->console_torn = write(init->console_fd, text, (size_t)n) != n;
}

/* ---- guest.* ------------------------------------------------------------------------------- */

static double uptime_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_BOOTTIME, &now);
	return (double)now.tv_sec * 1000 + (double)(now.tv_nsec / 1000000);
}

/* A line of /proc/meminfo. */
static double read_meminfo(const char *key)
{
	FILE *file = fopen("/proc/meminfo", "re");
	char line[128];
	double value = 0;
	size_t n = strlen(key);

	while (file != NULL && fgets(line, sizeof(line), file) != NULL) {
		if (strncmp(line, key, n) == 0 && line[n] == ':')
			value = (double)strtoul(line + n + 1, NULL, 10);
	}
	if (file != NULL)
		fclose(file);
	return value;
}

static int out_of_memory(struct jsonrpc_error *err)
{
	return jsonrpc_fail(err, JSONRPC_INTERNAL_ERROR, "", "the VM is out of memory");
}

static int guest_info(const struct init *init, cJSON **result, struct jsonrpc_error *err)
{
	cJSON *info = cJSON_CreateObject(), *memory;

	cJSON_AddStringToObject(info, "role", boot_role_name(init->params.role));
	cJSON_AddStringToObject(info, "name", init->params.name);
	cJSON_AddStringToObject(info, "image", init->image);
	cJSON_AddStringToObject(info, "kernel", init->kernel);
	cJSON_AddNumberToObject(info, "uptime_ms", uptime_ms());
	memory = cJSON_AddObjectToObject(info, "memory");
	cJSON_AddNumberToObject(memory, "total_kib", read_meminfo("MemTotal"));
	cJSON_AddNumberToObject(memory, "available_kib", read_meminfo("MemAvailable"));
	*result = info;
	return info != NULL ? 0 : out_of_memory(err);
}

/* The parameter "process". Returns NULL with `err` filled. */
static const char *get_process(const cJSON *params, struct jsonrpc_error *err)
{
	const char *name =
		cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(params, "process"));

	if (name == NULL)
		jsonrpc_fail(err, JSONRPC_INVALID_PARAMS, "/process",
			"give a process by its name in guest.processes");
	return name;
}

static int no_such_process(const char *name, struct jsonrpc_error *err)
{
	return jsonrpc_fail(err, JSONRPC_NOT_FOUND, "/process",
		"no process '%.64s' in this VM: guest.processes lists them", name);
}

static int guest_signal(
	struct init *init, const cJSON *params, cJSON **result, struct jsonrpc_error *err)
{
	static const struct {
		const char *name;
		int number;
	} signals[] = {{"TERM", SIGTERM}, {"KILL", SIGKILL}, {"STOP", SIGSTOP}, {"CONT", SIGCONT}};
	const char *name = get_process(params, err);
	const char *wanted =
		cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(params, "signal"));
	int number = 0, error;

	if (name == NULL)
		return -1;
	for (unsigned i = 0; wanted != NULL && i < sizeof(signals) / sizeof(signals[0]); i++) {
		if (strcmp(signals[i].name, wanted) == 0)
			number = signals[i].number;
	}
	if (number == 0)
		return jsonrpc_fail(err, JSONRPC_INVALID_PARAMS, "/signal",
			"the signal is TERM, KILL, STOP or CONT");
	error = supervisor_signal(init->supervisor, name, number);
	if (error == ENOENT)
		return no_such_process(name, err);
	if (error != 0)
		return jsonrpc_fail(err, JSONRPC_CONFLICT, "/process",
			"'%.64s' is not running just now; it is about to be started again", name);
	*result = cJSON_CreateObject();
	return 0;
}

static int guest_log(
	const struct init *init, const cJSON *params, cJSON **result, struct jsonrpc_error *err)
{
	const cJSON *lines = cJSON_GetObjectItemCaseSensitive(params, "lines");
	const char *name = get_process(params, err);
	unsigned n = 100;
	cJSON *list;

	if (name == NULL)
		return -1;
	if (lines != NULL) {
		if (!cJSON_IsNumber(lines) ||
			!(lines->valuedouble >= 1 && lines->valuedouble <= SUPERVISOR_LOG_LINES))
			return jsonrpc_fail(err, JSONRPC_INVALID_PARAMS, "/lines",
				"lines is a number from 1 to %d", SUPERVISOR_LOG_LINES);
		n = (unsigned)lines->valuedouble;
	}
	list = supervisor_log(init->supervisor, name, n);
	if (list == NULL)
		return errno == ENOENT ? no_such_process(name, err) : out_of_memory(err);
	*result = cJSON_CreateObject();
	cJSON_AddItemToObject(*result, "lines", list);
	return 0;
}

/* Its own program, as a rule; nobody is told what it says, nor answered. */
static int guest_beat(
	struct init *init, const cJSON *params, cJSON **result, struct jsonrpc_error *err)
{
	const char *name = get_process(params, err);

	if (name == NULL)
		return -1;
	if (supervisor_beat(init->supervisor, name) != 0)
		return no_such_process(name, err);
	*result = cJSON_CreateObject();
	return 0;
}

static int handle(void *ctx, const char *method, const cJSON *params, cJSON **result,
	struct jsonrpc_error *err)
{
	struct init *init = ctx;

	if (strcmp(method, "guest.info") == 0)
		return guest_info(init, result, err);
	if (strcmp(method, "guest.processes") == 0) {
		*result = supervisor_list(init->supervisor);
		return *result != NULL ? 0 : out_of_memory(err);
	}
	if (strcmp(method, "guest.signal") == 0)
		return guest_signal(init, params, result, err);
	if (strcmp(method, "guest.beat") == 0)
		return guest_beat(init, params, result, err);
	if (strcmp(method, "guest.log") == 0)
		return guest_log(init, params, result, err);
	return jsonrpc_fail(err, JSONRPC_METHOD_NOT_FOUND, "", "no method '%.64s'", method);
}

/* ---- programs ------------------------------------------------------------------------------ */

static void start_programs(struct init *init)
{
	/* Those that must not be the OOM killer's choice hold little memory and much state. */
	static char *const agent[] = {"/sbin/edgeplex-agent", NULL};
	static char *const fwd[] = {"/sbin/edgeplex-fwd", "--pci", NULL};
	static char *const pvmd[] = {"/sbin/pvmd", NULL};
	static char *const cvmd[] = {"/sbin/cvmd", NULL};
	static const struct {
		enum boot_role role; /* BOOT_ROLE_NONE: any */
		const char *name;
		char *const *argv;
		int oom_score_adj;
	} programs[] = {
		{BOOT_ROLE_NONE, "agent", agent, -900},
		{BOOT_ROLE_PVM, "edgeplex-fwd", fwd, -800},
		{BOOT_ROLE_PVM, "pvmd", pvmd, 0},
		{BOOT_ROLE_CVM, "cvmd", cvmd, 0},
	};

	for (unsigned i = 0; i < sizeof(programs) / sizeof(programs[0]); i++) {
		int error;

		if (programs[i].role != BOOT_ROLE_NONE && programs[i].role != init->params.role) {
			boot_discard(programs[i].argv[0]);
			continue;
		}
		if (access(programs[i].argv[0], X_OK) < 0) {
			log_error("the image lacks a program path=%s", programs[i].argv[0]);
			continue;
		}
		error = supervisor_add(init->supervisor, programs[i].name, programs[i].argv,
			programs[i].oom_score_adj);
		if (error != 0)
			log_error("can't start a program name=%s error=\"%s\"", programs[i].name,
				strerror(error));
	}
	/* Those behind the agent are asked through it, and ended by the controller if they hang. */
	supervisor_expect_beats(init->supervisor, "agent", AGENT_BEAT_EXPECTED_MS);
}

/*
 * Without PID 1 the kernel panics, and by panic=-1 the VM resets at once; its owner (libvirt's
 * on_reboot) then knows that it failed.
 */
static _Noreturn void give_up(const char *what)
{
	log_error("%s: %s; the VM ends", what, strerror(errno));
	sync();
	reboot(RB_AUTOBOOT);
	_exit(1);
}

static void serve(struct init *init)
{
	struct pollfd fds[] = {
		{.fd = supervisor_fd(init->supervisor), .events = POLLIN},
		{.fd = jsonrpc_server_fd(init->server), .events = POLLIN},
	};

	for (;;) {
		if (poll(fds, 2, -1) < 0 && errno != EINTR)
			give_up("poll");
		supervisor_run(init->supervisor);
		jsonrpc_server_run(init->server);
	}
}

static void read_identity(struct init *init)
{
	struct utsname kernel;
	FILE *file = fopen(IMAGE_ID, "re");

	if (file == NULL || fgets(init->image, sizeof(init->image), file) == NULL)
		snprintf(init->image, sizeof(init->image), "unknown");
	init->image[strcspn(init->image, "\n")] = '\0';
	if (file != NULL)
		fclose(file);
	if (uname(&kernel) == 0)
		snprintf(init->kernel, sizeof(init->kernel), "%s", kernel.release);
}

int main(void)
{
	static struct init init;
	int error;

	if (getpid() != 1) {
		fprintf(stderr, "edgeplex-init is the first process of a VM\n");
		return 2;
	}
	log_init("init");
	signal(SIGPIPE, SIG_IGN);
	setenv("PATH", "/sbin", 1);
	setenv("HOME", "/", 1);
	boot_mount();
	init.console_fd = open_console();
	boot_read_params(&init.params);
	if (init.params.name[0] != '\0')
		sethostname(init.params.name, strlen(init.params.name));
	boot_set_sysctls();
	boot_reserve_hugepages(&init.params);
	boot_set_up_devices(init.params.role);
	read_identity(&init);
	init.supervisor = supervisor_create(echo_line, &init);
	init.server = jsonrpc_server_create(handle, &init);
	if (init.supervisor == NULL || init.server == NULL)
		give_up("set-up");
	error = jsonrpc_server_listen_unix(init.server, INIT_SOCKET);
	if (error != 0) {
		errno = error;
		give_up("listen on " INIT_SOCKET);
	}
	start_programs(&init);
	log_info("the VM is up role=%s name=%s image=%s uptime_ms=%.0f",
		boot_role_name(init.params.role), init.params.name, init.image, uptime_ms());
	serve(&init);
}
