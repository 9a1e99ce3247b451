/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * edgeplexd, the controller.
 *
 * Threads: this one waits for the signal to end; the API has one for every connection, the engine
 * eight for operations, the fleet one for each site and each VM, one that writes events and one
 * that looks for unknown VMs; the hypervisor and fabric modules have their own. Blocking calls to
 * libvirt, switches and guests are made on the fleet's, the engine's and the API's threads, never
 * on libmicrohttpd's that accepts connections. What they share is the store (one mutex), the fleet
 * and the engine (see their sources).
 */

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/log.h"
#include "controller/api.h"
#include "controller/engine.h"
#include "controller/fleet.h"
#include "controller/store.h"

#define URGENT_NICE (-10)
#define EXIT_USAGE 2

struct options {
	const char *socket, *state_dir, *image_dir, *console_dir, *run_dir, *preload;
};

static const char usage[] =
	"usage: edgeplexd [OPTION]...\n"
	"Runs EdgePlex's sites: VMs, edge switches, customer ports.\n"
	"\n"
	"  --socket PATH       Unix socket of the API (default /run/edgeplex/edgeplexd.sock)\n"
	"  --state-dir DIR     where the database is (default /var/lib/edgeplex)\n"
	"  --image DIR         holds vmlinuz, initramfs.img and cmdline.*, on every server and "
	"here\n"
	"                      (default /usr/share/edgeplex/image)\n"
	"  --console-dir DIR   where servers write VMs' consoles (default: they are not kept)\n"
	"  --run-dir DIR       on every server that has a hostd: qmp/ and, a tmpfs, ram/ in it are "
	"for VMs\n"
	"                      (default /run/edgeplex)\n"
	"  --preload FILE      libedgeplex-wp.so, on every server that has a hostd\n"
	"                      (default /usr/lib/edgeplex/libedgeplex-wp.so)\n"
	"  --log-level LEVEL   error, warn, info (default) or debug\n"
	"  --help, --version\n";

/* Returns -1 to go on, or the process's exit status. */
static int read_options(int argc, char **argv, struct options *options)
{
	static const struct option longs[] = {
		{"socket", required_argument, NULL, 's'},
		{"state-dir", required_argument, NULL, 'd'},
		{"image", required_argument, NULL, 'i'},
		{"console-dir", required_argument, NULL, 'c'},
		{"run-dir", required_argument, NULL, 'r'},
		{"preload", required_argument, NULL, 'p'},
		{"log-level", required_argument, NULL, 'l'},
		{"help", no_argument, NULL, 'h'},
		{"version", no_argument, NULL, 'v'},
		{0},
	};
	enum log_level level;
	int c;
	while ((c = getopt_long(argc, argv, "", longs, NULL)) != -1) {
		switch (c) {
		case 's':
			options->socket = optarg;
			break;
		case 'd':
			options->state_dir = optarg;
			break;
		case 'i':
			options->image_dir = optarg;
			break;
		case 'c':
			options->console_dir = optarg;
			break;
		case 'r':
			if (optarg[0] != '/' || strlen(optarg) > FLEET_RUN_DIR_MAX) {
				fprintf(stderr,
					"edgeplexd: --run-dir is an absolute path of at most %d "
					"bytes\n%s",
					FLEET_RUN_DIR_MAX, usage);
				return EXIT_USAGE;
			}
			options->run_dir = optarg;
			break;
		case 'p':
			options->preload = optarg;
			break;
		case 'l':
			if (log_level_parse(optarg, &level) != 0) {
				fprintf(stderr, "edgeplexd: \"%s\" is no log level\n%s", optarg,
					usage);
				return EXIT_USAGE;
			}
			log_set_level(level);
			break;
		case 'h':
			fputs(usage, stdout);
			return EXIT_SUCCESS;
		case 'v':
			puts("edgeplexd " API_VERSION);
			return EXIT_SUCCESS;
		default:
			fputs(usage, stderr);
			return EXIT_USAGE;
		}
	}
	if (optind < argc) {
		fprintf(stderr, "edgeplexd: \"%s\" is too much\n%s", argv[optind], usage);
		return EXIT_USAGE;
	}
	return -1;
}

/* Makes the directory, unless it is there. */
static int make_dir(const char *path, mode_t mode)
{
	if (mkdir(path, mode) == 0 || errno == EEXIST)
		return 0;
	log_error("can't make the directory, make it by hand path=%s error=\"%s\"", path,
		strerror(errno));
	return -1;
}

static int make_socket_dir(const char *socket_path)
{
	char dir[4096];
	snprintf(dir, sizeof(dir), "%s", socket_path);
	char *slash = strrchr(dir, '/');
	if (slash == NULL || slash == dir)
		return 0;
	*slash = '\0';
	return make_dir(dir, 0755);
}

/* Two controllers on one database would undo each other's work. Held until the process ends. */
static int lock_state(const char *state_dir)
{
	char path[4096];
	snprintf(path, sizeof(path), "%s/lock", state_dir);
	int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (fd < 0) {
		log_error("can't use the state directory, check its owner and mode path=%s "
			  "error=\"%s\"",
			state_dir, strerror(errno));
		return -1;
	}
	if (flock(fd, LOCK_EX | LOCK_NB) != 0) {
		log_error("another edgeplexd uses this state directory, stop it first path=%s",
			state_dir);
		close(fd);
		return -1;
	}
	return fd;
}

static struct store *open_store(const char *state_dir)
{
	char path[4096];
	struct store *store;
	struct why why = {""};
	snprintf(path, sizeof(path), "%s/edgeplex.db", state_dir);
	if (store_open(path, &store, &why) == 0)
		return store;
	log_error("can't open the database path=%s error=\"%s\"", path, why.text);
	return NULL;
}

/* Serves until SIGINT or SIGTERM. */
static int serve(const struct options *options, struct store *store, const sigset_t *ends)
{
	const struct fleet_options fleet_options = {
		.image_dir = options->image_dir,
		.console_dir = options->console_dir,
		.run_dir = options->run_dir,
		.preload = options->preload,
	};
	struct engine *engine = NULL;
	struct api *api = NULL;
	struct why why = {""};
	int status = EXIT_FAILURE;
	struct fleet *fleet = fleet_start(store, &fleet_options);
	if (fleet != NULL)
		engine = engine_start(store, fleet);
	if (engine == NULL) {
		log_error("can't start error=\"%s\"", strerror(errno));
	} else if (api_start(options->socket, store, fleet, engine, &api, &why) != 0) {
		log_error("can't serve the API path=%s error=\"%s\"", options->socket, why.text);
	} else {
		int sig = 0;
		log_info("ready version=%s socket=%s state=%s", API_VERSION, options->socket,
			options->state_dir);
		sigwait(ends, &sig);
		log_info("ending; VMs and switches go on signal=%s", strsignal(sig));
		status = EXIT_SUCCESS;
	}
	if (fleet != NULL)
		fleet_shutdown(fleet);
	if (engine != NULL)
		engine_shutdown(engine);
	api_stop(api);
	engine_stop(engine);
	fleet_free(fleet);
	return status;
}

int main(int argc, char **argv)
{
	struct options options = {
		.socket = "/run/edgeplex/edgeplexd.sock",
		.state_dir = "/var/lib/edgeplex",
		.image_dir = "/usr/share/edgeplex/image",
		.run_dir = "/run/edgeplex",
		.preload = "/usr/lib/edgeplex/libedgeplex-wp.so",
	};
	sigset_t ends;
	log_init("edgeplexd");
	int status = read_options(argc, argv, &options);
	if (status >= 0)
		return status;

	/* A VM that stands still to be moved waits for this process, which does little otherwise.
	 */
	if (setpriority(PRIO_PROCESS, 0, URGENT_NICE) < 0)
		log_info("no privilege to be scheduled before others: moves may take longer");

	/* Before any thread is made: all of them inherit it, and only sigwait() takes them. */
	sigemptyset(&ends);
	sigaddset(&ends, SIGINT);
	sigaddset(&ends, SIGTERM);
	pthread_sigmask(SIG_BLOCK, &ends, NULL);
	signal(SIGPIPE, SIG_IGN);

	if (make_dir(options.state_dir, 0750) != 0 || make_socket_dir(options.socket) != 0)
		return EXIT_FAILURE;
	int lock = lock_state(options.state_dir);
	if (lock < 0)
		return EXIT_FAILURE;
	struct store *store = open_store(options.state_dir);
	if (store == NULL) {
		close(lock);
		return EXIT_FAILURE;
	}
	status = serve(&options, store, &ends);
	store_close(store);
	close(lock);
	return status;
}
