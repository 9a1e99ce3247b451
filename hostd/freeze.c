/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "hostd/freeze.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/pidfd.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "common/log.h"
#include "hostd/frame.h"
#include "hostd/hold.h"
#include "hostd/qmp.h"
#include "hostd/urgent.h"

#define MAGIC 0x455046525a000001ull /* "EPFRZ", version 1 */
#define SUFFIX ".freeze"
#define QMP_TIMEOUT_MS 2000

/* Shared with the guard. 0: not watched. */
static _Atomic uint32_t *pulse;

struct record {
	uint64_t magic;
	_Atomic uint32_t status;
	char qmp_path[4000];
};

struct freeze {
	struct record *record;
	char path[4200];
};

int freeze_create(
	const char *dir, const uint8_t uuid[16], const char *qmp_path, struct freeze **out)
{
	struct freeze *freeze = calloc(1, sizeof(*freeze));
	struct record first = {.magic = MAGIC};
	char text[UUID_STRLEN];
	void *map = MAP_FAILED;
	int fd, error = 0;

	if (freeze == NULL)
		return ENOMEM;
	if (strlen(qmp_path) >= sizeof(first.qmp_path)) {
		free(freeze);
		return ENAMETOOLONG;
	}
	snprintf(first.qmp_path, sizeof(first.qmp_path), "%s", qmp_path);
	snprintf(freeze->path, sizeof(freeze->path), "%.4000s/%s" SUFFIX, dir,
		frame_format_uuid(uuid, text));
	fd = open(freeze->path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	if (fd < 0) {
		error = errno;
	} else {
		if (write(fd, &first, sizeof(first)) == (ssize_t)sizeof(first))
			map = mmap(NULL, sizeof(first), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
		if (map == MAP_FAILED)
			error = errno;
		close(fd);
	}
	if (error != 0) {
		free(freeze);
		return error;
	}
	freeze->record = map;
	*out = freeze;
	return 0;
}

void freeze_set(struct freeze *freeze, enum freeze_status status)
{
	atomic_store(&freeze->record->status, (uint32_t)status);
}

void freeze_destroy(struct freeze *freeze)
{
	if (freeze == NULL)
		return;
	unlink(freeze->path);
	munmap(freeze->record, sizeof(*freeze->record));
	free(freeze);
}

/* Puts a VM right of which a record was left. */
static void recover(const char *name, const struct record *record)
{
	uint32_t status = atomic_load(&record->status);
	struct qmp *qmp = NULL;
	char why[256];
	int error = qmp_open(record->qmp_path, QMP_TIMEOUT_MS, &qmp, why);

	if (error == 0 && status == FREEZE_STOPPED) {
		error = qmp_cont(qmp, QMP_TIMEOUT_MS);
		snprintf(why, sizeof(why), "%s", qmp_why(qmp));
	}
	if (error == 0) {
		qmp_end_state(qmp, QMP_TIMEOUT_MS);
		/* It runs unprotected now: what it said while it was protected may go out. */
		if (status != FREEZE_GRANTED)
			hold_recover(qmp, QMP_TIMEOUT_MS);
	}
	/* It may have been given real-time priority for the stop. */
	if (qmp != NULL)
		urgent_end_qemu(qmp_pid(qmp));
	qmp_close(qmp);
	if (error == ECONNREFUSED || error == ENOENT)
		return; /* QEMU is gone */
	if (status == FREEZE_GRANTED)
		log_warn("a VM stays stopped: its destination has leave to run record=%s", name);
	else if (status == FREEZE_STOPPED && error == 0)
		log_warn("a VM was stopped when hostd ended; resumed it record=%s", name);
	else if (error != 0)
		log_error("a VM was being moved when hostd ended, and can't be put right: %s; see "
			  "that it runs, or destroy it record=%s",
			why, name);
}

void freeze_recover(const char *dir)
{
	DIR *list = opendir(dir);
	struct dirent *entry;

	while (list != NULL && (entry = readdir(list)) != NULL) {
		size_t n = strlen(entry->d_name);
		struct record record;
		int fd;

		if (n < strlen(SUFFIX) || strcmp(entry->d_name + n - strlen(SUFFIX), SUFFIX) != 0)
			continue;
		fd = openat(dirfd(list), entry->d_name, O_RDONLY | O_CLOEXEC);
		if (fd < 0)
			continue;
		if (read(fd, &record, sizeof(record)) == (ssize_t)sizeof(record) &&
			record.magic == MAGIC &&
			memchr(record.qmp_path, '\0', sizeof(record.qmp_path)) != NULL)
			recover(entry->d_name, &record);
		close(fd);
		unlinkat(dirfd(list), entry->d_name, 0);
	}
	if (list != NULL)
		closedir(list);
}

void freeze_pulse(void)
{
	uint32_t next = atomic_load(pulse) + 1;

	atomic_store(pulse, next != 0 ? next : 1);
}

void freeze_rest(void)
{
	atomic_store(pulse, 0);
}

/*
 * Until `fd` is at its end: hostd, `process`, is gone. Counts its own rounds rather than time: then
 * both were kept waiting when the machine slept.
 */
static void watch(int fd, int process)
{
	struct pollfd p = {.fd = fd, .events = POLLIN};
	uint32_t last = 0;
	unsigned same = 0;

	while (poll(&p, 1, FREEZE_PULSE_MS) == 0 || p.revents == 0) {
		uint32_t now = atomic_load(pulse);

		same = now != 0 && now == last ? same + 1 : 0;
		last = now;
		if (same * FREEZE_PULSE_MS < FREEZE_HUNG_MS)
			continue;
		log_error("edgeplex-hostd hangs: it is killed, and its VMs are resumed");
		if (pidfd_send_signal(process, SIGKILL, NULL, 0) < 0)
			log_error("it can't be killed: %s", strerror(errno));
		same = 0;
	}
}

int freeze_start_guard(const char *dir)
{
	const int both = PROT_READ | PROT_WRITE, flags = MAP_SHARED | MAP_ANONYMOUS;
	int ends[2], self;
	pid_t pid;

	// cppcheck-suppress invalidFunctionArg ; no file behind anonymous memory
	pulse = mmap(NULL, sizeof(*pulse), both, flags, -1, 0);
	if (pulse == MAP_FAILED)
		return errno;
	self = pidfd_open(getpid(), 0);
	if (self < 0)
		return errno;
	if (pipe2(ends, O_CLOEXEC) < 0)
		return errno;
	pid = fork();
	if (pid != 0) {
		close(self);
		close(ends[0]); /* the other end closes with this process */
		if (pid > 0)
			return 0;
		close(ends[1]);
		return errno;
	}
	close(ends[1]);
	setsid();
	signal(SIGINT, SIG_IGN);
	signal(SIGTERM, SIG_IGN);
	signal(SIGHUP, SIG_IGN);
	prctl(PR_SET_NAME, "hostd-guard");
	watch(ends[0], self);
	freeze_recover(dir);
	_exit(0);
}
