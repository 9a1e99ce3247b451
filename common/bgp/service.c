/* SPDX-License-Identifier: GPL-2.0-or-later */

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <malloc.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/bgp/bgp_host.h"
#include "common/bgp/bgp_if.h"
#include "common/bgp/service.h"
#include "common/log.h"

#define MAX_STATE (8u << 20) /* bytes */
#define BGP_PORT 179

static const struct service *service;
static const char *run_dir = "/run/edgeplex";
static struct jsonrpc_server *server;
static struct host_event *server_event, *memory_event;
static cJSON *in_force; /* the configuration, or NULL */
static unsigned long started_ms;

/* ---- the configuration over a restart -------------------------------------------------------- */

static char *state_path(const char *suffix)
{
	char *path;

	if (asprintf(&path, "%s/%s.json%s", run_dir, service->program, suffix) < 0)
		abort();
	return path;
}

/* A whole file or none, whatever happens meanwhile. */
static int write_whole(int fd, const char *text)
{
	size_t left = strlen(text);

	while (left) {
		ssize_t n = write(fd, text, left);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return errno;
		text += n;
		left -= n;
	}
	return fsync(fd) ? errno : 0;
}

static int save_state(void)
{
	char *text = cJSON_PrintUnformatted(in_force), *path = state_path("");
	char *temporary = state_path(".new");
	int fd = open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600), error = 0;

	if (!text)
		error = ENOMEM;
	else if (fd < 0)
		error = errno;
	else
		error = write_whole(fd, text);
	if (fd >= 0 && close(fd) && !error)
		error = errno;
	if (!error && rename(temporary, path))
		error = errno;
	if (error)
		log_error("can't keep the configuration in %s: %s; a restart will begin without it",
			path, strerror(error));
	free(text);
	free(path);
	free(temporary);
	return error;
}

static char *read_state(void)
{
	char *path = state_path(""), *text = NULL;
	FILE *file = fopen(path, "re");
	size_t n;

	if (!file && errno != ENOENT)
		log_error("can't read %s: %s; waiting for a configuration", path, strerror(errno));
	if (file) {
		text = malloc(MAX_STATE + 1);
		if (!text)
			abort();
		n = fread(text, 1, MAX_STATE, file);
		text[n] = '\0';
		fclose(file);
	}
	free(path);
	return text;
}

static void restore(void)
{
	struct jsonrpc_error err = {0};
	char *text = read_state();
	cJSON *config = text ? cJSON_Parse(text) : NULL;

	if (text && !config)
		log_error("the kept configuration is not JSON; waiting for a new one");
	if (config && service->configure(config, &err)) {
		log_error("the kept configuration is refused: %s %s; waiting for a new one",
			err.field, err.message);
		cJSON_Delete(config);
		config = NULL;
	}
	if (config)
		log_info("going on with the kept configuration");
	in_force = config;
	free(text);
}

/* ---- methods --------------------------------------------------------------------------------- */

static int configure(const cJSON *params, cJSON **result, struct jsonrpc_error *err)
{
	cJSON *copy = cJSON_Duplicate(params, true);

	if (!copy)
		return jsonrpc_fail(err, JSONRPC_INTERNAL_ERROR, "", "out of memory");
	if (service->configure(copy, err)) {
		cJSON_Delete(copy);
		return -1;
	}
	cJSON_Delete(in_force);
	in_force = copy;
	if (save_state())
		return jsonrpc_fail(err, JSONRPC_INTERNAL_ERROR, "",
			"the configuration is in force but couldn't be kept in %s: is there room?",
			run_dir);
	*result = cJSON_CreateObject();
	cJSON_AddItemToObject(*result, "config_id",
		cJSON_Duplicate(cJSON_GetObjectItemCaseSensitive(in_force, "config_id"), true));
	return 0;
}

static cJSON *status(void)
{
	cJSON *o = cJSON_CreateObject();

	cJSON_AddItemToObject(o, "config_id",
		in_force ? cJSON_Duplicate(
				   cJSON_GetObjectItemCaseSensitive(in_force, "config_id"), true)
			 : cJSON_CreateNull());
	cJSON_AddNumberToObject(o, "uptime_ms", host_now_ms() - started_ms);
	cJSON_AddItemToObject(o, "neighbors", bgp_show_neighbors(service->namer, NULL));
	cJSON_AddNumberToObject(o, "closing", kernel_net_closing(BGP_PORT));
	cJSON_AddItemToObject(o, "rib", bgp_show_rib(service->vpn));
	service->status(o);
	return o;
}

static int handle(void *ctx, const char *method, const cJSON *params, cJSON **result,
	struct jsonrpc_error *err)
{
	size_t n = strlen(service->prefix);
	const char *verb = method + n + 1;

	(void)ctx;
	if (strncmp(method, service->prefix, n) != 0 || method[n] != '.')
		verb = "";
	if (!strcmp(verb, "configure"))
		return configure(params, result, err);
	if (!strcmp(verb, "config")) {
		*result = in_force ? cJSON_Duplicate(in_force, true) : cJSON_CreateNull();
		return 0;
	}
	if (!strcmp(verb, "alive")) {
		*result = cJSON_CreateObject();
		return 0;
	}
	if (!strcmp(verb, "status")) {
		*result = status();
		return 0;
	}
	if (!strcmp(verb, "routes"))
		return bgp_show_routes(params, service->vpn, result, err);
	return jsonrpc_fail(err, JSONRPC_METHOD_NOT_FOUND, "",
		"unknown method %.60s: %s serves %s.configure, .config, .alive, .status and "
		".routes",
		method, service->program, service->prefix);
}

static void on_server(void *ctx)
{
	(void)ctx;
	jsonrpc_server_run(server);
	host_event_on_read(server_event, jsonrpc_server_fd(server));
}

cJSON *service_interfaces(const struct kernel_wish *wishes, size_t n)
{
	cJSON *all = cJSON_CreateArray();
	char text[EP_PREFIX_STRLEN];

	for (size_t i = 0; i < n; i++) {
		const struct kernel_interface *k = bgp_if_find(wishes[i].name);
		cJSON *o = cJSON_CreateObject(), *addresses;

		cJSON_AddStringToObject(o, "name", wishes[i].name);
		cJSON_AddBoolToObject(o, "up", k && k->up);
		addresses = cJSON_AddArrayToObject(o, "addresses");
		for (size_t a = 0; k && a < k->n_addresses; a++)
			cJSON_AddItemToArray(addresses,
				cJSON_CreateString(ep_prefix_format(&k->addresses[a], text)));
		cJSON_AddItemToArray(all, o);
	}
	return all;
}

/* ---- memory ---------------------------------------------------------------------------------- */

#define MEMORY_CHECK_MS 10000
#define MEMORY_WORTH_TRIMMING (16u << 20) /* bytes that are free inside the heap */

/*
 * A withdrawn table leaves its memory in the heap; a VM has none to spare. What can't be given back
 * because of fragmentation isn't tried again and again.
 */
static void trim_memory(void *ctx)
{
	static size_t left;
	size_t unused = mallinfo2().fordblks;

	(void)ctx;
	if (unused > left + MEMORY_WORTH_TRIMMING) {
		malloc_trim(0);
		left = mallinfo2().fordblks;
	} else if (unused < left) {
		left = unused;
	}
	host_event_after(memory_event, MEMORY_CHECK_MS);
}

/* ---- start ----------------------------------------------------------------------------------- */

static void at_exit(void *ctx)
{
	(void)ctx;
	jsonrpc_server_destroy(server);
}

static void usage(FILE *to)
{
	fprintf(to,
		"Usage: %s [--run-dir DIR] [--log-level LEVEL]\n"
		"%s\n"
		"\n"
		"  --run-dir DIR      sockets and state (default: /run/edgeplex)\n"
		"  --log-level LEVEL  error, warn, info (default) or debug\n"
		"  --help             show this\n",
		service->program, service->about);
}

static void read_arguments(int argc, char **argv)
{
	static const struct option options[] = {
		{"run-dir", required_argument, NULL, 'r'},
		{"log-level", required_argument, NULL, 'l'},
		{"help", no_argument, NULL, 'h'},
		{0},
	};
	enum log_level level;
	int option;

	while ((option = getopt_long(argc, argv, "", options, NULL)) != -1)
		switch (option) {
		case 'r':
			run_dir = optarg;
			break;
		case 'l':
			if (log_level_parse(optarg, &level)) {
				fprintf(stderr,
					"%s: --log-level must be error, warn, info or debug\n",
					service->program);
				exit(2);
			}
			log_set_level(level);
			break;
		case 'h':
			usage(stdout);
			exit(0);
		default:
			usage(stderr);
			exit(2);
		}
	if (optind < argc) {
		usage(stderr);
		exit(2);
	}
}

void service_main(const struct service *s, int argc, char **argv)
{
	char *path;
	int error;

	service = s;
	started_ms = host_now_ms();
	log_init(service->program);
	read_arguments(argc, argv);
	if (mkdir(run_dir, 0755) && errno != EEXIST) {
		log_error("can't make %s: %s", run_dir, strerror(errno));
		exit(1);
	}
	bgp_host_init(service->program);
	service->start(run_dir);
	restore();
	server = jsonrpc_server_create(handle, NULL);
	if (!server || asprintf(&path, "%s/%s.sock", run_dir, service->program) < 0)
		abort();
	error = jsonrpc_server_listen_unix(server, path);
	if (error) {
		log_error("can't listen on %s: %s", path, strerror(error));
		exit(1);
	}
	free(path);
	bgp_host_at_exit(at_exit, NULL);
	server_event = host_event_new(on_server, NULL);
	host_event_on_read(server_event, jsonrpc_server_fd(server));
	memory_event = host_event_new(trim_memory, NULL);
	host_event_after(memory_event, MEMORY_CHECK_MS);
	log_info("ready run_dir=%s configured=%s", run_dir, in_force ? "yes" : "no");
	bgp_host_run();
}
