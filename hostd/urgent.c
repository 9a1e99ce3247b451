/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "hostd/urgent.h"

#include <dirent.h>
#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/log.h"

static void set_all(pid_t pid, int policy, int priority)
{
	const struct sched_param param = {.sched_priority = priority};
	const struct dirent *entry;
	char path[32];
	DIR *tasks;

	snprintf(path, sizeof(path), "/proc/%d/task", (int)pid);
	tasks = opendir(path);
	while (tasks != NULL && (entry = readdir(tasks)) != NULL) {
		pid_t thread = (pid_t)strtol(entry->d_name, NULL, 10); /* 0: "." or ".." */

		if (thread > 0 && sched_setscheduler(thread, policy, &param) < 0 && errno != ESRCH)
			log_debug("no such priority for a stop: %s", strerror(errno));
	}
	if (tasks != NULL)
		closedir(tasks);
}

void urgent_begin(pid_t qemu)
{
	const struct sched_param param = {.sched_priority = 1};

	set_all(qemu, SCHED_RR, 1);
	if (sched_setscheduler(0, SCHED_RR | SCHED_RESET_ON_FORK, &param) < 0)
		log_debug("no real-time priority for a stop: %s", strerror(errno));
}

void urgent_end_qemu(pid_t qemu)
{
	set_all(qemu, SCHED_OTHER, 0);
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
