/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What a source sends, taken down frame by frame, then given to a stage whole, cut or changed. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

#include "hostd/bytes.h"
#include "hostd/epoch.h"

#define N_PAGES 2050
#define RAM_BYTES ((size_t)N_PAGES * PAGE_BYTES)
#define MAX_FRAMES 1000
#define STATE_BYTES 300000 /* two frames */

struct fixture {
	char dir[64], ram_path[80];
	struct stage_config config;
	struct epoch_sender *sender;
	struct frame
		frames[MAX_FRAMES]; /* what was sent and not yet delivered; payloads are ours */
	size_t n_frames;
	uint8_t *vm;     /* the source's memory */
	uint8_t *before; /* as the destination has it */
	uint8_t *state;
	uint8_t *ram; /* the standby's memory */
	struct stage *stage;
	unsigned seed;
};

static int record_frame(void *ctx, const struct frame *frame)
{
	struct fixture *f = ctx;
	uint8_t *payload = malloc(frame->length + 1);

	assert_true(f->n_frames < MAX_FRAMES);
	memcpy(payload, frame->payload, frame->length);
	f->frames[f->n_frames] = *frame;
	memcpy(f->frames[f->n_frames].uuid, f->config.uuid, 16);
	f->frames[f->n_frames++].payload = payload;
	return 0;
}

static void forget_frames(struct fixture *f)
{
	while (f->n_frames > 0)
		free((void *)(uintptr_t)f->frames[--f->n_frames].payload);
}

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	int fd;

	strcpy(f->dir, "/dev/shm/edgeplex-epoch-test-XXXXXX");
	assert_non_null(mkdtemp(f->dir));
	snprintf(f->ram_path, sizeof(f->ram_path), "%s/ram", f->dir);
	fd = open(f->ram_path, O_RDWR | O_CREAT, 0600);
	assert_int_equal(ftruncate(fd, RAM_BYTES), 0);
	f->ram = mmap(NULL, RAM_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	close(fd);
	f->config = (struct stage_config){
		.dir = f->dir,
		.uuid = "0123456789abcde",
		.ram_path = f->ram_path,
		.qmp_path = "/some/qmp",
		.limit = 64u << 20,
	};
	assert_int_equal(stage_create(&f->config, &f->stage, NULL), 0);
	f->sender = epoch_sender_create(record_frame, f);
	f->vm = calloc(1, RAM_BYTES);
	f->before = calloc(1, RAM_BYTES);
	f->state = calloc(1, STATE_BYTES);
	f->seed = 3;
	memset(f->ram, 0xee, RAM_BYTES); /* rubbish, as a standby may have */
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	/* A stage begins by removing what an older one left. */
	if (f->stage == NULL)
		assert_int_equal(stage_create(&f->config, &f->stage, NULL), 0);
	stage_destroy(f->stage, true);
	epoch_sender_destroy(f->sender);
	forget_frames(f);
	munmap(f->ram, RAM_BYTES);
	unlink(f->ram_path);
	assert_int_equal(rmdir(f->dir), 0); /* no staging file is left */
	free(f->vm);
	free(f->before);
	free(f->state);
	free(f);
	return 0;
}

static void change_memory(struct fixture *f, int n)
{
	for (int i = 0; i < n; i++) {
		uint8_t *page = f->vm + (size_t)rand_r(&f->seed) % N_PAGES * PAGE_BYTES;

		if (i % 7 == 0)
			memset(page, 0, PAGE_BYTES);
		else
			page[(size_t)rand_r(&f->seed) % PAGE_BYTES] = (uint8_t)rand_r(&f->seed);
	}
	for (size_t i = 0; i < STATE_BYTES; i += 100)
		f->state[i] = (uint8_t)rand_r(&f->seed);
}

static uint8_t *page_of(uint8_t *memory, size_t page)
{
	return memory + page * PAGE_BYTES;
}

static bool page_changed(struct fixture *f, size_t p)
{
	return memcmp(page_of(f->vm, p), page_of(f->before, p), PAGE_BYTES) != 0;
}

/* Two passes, as of a running VM. */
static void send_base(struct fixture *f)
{
	change_memory(f, 1500);
	for (size_t p = 0; p < N_PAGES; p++)
		epoch_send_page(f->sender, p, page_of(f->vm, p), NULL);
	memcpy(f->before, f->vm, RAM_BYTES);
	change_memory(f, 100);
	for (size_t p = 0; p < N_PAGES; p++) {
		if (page_changed(f, p))
			epoch_send_page(f->sender, p, page_of(f->vm, p), page_of(f->before, p));
	}
	memcpy(f->before, f->vm, RAM_BYTES);
	assert_int_equal(epoch_end(f->sender), 0);
}

static void send_epoch(struct fixture *f, int changes)
{
	change_memory(f, changes);
	for (size_t p = 0; p < N_PAGES; p++) {
		if (page_changed(f, p))
			epoch_send_page(f->sender, p, page_of(f->vm, p), page_of(f->before, p));
	}
	memcpy(f->before, f->vm, RAM_BYTES);
	assert_int_equal(epoch_send_state(f->sender, f->state, STATE_BYTES), 0);
	assert_int_equal(epoch_end(f->sender), 0);
}

/* Gives the first `n` frames to the stage. Each but an END must be half of something. */
static void deliver(struct fixture *f, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		enum stage_event event;
		const char *why;

		if (stage_frame(f->stage, &f->frames[i], &event, &why) != 0)
			fail_msg("frame %zu: %s", i, why);
		assert_int_equal(event, f->frames[i].type == FRAME_END ? STAGE_WHOLE : STAGE_MORE);
		if (event == STAGE_WHOLE)
			assert_int_equal(stage_apply(f->stage), 0);
	}
	if (n == f->n_frames)
		forget_frames(f);
}

static void deliver_all(struct fixture *f)
{
	deliver(f, f->n_frames);
}

static void assert_state(const struct stage *stage, const uint8_t *expected)
{
	uint8_t *got = malloc(STATE_BYTES + 1);
	int fd = stage_state(stage);

	assert_true(fd >= 0);
	assert_int_equal(read(fd, got, STATE_BYTES + 1), STATE_BYTES);
	assert_memory_equal(got, expected, STATE_BYTES);
	close(fd);
	free(got);
}

static void test_row_of_epochs(void **state)
{
	struct fixture *f = *state;

	send_base(f);
	deliver_all(f);
	assert_memory_equal(f->ram, f->vm, RAM_BYTES);
	assert_int_equal(stage_epoch(f->stage), 0);
	assert_int_equal(stage_state(f->stage), -1);
	for (uint64_t epoch = 1; epoch <= 30; epoch++) {
		send_epoch(f, epoch % 5 == 0 ? 0 : 60);
		assert_int_equal(epoch_number(f->sender), epoch + 1);
		deliver_all(f);
		assert_int_equal(stage_epoch(f->stage), epoch);
		assert_memory_equal(f->ram, f->vm, RAM_BYTES);
		assert_state(f->stage, f->state);
	}
}

/* An epoch that is cut off anywhere leaves memory and state of the epoch before. */
static void test_cut_epoch_changes_nothing(void **state)
{
	struct fixture *f = *state;
	uint8_t *good = malloc(RAM_BYTES), *good_state = malloc(STATE_BYTES);

	send_base(f);
	send_epoch(f, 60);
	deliver_all(f);
	memcpy(good, f->vm, RAM_BYTES);
	memcpy(good_state, f->state, STATE_BYTES);
	send_epoch(f, 400);
	assert_true(f->n_frames > 6);
	for (size_t i = 0; i + 1 < f->n_frames; i++) {
		enum stage_event event;

		assert_int_equal(stage_frame(f->stage, &f->frames[i], &event, NULL), 0);
		assert_memory_equal(f->ram, good, RAM_BYTES);
		assert_int_equal(stage_epoch(f->stage), 1);
		assert_state(f->stage, good_state);
	}
	/* The process dies here; its successor finds the epoch before. */
	stage_destroy(f->stage, false);
	assert_int_equal(stage_reopen(&f->config, &f->stage, NULL), 0);
	assert_int_equal(stage_epoch(f->stage), 1);
	assert_memory_equal(f->ram, good, RAM_BYTES);
	assert_state(f->stage, good_state);
	assert_string_equal(stage_ram_path(f->stage), f->ram_path);
	assert_string_equal(stage_qmp_path(f->stage), "/some/qmp");
	free(good);
	free(good_state);
}

/* Takes the whole epoch without writing it to the memory. */
static void take_without_applying(struct fixture *f)
{
	enum stage_event event = STAGE_MORE;

	for (size_t i = 0; i < f->n_frames; i++)
		assert_int_equal(stage_frame(f->stage, &f->frames[i], &event, NULL), 0);
	assert_int_equal(event, STAGE_WHOLE);
}

/* The worst that a torn write to the memory can do: rubbish in every page of the epoch. */
static void test_torn_apply_is_mended(void **state)
{
	struct fixture *f = *state;
	uint8_t *old = malloc(RAM_BYTES);

	send_base(f);
	send_epoch(f, 60);
	deliver_all(f);
	memcpy(old, f->vm, RAM_BYTES);
	send_epoch(f, 300);
	take_without_applying(f);
	assert_memory_equal(f->ram, old, RAM_BYTES);
	for (size_t p = 0; p < N_PAGES; p++) {
		if (memcmp(page_of(old, p), page_of(f->vm, p), PAGE_BYTES) != 0)
			memset(page_of(f->ram, p), 0xab, PAGE_BYTES / 2);
	}
	stage_destroy(f->stage, false);
	assert_int_equal(stage_reopen(&f->config, &f->stage, NULL), 0);
	assert_int_equal(stage_epoch(f->stage), 2);
	assert_memory_equal(f->ram, f->vm, RAM_BYTES);
	assert_state(f->stage, f->state);
	free(old);
}

/* The receiving process is killed at any moment of taking and applying a row of epochs. */
static void test_killed_at_any_moment(void **state)
{
	struct fixture *f = *state;
	uint8_t *images[6], *states[6];
	size_t n;

	send_base(f);
	for (int i = 0; i < 6; i++) {
		send_epoch(f, 200);
		images[i] = malloc(RAM_BYTES);
		states[i] = malloc(STATE_BYTES);
		memcpy(images[i], f->vm, RAM_BYTES);
		memcpy(states[i], f->state, STATE_BYTES);
	}
	n = f->n_frames;
	for (int round = 0; round < 40; round++) {
		int status, pipefd[2];
		uint64_t epoch;
		char byte;
		pid_t pid;

		stage_destroy(f->stage, true);
		assert_int_equal(pipe(pipefd), 0);
		pid = fork();
		if (pid == 0) {
			if (stage_create(&f->config, &f->stage, NULL) != 0)
				_exit(1);
			for (size_t i = 0; i < n; i++) {
				enum stage_event event;

				if (stage_frame(f->stage, &f->frames[i], &event, NULL) != 0)
					_exit(1);
				if (f->frames[i].epoch == 1 && write(pipefd[1], "", 1) != 1)
					_exit(1);
				stage_apply(f->stage);
			}
			pause();
		}
		close(pipefd[1]);
		assert_int_equal(read(pipefd[0], &byte, 1), 1);
		/* Spreads the kills; what is asserted holds for every moment. */
		for (int i = rand_r(&f->seed) % 20000; i > 0; i--)
			__asm__ volatile("pause");
		kill(pid, SIGKILL);
		waitpid(pid, &status, 0);
		close(pipefd[0]);
		assert_true(WIFSIGNALED(status));
		f->stage = NULL;
		if (stage_reopen(&f->config, &f->stage, NULL) == ENOENT)
			continue;
		epoch = stage_epoch(f->stage);
		assert_in_range(epoch, 1, 6);
		assert_memory_equal(f->ram, images[epoch - 1], RAM_BYTES);
		assert_state(f->stage, states[epoch - 1]);
	}
	for (int i = 0; i < 6; i++) {
		free(images[i]);
		free(states[i]);
	}
}

/* ---- what isn't honest ------------------------------------------------------------------- */

/* The base and epoch 1 are in; epoch 2 is sent, not delivered. */
static void prepare_second(struct fixture *f)
{
	send_base(f);
	send_epoch(f, 60);
	deliver_all(f);
	send_epoch(f, 400);
}

/* The frame is refused, everything after it too, and epoch 1 is what there is. */
static void assert_refused(struct fixture *f, const struct frame *frame, int error)
{
	enum stage_event event;
	const char *why = NULL;

	assert_int_equal(stage_frame(f->stage, frame, &event, &why), error);
	assert_true(why != NULL && why[0] != '\0');
	assert_int_equal(stage_frame(f->stage, &f->frames[0], &event, NULL), EPROTO);
	assert_int_equal(stage_epoch(f->stage), 1);
	assert_int_equal(stage_apply(f->stage), 0);
}

static void test_repeated_frame(void **state)
{
	struct fixture *f = *state;

	prepare_second(f);
	deliver(f, 2);
	assert_refused(f, &f->frames[1], EPROTO);
}

static void test_left_out_frame(void **state)
{
	struct fixture *f = *state;
	enum stage_event event;

	prepare_second(f);
	deliver(f, 1);
	for (size_t i = 2; i + 1 < f->n_frames; i++)
		assert_int_equal(stage_frame(f->stage, &f->frames[i], &event, NULL), 0);
	assert_refused(f, &f->frames[f->n_frames - 1], EPROTO);
}

static void test_late_epoch(void **state)
{
	struct fixture *f = *state;
	struct frame frame;

	prepare_second(f);
	frame = f->frames[0];
	frame.epoch = 1;
	assert_refused(f, &frame, EPROTO);
}

static void test_early_epoch(void **state)
{
	struct fixture *f = *state;
	struct frame frame;

	prepare_second(f);
	frame = f->frames[0];
	frame.epoch = 3;
	assert_refused(f, &frame, EPROTO);
}

static void test_other_vm(void **state)
{
	struct fixture *f = *state;
	struct frame frame;

	prepare_second(f);
	frame = f->frames[0];
	frame.uuid[3] ^= 1;
	assert_refused(f, &frame, EPROTO);
}

static void test_wrong_checksum(void **state)
{
	struct fixture *f = *state;

	prepare_second(f);
	deliver(f, f->n_frames - 1);
	((uint8_t *)(uintptr_t)f->frames[f->n_frames - 1].payload)[23] ^= 1;
	assert_refused(f, &f->frames[f->n_frames - 1], EPROTO);
}

/* The standby's memory isn't what the source believes: the differences give something else. */
static void test_wrong_base(void **state)
{
	struct fixture *f = *state;

	prepare_second(f);
	for (size_t p = 0; p < N_PAGES; p++)
		page_of(f->ram, p)[17] ^= 4;
	deliver(f, f->n_frames - 1);
	assert_refused(f, &f->frames[f->n_frames - 1], EPROTO);
}

static void test_cut_frames(void **state)
{
	struct fixture *f = *state;
	struct frame frame;

	prepare_second(f);
	frame = f->frames[0];
	frame.length /= 2;
	assert_refused(f, &frame, EPROTO);
}

static void test_cut_end(void **state)
{
	struct fixture *f = *state;
	struct frame frame;

	prepare_second(f);
	deliver(f, f->n_frames - 1);
	frame = f->frames[f->n_frames - 1];
	frame.length--;
	assert_refused(f, &frame, EPROTO);
}

static void test_frame_before_apply(void **state)
{
	struct fixture *f = *state;
	size_t n;

	send_base(f);
	deliver_all(f);
	send_epoch(f, 10);
	n = f->n_frames;
	send_epoch(f, 10);
	for (size_t i = 0; i < n; i++) {
		enum stage_event event;

		assert_int_equal(stage_frame(f->stage, &f->frames[i], &event, NULL), 0);
	}
	assert_refused(f, &f->frames[n], EPROTO);
}

static void test_limit(void **state)
{
	struct fixture *f = *state;
	enum stage_event event;
	int error = 0;

	stage_destroy(f->stage, true);
	f->config.limit = 1u << 20;
	assert_int_equal(stage_create(&f->config, &f->stage, NULL), 0);
	send_base(f); /* larger than the limit, and allowed: it isn't staged */
	send_epoch(f, 20);
	deliver_all(f);
	send_epoch(f, 2000);
	for (size_t i = 0; i < f->n_frames && error == 0; i++)
		error = stage_frame(f->stage, &f->frames[i], &event, NULL);
	assert_int_equal(error, ENOSPC);
	assert_int_equal(stage_epoch(f->stage), 1);
}

static void test_damaged_files_are_not_used(void **state)
{
	struct fixture *f = *state;
	char path[128], uuid[UUID_STRLEN];
	int fd;

	send_base(f);
	send_epoch(f, 60);
	deliver_all(f);
	stage_destroy(f->stage, false);
	f->stage = NULL;
	snprintf(path, sizeof(path), "%s/%s.epoch-1", f->dir,
		frame_format_uuid(f->config.uuid, uuid));
	fd = open(path, O_RDWR);
	assert_true(fd >= 0);
	assert_int_equal(pwrite(fd, "x", 1, 0), 1);
	close(fd);
	assert_int_equal(stage_reopen(&f->config, &f->stage, NULL), ENOENT);
}

/* The path leads to another file meanwhile: another VM's memory, perhaps. */
static void test_reopen_wants_the_same_memory(void **state)
{
	struct fixture *f = *state;
	char other[96];
	int fd;

	send_base(f);
	send_epoch(f, 60);
	deliver_all(f);
	stage_destroy(f->stage, false);
	f->stage = NULL;
	snprintf(other, sizeof(other), "%s.new", f->ram_path);
	fd = open(other, O_RDWR | O_CREAT, 0600);
	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, RAM_BYTES), 0);
	close(fd);
	assert_int_equal(rename(other, f->ram_path), 0);
	assert_int_equal(stage_reopen(&f->config, &f->stage, NULL), EINVAL);
}

static void test_frame_header(void **state)
{
	struct frame frame = {.type = FRAME_STATE, .epoch = 77, .uuid = "abc", .length = 1000}, got;
	uint8_t header[FRAME_HEADER];
	char text[UUID_STRLEN];
	uint8_t uuid[16];

	(void)state;
	frame_put_header(&frame, header);
	assert_int_equal(frame_get_header(header, &got), 0);
	assert_int_equal(got.type, frame.type);
	assert_int_equal(got.epoch, frame.epoch);
	assert_int_equal(got.length, frame.length);
	assert_memory_equal(got.uuid, frame.uuid, 16);
	for (int i = 0; i < 5; i++) {
		header[i] ^= 0x80;
		assert_int_equal(frame_get_header(header, &got), EBADMSG);
		header[i] ^= 0x80;
	}
	frame.length = FRAME_MAX_PAYLOAD + 1;
	frame_put_header(&frame, header);
	assert_int_equal(frame_get_header(header, &got), EBADMSG);

	assert_int_equal(frame_parse_uuid("01234567-89ab-cdef-0123-456789ABCDEF", uuid), 0);
	assert_string_equal(frame_format_uuid(uuid, text), "01234567-89ab-cdef-0123-456789abcdef");
	assert_int_equal(frame_parse_uuid("01234567-89ab-cdef-0123-456789abcde", uuid), EINVAL);
	assert_int_equal(frame_parse_uuid("01234567-89ab-cdef-0123-456789abcdeg", uuid), EINVAL);
	assert_int_equal(frame_parse_uuid("../../../etc/passwd-0123-456789abcde", uuid), EINVAL);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(test_row_of_epochs),
		TEST(test_cut_epoch_changes_nothing),
		TEST(test_torn_apply_is_mended),
		TEST(test_killed_at_any_moment),
		TEST(test_repeated_frame),
		TEST(test_left_out_frame),
		TEST(test_late_epoch),
		TEST(test_early_epoch),
		TEST(test_other_vm),
		TEST(test_wrong_checksum),
		TEST(test_wrong_base),
		TEST(test_cut_frames),
		TEST(test_cut_end),
		TEST(test_frame_before_apply),
		TEST(test_limit),
		TEST(test_damaged_files_are_not_used),
		TEST(test_reopen_wants_the_same_memory),
		cmocka_unit_test(test_frame_header),
	};
#undef TEST

	return cmocka_run_group_tests(tests, NULL, NULL);
}
