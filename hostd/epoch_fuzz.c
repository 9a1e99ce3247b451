/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * libFuzzer: a stage takes any frames. The input is a row of frames: a byte for the kind, one for
 * the epoch, two for the length, then the payload; a batch's records, and device state, are given
 * as stored ones if the kind's uppermost bit isn't set.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "hostd/bytes.h"
#include "hostd/epoch.h"

#define N_PAGES 16
#define LIMIT 100000

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static char dir[] = "/tmp/edgeplex-epoch-fuzz-XXXXXX";
static char ram_path[64];

static void remove_files(void)
{
	unlink(ram_path);
	rmdir(dir);
}

static void make_files(void)
{
	int fd;

	if (mkdtemp(dir) == NULL)
		abort();
	snprintf(ram_path, sizeof(ram_path), "%s/ram", dir);
	fd = open(ram_path, O_RDWR | O_CREAT, 0600);
	if (fd < 0 || ftruncate(fd, N_PAGES * PAGE_BYTES) < 0)
		abort();
	close(fd);
	atexit(remove_files);
}

static int give_frame(struct stage *stage, struct frame *frame, size_t length, bool stored)
{
	static uint8_t batch[8 + 65536];
	enum stage_event event;
	int error;

	if (stored && frame->type != FRAME_END) {
		put_be32(batch, (uint32_t)length);
		put_be32(batch + 4, 0);
		memcpy(batch + 8, frame->payload, length);
		frame->payload = batch;
		length += 8;
	}
	frame->length = (uint32_t)length;
	error = stage_frame(stage, frame, &event, NULL);
	if (error == 0 && event == STAGE_WHOLE && stage_apply(stage) != 0)
		abort();
	return error;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct stage_config config = {
		.dir = dir, .ram_path = ram_path, .qmp_path = "", .limit = LIMIT};
	struct stage *stage;

	if (ram_path[0] == '\0')
		make_files();
	if (stage_create(&config, &stage, NULL) != 0)
		abort();
	while (size >= 4) {
		size_t length = (size_t)data[2] << 8 | data[3];
		struct frame frame = {
			.type = (enum frame_type)(FRAME_PAGES + (data[0] & 0x7f) % 3),
			.epoch = data[1],
			.payload = data + 4,
		};

		if (length > size - 4)
			length = size - 4;
		if (give_frame(stage, &frame, length, (data[0] & 0x80) == 0) != 0)
			break;
		data += 4 + length;
		size -= 4 + length;
	}
	stage_destroy(stage, true);
	return 0;
}
