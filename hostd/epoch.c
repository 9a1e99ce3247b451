/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "hostd/epoch.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include "hostd/bytes.h"
#include "hostd/delta.h"
#include "hostd/state.h"

/*
 * The checksum of an epoch: XXH3 over its pages in the order sent (number, then content, none for
 * a zero page), then the device state. It covers what pages *are*: a difference that met another
 * base than the sender's is noticed.
 */
#define ZERO_PAGE (1ull << 63)

static void sum_page(XXH3_state_t *sum, uint64_t page, const uint8_t *content)
{
	uint8_t number[8];

	put_be64(number, page | (content == NULL ? ZERO_PAGE : 0));
	XXH3_64bits_update(sum, number, sizeof(number));
	if (content != NULL)
		XXH3_64bits_update(sum, content, PAGE_BYTES);
}

#define END_BYTES 24 /* u64 pages, u64 bytes of state, u64 checksum */

/* ---- source ------------------------------------------------------------------------------ */

struct epoch_sender {
	epoch_send_fn send;
	void *ctx;
	struct delta_encoder *encoder;
	struct state_history *history;
	XXH3_state_t *sum;
	uint64_t epoch;
	struct epoch_counts counts;
};

static void begin_epoch(struct epoch_sender *sender, uint64_t epoch)
{
	sender->epoch = epoch;
	memset(&sender->counts, 0, sizeof(sender->counts));
	XXH3_64bits_reset(sender->sum);
}

struct epoch_sender *epoch_sender_create(epoch_send_fn send, void *ctx)
{
	struct epoch_sender *sender = calloc(1, sizeof(*sender));

	if (sender == NULL)
		return NULL;
	sender->send = send;
	sender->ctx = ctx;
	sender->encoder = delta_encoder_create();
	sender->history = state_create();
	sender->sum = XXH3_createState();
	if (sender->encoder == NULL || sender->history == NULL || sender->sum == NULL) {
		epoch_sender_destroy(sender);
		return NULL;
	}
	begin_epoch(sender, 0);
	return sender;
}

void epoch_sender_destroy(struct epoch_sender *sender)
{
	if (sender == NULL)
		return;
	delta_encoder_destroy(sender->encoder);
	state_destroy(sender->history);
	XXH3_freeState(sender->sum);
	free(sender);
}

static int send_frame(
	struct epoch_sender *sender, enum frame_type type, const uint8_t *payload, size_t n)
{
	struct frame frame = {
		.type = type,
		.epoch = sender->epoch,
		.length = (uint32_t)n,
		.payload = payload,
	};

	sender->counts.wire_bytes += n;
	return sender->send(sender->ctx, &frame);
}

int epoch_flush(struct epoch_sender *sender)
{
	const uint8_t *batch;
	size_t n = delta_take(sender->encoder, &batch);

	return n > 0 ? send_frame(sender, FRAME_PAGES, batch, n) : 0;
}

int epoch_send_page(struct epoch_sender *sender, size_t page, const uint8_t now[PAGE_BYTES],
	const uint8_t *before)
{
	enum delta_added added = delta_add(sender->encoder, page, now, before);

	if (added == DELTA_FULL) {
		int error = epoch_flush(sender);

		if (error != 0)
			return error;
		added = delta_add(sender->encoder, page, now, before);
	}
	if (added == DELTA_UNCHANGED) {
		sender->counts.unchanged++;
		return 0;
	}
	sender->counts.pages++;
	sum_page(sender->sum, page, delta_is_zero(now) ? NULL : now);
	return 0;
}

int epoch_send_state(struct epoch_sender *sender, const void *data, size_t n)
{
	const uint8_t *p = data;
	int error = epoch_flush(sender);

	assert(sender->epoch > 0);
	while (n > 0 && error == 0) {
		size_t part = n < STATE_PART ? n : STATE_PART;
		const uint8_t *payload;
		size_t length = state_encode(
			sender->history, sender->counts.state_bytes, p, part, &payload);

		if (length == 0)
			return ENOMEM;
		XXH3_64bits_update(sender->sum, p, part);
		sender->counts.state_bytes += part;
		error = send_frame(sender, FRAME_STATE, payload, length);
		p += part;
		n -= part;
	}
	return error;
}

int epoch_end(struct epoch_sender *sender)
{
	uint8_t end[END_BYTES];
	int error = epoch_flush(sender);

	put_be64(end, sender->counts.pages);
	put_be64(end + 8, sender->counts.state_bytes);
	put_be64(end + 16, XXH3_64bits_digest(sender->sum));
	if (error == 0)
		error = send_frame(sender, FRAME_END, end, sizeof(end));
	begin_epoch(sender, sender->epoch + 1);
	return error;
}

uint64_t epoch_number(const struct epoch_sender *sender)
{
	return sender->epoch;
}

const struct epoch_counts *epoch_counts(const struct epoch_sender *sender)
{
	return &sender->counts;
}

/* ---- destination ------------------------------------------------------------------------- */

#define FILE_MAGIC 0x4550535447000002ull /* "EPSTG", version 2 */
#define FILE_HEADER 16384
#define MAX_PATH 4096

enum file_status {
	FILE_FILLING,
	FILE_WHOLE,   /* the epoch is here; its pages may be in memory, or not */
	FILE_APPLIED, /* and all are */
};

/* The first FILE_HEADER bytes of a staging file. Host order: it never leaves the machine. */
struct file_header {
	uint64_t magic;
	uint64_t epoch;
	uint64_t n_pages; /* of the VM */
	/* Which file its memory is: by the time of a reopen the path may lead to another. */
	uint64_t ram_device, ram_inode;
	uint64_t pages; /* records that are pages */
	uint64_t state_bytes;
	uint64_t log_bytes; /* records behind the header */
	uint32_t status;    /* enum file_status, written after all else */
	uint8_t uuid[16];
	char ram_path[MAX_PATH];
	char qmp_path[MAX_PATH];
};

static_assert(sizeof(struct file_header) <= FILE_HEADER, "the header has room");

/* Behind the header: records. */
enum record_kind { RECORD_ZERO, RECORD_PAGE, RECORD_STATE };

struct record {
	uint32_t kind;
	uint32_t arg; /* page, or bytes of state */
};

/* Of a frame's records, before they are written in one go. */
#define BUFFER_BYTES (FRAME_MAX_PAYLOAD + 64 * 1024)

struct slot {
	char path[MAX_PATH + 64];
	int fd; /* -1: no file */
	struct file_header header;
};

struct stage {
	bool broken;
	bool read_only; /* reopened */
	uint64_t limit;
	struct slot slots[2]; /* an epoch's is epoch % 2 */
	uint64_t whole;       /* the last whole epoch; 0: none */
	uint64_t next;        /* the epoch whose frames are expected */
	int ram_fd;
	const uint8_t *ram;
	uint64_t ram_device, ram_inode;
	size_t n_pages;
	uint64_t *seen; /* pages of the present epoch */
	struct delta_decoder *decoder;
	struct state_history *history;
	XXH3_state_t *sum;
	uint64_t pages, state_bytes; /* of the present epoch */
	uint8_t *buffer;
	size_t buffered;
	const char *why;
};

static void close_slot(struct slot *slot)
{
	if (slot->fd >= 0)
		close(slot->fd);
	slot->fd = -1;
}

static int write_all(int fd, const void *data, size_t n, uint64_t offset)
{
	const uint8_t *p = data;

	while (n > 0) {
		ssize_t done = pwrite(fd, p, n, (off_t)offset);

		if (done < 0 && errno == EINTR)
			continue;
		if (done <= 0)
			return done < 0 ? errno : EIO;
		p += done;
		n -= (size_t)done;
		offset += (uint64_t)done;
	}
	return 0;
}

static int open_ram(struct stage *stage, const char *path)
{
	struct stat st;
	void *ram;

	stage->ram_fd = open(path, O_RDWR | O_CLOEXEC);
	if (stage->ram_fd < 0 || fstat(stage->ram_fd, &st) < 0)
		return errno;
	if (!S_ISREG(st.st_mode) || st.st_size <= 0 || st.st_size % PAGE_BYTES != 0)
		return EINVAL;
	ram = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_SHARED, stage->ram_fd, 0);
	if (ram == MAP_FAILED)
		return errno;
	stage->ram = ram;
	stage->ram_device = st.st_dev;
	stage->ram_inode = st.st_ino;
	stage->n_pages = (size_t)st.st_size / PAGE_BYTES;
	return 0;
}

static struct stage *new_stage(const struct stage_config *config)
{
	struct stage *stage = calloc(1, sizeof(*stage));
	char uuid[UUID_STRLEN];

	if (stage == NULL)
		return NULL;
	stage->ram_fd = stage->slots[0].fd = stage->slots[1].fd = -1;
	stage->limit = config->limit;
	for (int i = 0; i < 2; i++)
		snprintf(stage->slots[i].path, sizeof(stage->slots[i].path), "%.4000s/%s.epoch-%d",
			config->dir, frame_format_uuid(config->uuid, uuid), i);
	return stage;
}

int stage_create(const struct stage_config *config, struct stage **out, char why[256])
{
	struct stage *stage;
	char ignored[256];
	int error;

	if (why == NULL)
		why = ignored;
	snprintf(why, 256, "out of memory");
	if (strlen(config->ram_path) >= MAX_PATH || strlen(config->qmp_path) >= MAX_PATH) {
		snprintf(why, 256, "the path is too long");
		return ENAMETOOLONG;
	}
	stage = new_stage(config);
	if (stage == NULL)
		return ENOMEM;
	error = open_ram(stage, config->ram_path);
	if (error != 0) {
		snprintf(why, 256, "memory file %.180s: %s", config->ram_path,
			error == EINVAL ? "not a file of whole pages" : strerror(error));
		goto fail;
	}
	for (int i = 0; i < 2; i++) {
		struct file_header *header = &stage->slots[i].header;

		unlink(stage->slots[i].path);
		header->magic = FILE_MAGIC;
		header->n_pages = stage->n_pages;
		header->ram_device = stage->ram_device;
		header->ram_inode = stage->ram_inode;
		memcpy(header->uuid, config->uuid, sizeof(header->uuid));
		snprintf(header->ram_path, MAX_PATH, "%s", config->ram_path);
		snprintf(header->qmp_path, MAX_PATH, "%s", config->qmp_path);
	}
	stage->seen = calloc(PAGE_SET_WORDS(stage->n_pages), sizeof(uint64_t));
	stage->decoder = delta_decoder_create();
	stage->history = state_create();
	stage->sum = XXH3_createState();
	stage->buffer = malloc(BUFFER_BYTES);
	if (stage->seen == NULL || stage->decoder == NULL || stage->history == NULL ||
		stage->sum == NULL || stage->buffer == NULL) {
		error = ENOMEM;
		goto fail;
	}
	XXH3_64bits_reset(stage->sum);
	*out = stage;
	return 0;
fail:
	stage_destroy(stage, false);
	return error;
}

void stage_destroy(struct stage *stage, bool remove)
{
	if (stage == NULL)
		return;
	for (int i = 0; i < 2; i++) {
		close_slot(&stage->slots[i]);
		if (remove)
			unlink(stage->slots[i].path);
	}
	if (stage->ram != NULL)
		munmap((void *)(uintptr_t)stage->ram, stage->n_pages * PAGE_BYTES);
	if (stage->ram_fd >= 0)
		close(stage->ram_fd);
	free(stage->seen);
	delta_decoder_destroy(stage->decoder);
	state_destroy(stage->history);
	XXH3_freeState(stage->sum);
	free(stage->buffer);
	free(stage);
}

static struct slot *slot_of(struct stage *stage, uint64_t epoch)
{
	return &stage->slots[epoch % 2];
}

/* ---- pages and state into a file, or the base into memory -------------------------------- */

static int refuse(struct stage *stage, const char *why)
{
	stage->why = why;
	return EPROTO;
}

static int write_ram(struct stage *stage, size_t page, const uint8_t *content)
{
	uint8_t present[PAGE_BYTES];
	off_t at = (off_t)(page * PAGE_BYTES);

	/* Not through the mapping: a full file system would be a SIGBUS. */
	if (content != NULL)
		return write_all(stage->ram_fd, content, PAGE_BYTES, (uint64_t)at);
	if (pread(stage->ram_fd, present, PAGE_BYTES, at) != PAGE_BYTES)
		return EIO;
	if (delta_is_zero(present))
		return 0;
	/* Gives the memory back, too. */
	return fallocate(stage->ram_fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, at,
		       PAGE_BYTES) < 0
		       ? errno
		       : 0;
}

static int add_record(
	struct stage *stage, enum record_kind kind, uint32_t arg, const void *data, size_t n)
{
	struct record record = {.kind = kind, .arg = arg};
	struct slot *slot = slot_of(stage, stage->next);

	if (slot->header.log_bytes + stage->buffered + sizeof(record) + n > stage->limit) {
		stage->why = "the epoch is larger than the limit for staging";
		return ENOSPC;
	}
	assert(stage->buffered + sizeof(record) + n <= BUFFER_BYTES);
	memcpy(stage->buffer + stage->buffered, &record, sizeof(record));
	if (n > 0)
		memcpy(stage->buffer + stage->buffered + sizeof(record), data, n);
	stage->buffered += sizeof(record) + n;
	return 0;
}

static int write_records(struct stage *stage)
{
	struct slot *slot = slot_of(stage, stage->next);
	int error = write_all(
		slot->fd, stage->buffer, stage->buffered, FILE_HEADER + slot->header.log_bytes);

	if (error != 0)
		stage->why = "the staging file can't be written";
	slot->header.log_bytes += stage->buffered;
	stage->buffered = 0;
	return error;
}

static int take_page(void *ctx, size_t page, const uint8_t *content)
{
	struct stage *stage = ctx;
	int error;

	if (stage->next == 0) {
		error = write_ram(stage, page, content);
		if (error != 0)
			stage->why = "the standby's memory can't be written";
	} else {
		if (page_set_has(stage->seen, page))
			return refuse(stage, "a page came twice in one epoch");
		page_set_add(stage->seen, page);
		if (stage->buffered + sizeof(struct record) + PAGE_BYTES > BUFFER_BYTES) {
			error = write_records(stage);
			if (error != 0)
				return error;
		}
		error = add_record(stage, content != NULL ? RECORD_PAGE : RECORD_ZERO,
			(uint32_t)page, content, content != NULL ? PAGE_BYTES : 0);
	}
	sum_page(stage->sum, page, content);
	stage->pages++;
	return error;
}

static int begin_file(struct stage *stage)
{
	struct slot *slot = slot_of(stage, stage->next);
	struct file_header *header = &slot->header;

	if (slot->fd < 0) {
		slot->fd = open(slot->path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
		if (slot->fd < 0)
			return errno;
	}
	/* Gives the memory of the epoch before the last back. */
	if (ftruncate(slot->fd, 0) < 0)
		return errno;
	header->epoch = stage->next;
	header->pages = header->state_bytes = header->log_bytes = 0;
	header->status = FILE_FILLING;
	return write_all(slot->fd, header, sizeof(*header), 0);
}

/* The file's status is the last to be written: until then the epoch doesn't exist. */
static int commit_file(struct stage *stage, enum file_status status)
{
	struct slot *slot = slot_of(stage, stage->whole);

	slot->header.status = status;
	return write_all(slot->fd, &slot->header.status, sizeof(slot->header.status),
		offsetof(struct file_header, status));
}

static int take_end(struct stage *stage, const struct frame *frame, enum stage_event *event)
{
	int error;

	if (frame->length != END_BYTES)
		return refuse(stage, "an END of another length");
	if (get_be64(frame->payload) != stage->pages ||
		get_be64(frame->payload + 8) != stage->state_bytes)
		return refuse(stage, "the epoch's counts are wrong");
	if (get_be64(frame->payload + 16) != XXH3_64bits_digest(stage->sum))
		return refuse(stage, "the epoch's checksum is wrong");
	if (stage->next > 0) {
		struct slot *slot = slot_of(stage, stage->next);

		if (stage->state_bytes == 0)
			return refuse(stage, "an epoch without device state");
		slot->header.pages = stage->pages;
		slot->header.state_bytes = stage->state_bytes;
		error = write_all(slot->fd, &slot->header, sizeof(slot->header), 0);
		if (error == 0) {
			stage->whole = stage->next;
			error = commit_file(stage, FILE_WHOLE);
		}
		if (error != 0) {
			stage->why = "the staging file can't be written";
			return error;
		}
	}
	*event = STAGE_WHOLE;
	stage->next++;
	stage->pages = stage->state_bytes = 0;
	memset(stage->seen, 0, PAGE_SET_WORDS(stage->n_pages) * sizeof(uint64_t));
	XXH3_64bits_reset(stage->sum);
	return 0;
}

static int take_state(struct stage *stage, const struct frame *frame)
{
	const uint8_t *part;
	size_t n;
	int error;

	if (stage->next == 0)
		return refuse(stage, "device state where none belongs");
	error = state_decode(
		stage->history, stage->state_bytes, frame->payload, frame->length, &part, &n);
	if (error == EBADMSG)
		return refuse(stage, "a part of device state that is none");
	if (error != 0)
		return error;
	XXH3_64bits_update(stage->sum, part, n);
	stage->state_bytes += n;
	error = add_record(stage, RECORD_STATE, (uint32_t)n, part, n);
	return error != 0 ? error : write_records(stage);
}

static int take_pages(struct stage *stage, const struct frame *frame)
{
	int error;

	if (stage->state_bytes > 0)
		return refuse(stage, "pages behind the device state");
	error = delta_decode(stage->decoder, frame->payload, frame->length, stage->ram,
		stage->n_pages, take_page, stage);
	if (error == EBADMSG)
		return refuse(stage, "a batch of pages that is none");
	if (error == 0 && stage->next > 0)
		error = write_records(stage);
	return error;
}

static bool unapplied(struct stage *stage)
{
	return stage->whole > 0 &&
	       slot_of(stage, stage->whole)->header.status == (uint32_t)FILE_WHOLE;
}

static int take_frame(struct stage *stage, const struct frame *frame, enum stage_event *event)
{
	if (stage->broken || stage->read_only)
		return refuse(stage, "this copy takes nothing any more");
	if (memcmp(frame->uuid, stage->slots[0].header.uuid, sizeof(frame->uuid)) != 0)
		return refuse(stage, "a frame of another VM");
	if (frame->epoch != stage->next)
		return refuse(stage, "a frame of another epoch");
	if (unapplied(stage))
		return refuse(stage, "the epoch before isn't in memory yet");
	if (stage->next > 0 && (slot_of(stage, stage->next)->fd < 0 ||
				       slot_of(stage, stage->next)->header.epoch != stage->next)) {
		int error = begin_file(stage);

		if (error != 0) {
			stage->why = "the staging file can't be written";
			return error;
		}
	}
	switch (frame->type) {
	case FRAME_PAGES:
		return take_pages(stage, frame);
	case FRAME_STATE:
		return take_state(stage, frame);
	case FRAME_END:
		return take_end(stage, frame, event);
	default:
		return refuse(stage, "a frame of a kind that doesn't belong here");
	}
}

int stage_frame(
	struct stage *stage, const struct frame *frame, enum stage_event *event, const char **why)
{
	int error;

	*event = STAGE_MORE;
	stage->why = "";
	error = take_frame(stage, frame, event);
	if (error != 0)
		stage->broken = true;
	if (why != NULL)
		*why = stage->why;
	return error;
}

/* ---- a whole epoch into memory ----------------------------------------------------------- */

/* Calls `fn` for each record of a whole epoch's file. Returns 0, EIO, or what `fn` returned. */
static int for_each_record(const struct slot *slot,
	int (*fn)(void *ctx, const struct record *record, const uint8_t *data), void *ctx)
{
	size_t length = FILE_HEADER + slot->header.log_bytes;
	struct stat st;
	uint8_t *file;
	int error = 0;

	if (fstat(slot->fd, &st) < 0 || (uint64_t)st.st_size < length)
		return EIO;
	file = mmap(NULL, length, PROT_READ, MAP_SHARED, slot->fd, 0);
	if (file == MAP_FAILED)
		return errno;
	for (size_t at = FILE_HEADER; at < length && error == 0;) {
		struct record record;
		size_t n;

		if (length - at < sizeof(record)) {
			error = EIO;
			break;
		}
		memcpy(&record, file + at, sizeof(record));
		at += sizeof(record);
		n = record.kind == RECORD_PAGE ? PAGE_BYTES
					       : (record.kind == RECORD_STATE ? record.arg : 0);
		if (record.kind > RECORD_STATE || n > length - at)
			error = EIO;
		else
			error = fn(ctx, &record, file + at);
		at += n;
	}
	munmap(file, length);
	return error;
}

static int apply_record(void *ctx, const struct record *record, const uint8_t *data)
{
	struct stage *stage = ctx;

	if (record->kind == RECORD_STATE)
		return 0;
	if (record->arg >= stage->n_pages)
		return EIO;
	return write_ram(stage, record->arg, record->kind == RECORD_PAGE ? data : NULL);
}

int stage_apply(struct stage *stage)
{
	int error;

	if (!unapplied(stage))
		return 0;
	error = for_each_record(slot_of(stage, stage->whole), apply_record, stage);
	return error != 0 ? error : commit_file(stage, FILE_APPLIED);
}

static int save_state_record(void *ctx, const struct record *record, const uint8_t *data)
{
	const int *fd = ctx;

	if (record->kind != RECORD_STATE)
		return 0;
	return write_all(*fd, data, record->arg, (uint64_t)lseek(*fd, 0, SEEK_END));
}

int stage_state(const struct stage *stage)
{
	int fd, error;

	if (stage->whole == 0) {
		errno = ENOENT;
		return -1;
	}
	fd = memfd_create("device-state", MFD_CLOEXEC);
	if (fd < 0)
		return -1;
	error = for_each_record(&stage->slots[stage->whole % 2], save_state_record, &fd);
	if (error == 0 && lseek(fd, 0, SEEK_SET) != 0)
		error = EIO;
	if (error != 0) {
		close(fd);
		errno = error;
		return -1;
	}
	return fd;
}

/* ---- after a crash ----------------------------------------------------------------------- */

/* Reads a staging file's header. Returns whether it holds a whole epoch of this VM. */
static bool load_slot(struct slot *slot, const uint8_t uuid[16])
{
	struct file_header *header = &slot->header;

	slot->fd = open(slot->path, O_RDWR | O_CLOEXEC);
	if (slot->fd < 0)
		return false;
	if (pread(slot->fd, header, sizeof(*header), 0) != (ssize_t)sizeof(*header) ||
		header->magic != FILE_MAGIC || header->epoch == 0 ||
		(header->status != FILE_WHOLE && header->status != FILE_APPLIED) ||
		memcmp(header->uuid, uuid, sizeof(header->uuid)) != 0 ||
		memchr(header->ram_path, '\0', MAX_PATH) == NULL ||
		memchr(header->qmp_path, '\0', MAX_PATH) == NULL) {
		close_slot(slot);
		return false;
	}
	return true;
}

int stage_reopen(const struct stage_config *config, struct stage **out, char why[256])
{
	struct stage *stage = new_stage(config);
	const struct slot *slot;
	char ignored[256];
	int error = ENOENT;

	if (why == NULL)
		why = ignored;
	snprintf(why, 256, "there is no whole epoch");
	if (stage == NULL)
		return ENOMEM;
	stage->read_only = true;
	for (int i = 0; i < 2; i++) {
		if (load_slot(&stage->slots[i], config->uuid) &&
			stage->slots[i].header.epoch > stage->whole &&
			stage->slots[i].header.epoch % 2 == (uint64_t)i)
			stage->whole = stage->slots[i].header.epoch;
	}
	if (stage->whole == 0)
		goto fail;
	stage->next = stage->whole + 1;
	slot = slot_of(stage, stage->whole);
	error = open_ram(stage, slot->header.ram_path);
	if (error == 0 && (stage->n_pages != slot->header.n_pages ||
				  stage->ram_device != slot->header.ram_device ||
				  stage->ram_inode != slot->header.ram_inode))
		error = EINVAL;
	if (error != 0) {
		snprintf(why, 256, "memory file %.180s: %s", slot->header.ram_path,
			error == EINVAL ? "it isn't what it was" : strerror(error));
		goto fail;
	}
	error = stage_apply(stage);
	if (error != 0) {
		snprintf(why, 256, "the epoch can't be written to memory: %s", strerror(error));
		goto fail;
	}
	*out = stage;
	return 0;
fail:
	stage_destroy(stage, false);
	return error;
}

uint64_t stage_epoch(const struct stage *stage)
{
	return stage->whole;
}

const char *stage_ram_path(const struct stage *stage)
{
	return stage->slots[stage->whole % 2].header.ram_path;
}

const char *stage_qmp_path(const struct stage *stage)
{
	return stage->slots[stage->whole % 2].header.qmp_path;
}

size_t stage_n_pages(const struct stage *stage)
{
	return stage->n_pages;
}
