/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "hostd/urgent.h"

#include <dirent.h>
#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/log.h"

/* Whose policy is to be changed, and to what. */
struct change {
	int from, from_priority; /* from_priority 0: any */
	int to, to_priority;
};

static const struct change to_urgent = {SCHED_OTHER, 0, SCHED_RR, URGENT_PRIORITY};
static const struct change to_ordinary = {SCHED_RR, URGENT_PRIORITY, SCHED_OTHER, 0};

static void change_thread(pid_t thread, const struct change *change)
{
	struct sched_param param;
	int policy = sched_getscheduler(thread);

	if (policy != change->from || sched_getparam(thread, &param) < 0 ||
		(change->from_priority != 0 && param.sched_priority != change->from_priority))
		return;
	param.sched_priority = change->to_priority;
	if (sched_setscheduler(thread, change->to, &param) < 0 && errno != ESRCH)
		log_debug("no such priority for a stop: %s", strerror(errno));
}

static void change_all(pid_t pid, const struct change *change)
{
	const struct dirent *entry;
	char path[32];
	DIR *tasks;

	snprintf(path, sizeof(path), "/proc/%d/task", (int)pid);
	tasks = opendir(path);
	while (tasks != NULL && (entry = readdir(tasks)) != NULL) {
		pid_t thread = (pid_t)strtol(entry->d_name, NULL, 10); /* 0: "." or ".." */

		if (thread > 0)
			change_thread(thread, change);
	}
	if (tasks != NULL)
		closedir(tasks);
}

void urgent_begin(pid_t qemu)
{
	const struct sched_param param = {.sched_priority = URGENT_PRIORITY};

	change_all(qemu, &to_urgent);
	if (sched_setscheduler(0, SCHED_RR | SCHED_RESET_ON_FORK, &param) < 0)
		log_debug("no real-time priority for a stop: %s", strerror(errno));
}

void urgent_end_qemu(pid_t qemu)
{
	change_all(qemu, &to_ordinary);
}

void urgent_end_self(void)
{
	sched_setscheduler(0, SCHED_OTHER, &(struct sched_param){0});
}

void urgent_end(pid_t qemu)
{
	urgent_end_qemu(qemu);
	urgent_end_self();
}
