/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Both engines against a process that writes to the memory as QEMU would. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

#include "hostd/dirty.h"

/* Not a multiple of 256 KiB, as our VMs' memory. */
#define RAM_BYTES ((64u << 20) + (8u << 10))
#define N_PAGES (RAM_BYTES / PAGE_BYTES)

static const char *preload; /* libedgeplex-wp.so */
static char self[4096];     /* this program */
static bool have_pagemap;   /* the kernel and our rights allow DIRTY_PAGEMAP */

/* ---- the writer ------------------------------------------------------------------------------
 * Commands by its standard input: 'w' writes to 500 random pages, 'r' writes at random until the
 * next command, 's' writes what is there already; each is answered by one byte when it is done.
 */

static void write_some(uint8_t *ram, unsigned *seed, int n)
{
	for (int i = 0; i < n; i++)
		ram[(size_t)rand_r(seed) % RAM_BYTES] = (uint8_t)rand_r(seed);
}

static int writer(const char *path)
{
	int fd = open(path, O_RDWR | O_CLOEXEC);
	uint8_t *ram = mmap(NULL, RAM_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	unsigned seed = 1;
	char command;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (fd < 0 || ram == MAP_FAILED || write(1, "+", 1) != 1)
		return 1;
	while (read(0, &command, 1) == 1) {
		if (command == 'w') {
			write_some(ram, &seed, 500);
		} else if (command == 's') {
			for (size_t page = 0; page < N_PAGES; page += 10)
				((volatile uint8_t *)ram)[page * PAGE_BYTES] =
					ram[page * PAGE_BYTES];
		} else if (command == 'r') {
			fcntl(0, F_SETFL, O_NONBLOCK);
			while (read(0, &command, 1) != 1)
				write_some(ram, &seed, 50);
			fcntl(0, F_SETFL, 0);
		}
		if (write(1, "+", 1) != 1)
			return 1;
	}
	return 0;
}

struct fixture {
	char path[64];
	pid_t pid;
	int to, from;
	uint8_t *ram;     /* as the writer sees it */
	uint8_t *mirror;  /* what was taken */
	uint8_t *earlier; /* the memory at the last snapshot */
};

static void expect_done(struct fixture *f)
{
	char byte;

	assert_int_equal(read(f->from, &byte, 1), 1);
}

static void tell(struct fixture *f, char command)
{
	assert_int_equal(write(f->to, &command, 1), 1);
}

static void do_command(struct fixture *f, char command)
{
	tell(f, command);
	expect_done(f);
}

static void start_writer(struct fixture *f, bool watched)
{
	int in[2], out[2];

	assert_int_equal(pipe2(in, O_CLOEXEC), 0);
	assert_int_equal(pipe2(out, O_CLOEXEC), 0);
	f->pid = fork();
	assert_true(f->pid >= 0);
	if (f->pid == 0) {
		dup2(in[0], 0);
		dup2(out[1], 1);
		if (watched) {
			setenv("LD_PRELOAD", preload, 1);
			setenv("EDGEPLEX_WP_RAM", f->path, 1);
			setenv("ASAN_OPTIONS", "verify_asan_link_order=0", 1);
		}
		execl(self, self, "--writer", f->path, (char *)NULL);
		_exit(127);
	}
	close(in[0]);
	close(out[1]);
	f->to = in[1];
	f->from = out[0];
	expect_done(f);
}

static int setup(void **state, bool watched)
{
	struct fixture *f = calloc(1, sizeof(*f));
	int fd;

	strcpy(f->path, "/dev/shm/edgeplex-dirty-test-XXXXXX");
	fd = mkstemp(f->path);
	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, RAM_BYTES), 0);
	f->ram = mmap(NULL, RAM_BYTES, PROT_READ, MAP_SHARED, fd, 0);
	assert_ptr_not_equal(f->ram, MAP_FAILED);
	close(fd);
	f->mirror = malloc(RAM_BYTES);
	f->earlier = malloc(RAM_BYTES);
	start_writer(f, watched);
	*state = f;
	return 0;
}

static int setup_watched(void **state)
{
	return setup(state, true);
}

static int setup_plain(void **state)
{
	return setup(state, false);
}

static int teardown(void **state)
{
	struct fixture *f = *state;
	int status;

	close(f->to);
	waitpid(f->pid, &status, 0);
	close(f->from);
	munmap(f->ram, RAM_BYTES);
	unlink(f->path);
	free(f->mirror);
	free(f->earlier);
	free(f);
	return 0;
}

/* ---- the tests --------------------------------------------------------------------------- */

static struct dirty *open_dirty(struct fixture *f, enum dirty_engine engine, bool keep_copy)
{
	struct dirty *dirty;
	char why[256] = "";

	if (dirty_open(f->path, f->pid, engine, keep_copy, &dirty, why) != 0)
		fail_msg("%s: %s", dirty_engine_name(engine), why);
	assert_int_equal(dirty_engine(dirty), engine);
	assert_int_equal(dirty_n_pages(dirty), N_PAGES);
	return dirty;
}

/* Scans, and takes every page of the set. Returns the size of the set. */
static size_t take_all(struct fixture *f, struct dirty *dirty)
{
	const uint64_t *set;
	size_t n, taken = 0;

	assert_int_equal(dirty_scan(dirty, &set, &n), 0);
	for (size_t p = page_set_next(set, 0, N_PAGES); p < N_PAGES;
		p = page_set_next(set, p + 1, N_PAGES)) {
		dirty_take(dirty, p, f->mirror + p * PAGE_BYTES);
		taken++;
	}
	assert_int_equal(taken, n);
	return n;
}

static void snapshot(struct fixture *f)
{
	memcpy(f->earlier, f->ram, RAM_BYTES);
}

static bool differs(const uint8_t *a, const uint8_t *b, size_t page)
{
	return memcmp(a + page * PAGE_BYTES, b + page * PAGE_BYTES, PAGE_BYTES) != 0;
}

static void check_sets(struct fixture *f, enum dirty_engine engine, bool keep_copy)
{
	struct dirty *dirty = open_dirty(f, engine, keep_copy);
	uint8_t now[PAGE_BYTES];
	const uint64_t *set;
	size_t n, changed;

	do_command(f, 'w');
	assert_int_equal(take_all(f, dirty), N_PAGES); /* the first set has all */
	assert_memory_equal(f->mirror, f->ram, RAM_BYTES);
	assert_int_equal(take_all(f, dirty), 0);

	for (int round = 0; round < 5; round++) {
		snapshot(f);
		do_command(f, 'w');
		assert_int_equal(dirty_scan(dirty, &set, &n), 0);
		changed = 0;
		for (size_t p = 0; p < N_PAGES; p++) {
			if (!differs(f->ram, f->earlier, p))
				continue;
			assert_true(page_set_has(set, p));
			changed++;
		}
		assert_true(changed > 100);
		/* A byte may be overwritten by its own value: one in 256. */
		assert_in_range(n, changed, 500);
		if (engine == DIRTY_COMPARE)
			assert_int_equal(n, changed);
		for (size_t p = page_set_next(set, 0, N_PAGES); p < N_PAGES;
			p = page_set_next(set, p + 1, N_PAGES)) {
			const uint8_t *before = dirty_take(dirty, p, now);

			assert_memory_equal(now, f->ram + p * PAGE_BYTES, PAGE_BYTES);
			if (keep_copy)
				assert_memory_equal(
					before, f->earlier + p * PAGE_BYTES, PAGE_BYTES);
			else
				assert_null(before);
		}
	}
	dirty_close(dirty);
}

static void check_untaken_pages_come_again(struct fixture *f, enum dirty_engine engine)
{
	struct dirty *dirty = open_dirty(f, engine, true);
	const uint64_t *set;
	size_t n, again, first;

	take_all(f, dirty);
	do_command(f, 'w');
	assert_int_equal(dirty_scan(dirty, &set, &n), 0);
	first = page_set_next(set, 0, N_PAGES);
	dirty_take(dirty, first, f->mirror + first * PAGE_BYTES);
	assert_int_equal(dirty_scan(dirty, &set, &again), 0);
	assert_int_equal(again, n - 1);
	assert_false(page_set_has(set, first));
	dirty_forget(dirty);
	assert_int_equal(dirty_scan(dirty, &set, &n), 0);
	assert_int_equal(n, N_PAGES);
	assert_null(dirty_take(dirty, first, f->mirror));
	dirty_close(dirty);
}

/* Pages are taken while they are written; after the writer stopped nothing may be missing. */
static void check_running_writer(struct fixture *f, enum dirty_engine engine, bool keep_copy)
{
	struct dirty *dirty = open_dirty(f, engine, keep_copy);

	for (int round = 0; round < 5; round++) {
		tell(f, 'r');
		for (int pass = 0; pass < 20; pass++)
			take_all(f, dirty);
		tell(f, '.');
		expect_done(f);
		take_all(f, dirty);
		assert_memory_equal(f->mirror, f->ram, RAM_BYTES);
	}
	dirty_close(dirty);
}

static void test_pagemap_sets(void **state)
{
	if (!have_pagemap)
		skip();
	check_sets(*state, DIRTY_PAGEMAP, false);
	check_sets(*state, DIRTY_PAGEMAP, true);
}

static void test_pagemap_untaken(void **state)
{
	if (!have_pagemap)
		skip();
	check_untaken_pages_come_again(*state, DIRTY_PAGEMAP);
}

static void test_pagemap_running(void **state)
{
	if (!have_pagemap)
		skip();
	check_running_writer(*state, DIRTY_PAGEMAP, false);
	check_running_writer(*state, DIRTY_PAGEMAP, true);
}

static void test_pagemap_is_chosen(void **state)
{
	struct fixture *f = *state;
	struct dirty *dirty;

	if (!have_pagemap)
		skip();
	assert_int_equal(dirty_open(f->path, f->pid, DIRTY_AUTO, false, &dirty, NULL), 0);
	assert_int_equal(dirty_engine(dirty), DIRTY_PAGEMAP);
	dirty_close(dirty);
}

static void test_compare_sets(void **state)
{
	check_sets(*state, DIRTY_COMPARE, true);
}

static void test_compare_untaken(void **state)
{
	check_untaken_pages_come_again(*state, DIRTY_COMPARE);
}

static void test_compare_running(void **state)
{
	check_running_writer(*state, DIRTY_COMPARE, true);
}

static void test_same_values_are_no_change(void **state)
{
	struct fixture *f = *state;
	struct dirty *dirty = open_dirty(f, DIRTY_COMPARE, true);

	do_command(f, 'w');
	take_all(f, dirty);
	do_command(f, 's');
	assert_int_equal(take_all(f, dirty), 0);
	dirty_close(dirty);
}

/* A QEMU without the library falls back, and says why; asked for expressly, it is an error. */
static void test_fallback(void **state)
{
	struct fixture *f = *state;
	struct dirty *dirty;
	char why[256];

	assert_int_equal(dirty_open(f->path, f->pid, DIRTY_AUTO, false, &dirty, why), 0);
	assert_int_equal(dirty_engine(dirty), DIRTY_COMPARE);
	assert_non_null(strstr(dirty_reason(dirty), "LD_PRELOAD"));
	dirty_close(dirty);
	assert_int_equal(dirty_open(f->path, f->pid, DIRTY_PAGEMAP, false, &dirty, why), ENOTSUP);
	assert_non_null(strstr(why, "LD_PRELOAD"));
	/* This process never mapped it for writing. */
	assert_int_equal(dirty_open(f->path, getpid(), DIRTY_PAGEMAP, false, &dirty, why), ENOTSUP);
}

/* Somebody else writes to a watched QEMU's memory: PAGEMAP_SCAN would not see that. */
static void test_second_writer_forces_fallback(void **state)
{
	struct fixture *f = *state, other = *f;
	struct dirty *dirty;
	int status;

	if (!have_pagemap)
		skip();
	start_writer(&other, false);
	assert_int_equal(dirty_open(f->path, f->pid, DIRTY_AUTO, false, &dirty, NULL), 0);
	assert_int_equal(dirty_engine(dirty), DIRTY_COMPARE);
	dirty_close(dirty);
	close(other.to);
	close(other.from);
	waitpid(other.pid, &status, 0);
}

static void test_bad_files(void **state)
{
	char path[] = "/dev/shm/edgeplex-dirty-test-XXXXXX", why[256];
	int fd = mkstemp(path);
	struct dirty *dirty;

	(void)state;
	assert_int_equal(dirty_open(path, 0, DIRTY_COMPARE, true, &dirty, why), EINVAL);
	assert_int_equal(ftruncate(fd, 5000), 0);
	assert_int_equal(dirty_open(path, 0, DIRTY_COMPARE, true, &dirty, why), EINVAL);
	close(fd);
	unlink(path);
	assert_int_equal(dirty_open(path, 0, DIRTY_COMPARE, true, &dirty, why), ENOENT);
}

/* Tries the engine once: an older kernel, or a container, may not offer it. */
static bool probe_pagemap(void)
{
	struct fixture *f;
	struct dirty *dirty = NULL;
	char why[256];
	int error;

	setup_watched((void **)&f);
	error = dirty_open(f->path, f->pid, DIRTY_PAGEMAP, false, &dirty, why);
	dirty_close(dirty);
	teardown((void **)&f);
	if (error != 0)
		print_message("tests of the pagemap engine are skipped: %s\n", why);
	return error == 0;
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_pagemap_sets, setup_watched, teardown),
		cmocka_unit_test_setup_teardown(test_pagemap_untaken, setup_watched, teardown),
		cmocka_unit_test_setup_teardown(test_pagemap_running, setup_watched, teardown),
		cmocka_unit_test_setup_teardown(test_pagemap_is_chosen, setup_watched, teardown),
		cmocka_unit_test_setup_teardown(
			test_second_writer_forces_fallback, setup_watched, teardown),
		cmocka_unit_test_setup_teardown(test_compare_sets, setup_plain, teardown),
		cmocka_unit_test_setup_teardown(test_compare_untaken, setup_plain, teardown),
		cmocka_unit_test_setup_teardown(test_compare_running, setup_plain, teardown),
		cmocka_unit_test_setup_teardown(
			test_same_values_are_no_change, setup_plain, teardown),
		cmocka_unit_test_setup_teardown(test_fallback, setup_plain, teardown),
		cmocka_unit_test(test_bad_files),
	};
	ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);

	if (argc == 3 && strcmp(argv[1], "--writer") == 0)
		return writer(argv[2]);
	preload = WP_PRELOAD;
	if (n < 0 || access(preload, R_OK) < 0) {
		fprintf(stderr, "%s: %s\n", preload, strerror(errno));
		return 1;
	}
	have_pagemap = probe_pagemap();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
