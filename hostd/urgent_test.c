/* SPDX-License-Identifier: GPL-2.0-or-later */

/* A process with threads stands for QEMU: are all of them urgent, and none of them afterwards? */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "hostd/urgent.h"

#define N_THREADS 3

static void *wait_for_ever(void *slot)
{
	*(volatile pid_t *)slot = gettid();
	while (pause() < 0)
		;
	return NULL;
}

/* Returns the process with its threads' ids in `threads`, shared with it. */
static pid_t start_process(volatile pid_t *threads)
{
	pid_t pid = fork();

	assert_true(pid >= 0);
	if (pid > 0)
		return pid;
	for (int i = 1; i < N_THREADS; i++) {
		pthread_t thread;

		if (pthread_create(&thread, NULL, wait_for_ever, (void *)(threads + i)) != 0)
			_exit(1);
	}
	wait_for_ever((void *)threads);
	_exit(1);
}

static void test_all_threads(void **state)
{
	const int both = PROT_READ | PROT_WRITE, flags = MAP_SHARED | MAP_ANONYMOUS;
	// cppcheck-suppress invalidFunctionArg ; no file behind anonymous memory
	volatile pid_t *threads = mmap(NULL, N_THREADS * sizeof(pid_t), both, flags, -1, 0);
	const struct sched_param param = {.sched_priority = 1}, plain = {0};
	pid_t pid;

	(void)state;
	if (sched_setscheduler(0, SCHED_RR, &param) < 0 && errno == EPERM)
		skip();
	assert_int_equal(sched_setscheduler(0, SCHED_OTHER, &plain), 0);
	assert_true(threads != MAP_FAILED);
	pid = start_process(threads);
	for (int i = 0; i < N_THREADS; i++)
		while (threads[i] == 0)
			sched_yield();
	urgent_begin(pid);
	for (int i = 0; i < N_THREADS; i++)
		assert_int_equal(sched_getscheduler(threads[i]), SCHED_RR);
	assert_int_equal(sched_getscheduler(0), SCHED_RR | SCHED_RESET_ON_FORK);
	urgent_end(pid);
	for (int i = 0; i < N_THREADS; i++)
		assert_int_equal(sched_getscheduler(threads[i]), SCHED_OTHER);
	assert_int_equal(sched_getscheduler(0), SCHED_OTHER);
	kill(pid, SIGKILL);
	assert_int_equal(waitpid(pid, NULL, 0), pid);
	/* Of one that is gone, nothing comes. */
	urgent_begin(pid);
	urgent_end(pid);
	assert_int_equal(sched_getscheduler(0), SCHED_OTHER);
	munmap((void *)threads, sizeof(pid_t) * N_THREADS);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(test_all_threads)};

	return cmocka_run_group_tests_name("urgent", tests, NULL, NULL);
}
