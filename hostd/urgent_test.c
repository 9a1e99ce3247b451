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

struct fixture {
	volatile pid_t *threads;
	pid_t pid;
};

static int set_up(void **state)
{
	const int both = PROT_READ | PROT_WRITE, flags = MAP_SHARED | MAP_ANONYMOUS;
	const struct sched_param param = {.sched_priority = 1}, plain = {0};
	static struct fixture f;

	if (sched_setscheduler(0, SCHED_RR, &param) < 0 && errno == EPERM)
		skip();
	assert_int_equal(sched_setscheduler(0, SCHED_OTHER, &plain), 0);
	// cppcheck-suppress invalidFunctionArg ; no file behind anonymous memory
	f.threads = mmap(NULL, N_THREADS * sizeof(pid_t), both, flags, -1, 0);
	assert_true(f.threads != MAP_FAILED);
	f.pid = start_process(f.threads);
	for (int i = 0; i < N_THREADS; i++)
		while (f.threads[i] == 0)
			sched_yield();
	*state = &f;
	return 0;
}

static int tear_down(void **state)
{
	const struct fixture *f = *state;

	kill(f->pid, SIGKILL);
	waitpid(f->pid, NULL, 0);
	munmap((void *)f->threads, sizeof(pid_t) * N_THREADS);
	return 0;
}

static void test_all_threads(void **state)
{
	const struct fixture *f = *state;

	urgent_begin(f->pid);
	for (int i = 0; i < N_THREADS; i++)
		assert_int_equal(sched_getscheduler(f->threads[i]), SCHED_RR);
	assert_int_equal(sched_getscheduler(0), SCHED_RR | SCHED_RESET_ON_FORK);
	urgent_end(f->pid);
	for (int i = 0; i < N_THREADS; i++)
		assert_int_equal(sched_getscheduler(f->threads[i]), SCHED_OTHER);
	assert_int_equal(sched_getscheduler(0), SCHED_OTHER);
}

static void test_who_is_real_time_stays_so(void **state)
{
	const struct sched_param operators = {.sched_priority = 7};
	const struct fixture *f = *state;
	struct sched_param param;

	assert_int_equal(sched_setscheduler(f->threads[1], SCHED_FIFO, &operators), 0);
	urgent_begin(f->pid);
	assert_int_equal(sched_getscheduler(f->threads[1]), SCHED_FIFO);
	urgent_end(f->pid);
	assert_int_equal(sched_getscheduler(f->threads[1]), SCHED_FIFO);
	assert_int_equal(sched_getparam(f->threads[1], &param), 0);
	assert_int_equal(param.sched_priority, 7);
	assert_int_equal(sched_getscheduler(f->threads[2]), SCHED_OTHER);
}

static void test_of_one_that_is_gone_nothing_comes(void **state)
{
	const struct fixture *f = *state;

	kill(f->pid, SIGKILL);
	assert_int_equal(waitpid(f->pid, NULL, 0), f->pid);
	urgent_begin(f->pid);
	urgent_end(f->pid);
	assert_int_equal(sched_getscheduler(0), SCHED_OTHER);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_all_threads, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_who_is_real_time_stays_so, set_up, tear_down),
		cmocka_unit_test_setup_teardown(
			test_of_one_that_is_gone_nothing_comes, set_up, tear_down),
	};

	return cmocka_run_group_tests_name("urgent", tests, NULL, NULL);
}
