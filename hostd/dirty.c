/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "hostd/dirty.h"

#include <assert.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

/* PAGEMAP_SCAN of <linux/fs.h>, Linux 6.7; not in Debian 12's headers. */
struct page_region {
	uint64_t start, end, categories;
};

struct pm_scan_arg {
	uint64_t size, flags, start, end, walk_end, vec, vec_len, max_pages;
	uint64_t category_inverted, category_mask, category_anyof_mask, return_mask;
};

#define PAGEMAP_SCAN _IOWR('f', 16, struct pm_scan_arg)
#define PM_SCAN_WP_MATCHING (1u << 0)
#define PM_SCAN_CHECK_WPASYNC (1u << 1)
#define PAGE_IS_WRITTEN (1u << 1)

#define REGIONS_PER_CALL 4096

struct dirty {
	enum dirty_engine engine;
	char reason[256];
	const uint8_t *ram;
	size_t size, n_pages;
	uint8_t *copy;              /* what was taken last of each page; NULL: not kept */
	uint64_t *known;            /* pages whose `copy` holds something */
	uint8_t before[PAGE_BYTES]; /* dirty_take()'s result */
	uint64_t *pending;          /* pages that changed and were not taken since */
	/* DIRTY_PAGEMAP */
	int pagemap_fd;     /* -1 for DIRTY_COMPARE */
	uint64_t qemu_base; /* address of the memory in QEMU */
	struct page_region *regions;
};

const char *dirty_engine_name(enum dirty_engine engine)
{
	static const char *const names[] = {
		[DIRTY_AUTO] = "auto",
		[DIRTY_PAGEMAP] = "pagemap",
		[DIRTY_COMPARE] = "compare",
	};

	return names[engine];
}

int dirty_engine_parse(const char *text, enum dirty_engine *engine)
{
	for (int i = DIRTY_AUTO; i <= DIRTY_COMPARE; i++) {
		if (strcmp(text, dirty_engine_name((enum dirty_engine)i)) == 0) {
			*engine = (enum dirty_engine)i;
			return 0;
		}
	}
	return EINVAL;
}

/* ---- how QEMU has mapped the memory ------------------------------------------------------ */

struct mapping {
	uint64_t start, end;
	bool twice;   /* more than one writable mapping, or not in one piece */
	bool watched; /* registered with userfaultfd for write protection */
};

/*
 * Looks in process `pid` for writable shared mappings of the file `st`. With `flags` the kernel is
 * also asked whether all of it is write-protected by userfaultfd. Returns 0, ENOENT, or errno.
 */
static int find_mapping(pid_t pid, const struct stat *st, bool flags, struct mapping *found)
{
	char path[64], line[4352];
	bool inside = false;
	FILE *file;

	memset(found, 0, sizeof(*found));
	found->watched = true;
	snprintf(path, sizeof(path), "/proc/%d/%s", (int)pid, flags ? "smaps" : "maps");
	file = fopen(path, "re");
	if (file == NULL)
		return errno;
	while (fgets(line, sizeof(line), file) != NULL) {
		uint64_t start, end, offset, inode;
		unsigned major, minor;
		char prot[5];

		if (strncmp(line, "VmFlags:", 8) == 0) {
			if (inside && strstr(line, " uw") == NULL)
				found->watched = false;
			continue;
		}
		// NOLINTNEXTLINE(cert-err34-c): the kernel wrote it
		if (sscanf(line, "%" SCNx64 "-%" SCNx64 " %4s %" SCNx64 " %x:%x %" SCNu64, &start,
			    &end, prot, &offset, &major, &minor, &inode) != 7)
			continue;
		inside = inode == st->st_ino && makedev(major, minor) == st->st_dev &&
			 prot[1] == 'w' && prot[3] == 's';
		if (!inside)
			continue;
		if (found->end == 0)
			found->start = start;
		if (offset != start - found->start || (found->end != 0 && found->end != start))
			found->twice = true;
		found->end = end;
	}
	fclose(file);
	return found->end == 0 ? ENOENT : 0;
}

/* Does a process other than `pid` and this one write to the file? Its writes would be missed. */
static pid_t other_writer(pid_t pid, const struct stat *st)
{
	DIR *proc = opendir("/proc");
	struct dirent *entry;
	struct mapping mapping;
	pid_t other = 0;

	while (proc != NULL && other == 0 && (entry = readdir(proc)) != NULL) {
		pid_t candidate = (pid_t)strtol(entry->d_name, NULL, 10);

		if (candidate > 0 && candidate != pid && candidate != getpid() &&
			find_mapping(candidate, st, false, &mapping) == 0)
			other = candidate;
	}
	if (proc != NULL)
		closedir(proc);
	return other;
}

/* ---- DIRTY_PAGEMAP ----------------------------------------------------------------------- */

/* Adds what QEMU wrote since the last call to `pending`, and has the account begin anew. */
static int scan_pagemap(struct dirty *dirty)
{
	struct pm_scan_arg arg = {
		.size = sizeof(arg),
		.flags = PM_SCAN_WP_MATCHING | PM_SCAN_CHECK_WPASYNC,
		.start = dirty->qemu_base,
		.end = dirty->qemu_base + dirty->size,
		.vec = (uintptr_t)dirty->regions,
		.vec_len = REGIONS_PER_CALL,
		.category_mask = PAGE_IS_WRITTEN,
		.return_mask = PAGE_IS_WRITTEN,
	};

	while (arg.start < arg.end) {
		int n = ioctl(dirty->pagemap_fd, PAGEMAP_SCAN, &arg);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return errno == EPERM || errno == ENOTTY ? ENOTSUP : errno;
		for (int i = 0; i < n; i++) {
			const struct page_region *region = &dirty->regions[i];
			size_t page, end;

			if (region->start < dirty->qemu_base || region->end > arg.end)
				return EIO;
			page = (region->start - dirty->qemu_base) / PAGE_BYTES;
			end = (region->end - dirty->qemu_base) / PAGE_BYTES;
			for (; page < end; page++)
				page_set_add(dirty->pending, page);
		}
		if (arg.walk_end <= arg.start)
			return EIO;
		arg.start = arg.walk_end;
	}
	return 0;
}

/* Returns 0, or errno with the reason why this engine can't be used. */
static int try_pagemap(struct dirty *dirty, pid_t pid, const struct stat *st)
{
	struct mapping mapping;
	char path[64];
	pid_t other;
	int error = pid > 0 ? find_mapping(pid, st, true, &mapping) : ENOENT;

#define REFUSE(code, ...)                                                    \
	do {                                                                 \
		snprintf(dirty->reason, sizeof(dirty->reason), __VA_ARGS__); \
		return code;                                                 \
	} while (0)
	if (error == ENOENT)
		REFUSE(ENOTSUP, "process %d has no shared mapping of the memory's file", (int)pid);
	if (error != 0)
		REFUSE(ENOTSUP, "/proc/%d/smaps: %s", (int)pid, strerror(error));
	if (mapping.twice || mapping.end - mapping.start != dirty->size)
		REFUSE(ENOTSUP, "QEMU has mapped the memory's file in several pieces");
	if (!mapping.watched)
		REFUSE(ENOTSUP, "QEMU doesn't watch its memory: start it with "
				"LD_PRELOAD=libedgeplex-wp.so and EDGEPLEX_WP_RAM, on Linux 6.7 or "
				"newer, with the right to use userfaultfd");
	other = other_writer(pid, st);
	if (other != 0)
		REFUSE(ENOTSUP, "process %d writes to the memory's file too, unwatched",
			(int)other);
	snprintf(path, sizeof(path), "/proc/%d/pagemap", (int)pid);
	dirty->pagemap_fd = open(path, O_RDONLY | O_CLOEXEC);
	if (dirty->pagemap_fd < 0)
		REFUSE(ENOTSUP, "%s: %s", path, strerror(errno));
	dirty->qemu_base = mapping.start;
	dirty->regions = calloc(REGIONS_PER_CALL, sizeof(*dirty->regions));
	error = dirty->regions != NULL ? scan_pagemap(dirty) : ENOMEM;
	if (error != 0) {
		close(dirty->pagemap_fd);
		dirty->pagemap_fd = -1;
		REFUSE(error == ENOMEM ? ENOMEM : ENOTSUP, "PAGEMAP_SCAN: %s", strerror(error));
	}
#undef REFUSE
	snprintf(dirty->reason, sizeof(dirty->reason), "QEMU watches its memory");
	return 0;
}

/* ---- both -------------------------------------------------------------------------------- */

static int map_ram(struct dirty *dirty, const char *ram_path, struct stat *st)
{
	int fd = open(ram_path, O_RDONLY | O_CLOEXEC);
	int error = 0;

	if (fd < 0)
		return errno;
	if (fstat(fd, st) < 0)
		error = errno;
	else if (!S_ISREG(st->st_mode) || st->st_size <= 0 || st->st_size % PAGE_BYTES != 0)
		error = EINVAL;
	if (error == 0) {
		void *ram = mmap(NULL, (size_t)st->st_size, PROT_READ, MAP_SHARED, fd, 0);

		if (ram == MAP_FAILED) {
			error = errno;
		} else {
			dirty->ram = ram;
			dirty->size = (size_t)st->st_size;
			dirty->n_pages = dirty->size / PAGE_BYTES;
		}
	}
	close(fd);
	return error;
}

static int make_copy(struct dirty *dirty)
{
	const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
	// cppcheck-suppress invalidFunctionArg ; no file behind anonymous memory
	void *copy = mmap(NULL, dirty->size, PROT_READ | PROT_WRITE, flags, -1, 0);

	if (copy == MAP_FAILED)
		return errno;
	dirty->copy = copy;
	dirty->known = calloc(PAGE_SET_WORDS(dirty->n_pages), sizeof(uint64_t));
	return dirty->known != NULL ? 0 : ENOMEM;
}

int dirty_open(const char *ram_path, pid_t pid, enum dirty_engine engine, bool keep_copy,
	struct dirty **out, char why[256])
{
	struct dirty *dirty = calloc(1, sizeof(*dirty));
	char ignored[256];
	struct stat st;
	int error;

	if (why == NULL)
		why = ignored;
	if (dirty == NULL)
		return ENOMEM;
	dirty->pagemap_fd = -1;
	error = map_ram(dirty, ram_path, &st);
	if (error != 0) {
		snprintf(why, 256, "memory file %.180s: %s", ram_path,
			error == EINVAL ? "not a file of whole pages" : strerror(error));
		goto fail;
	}
	assert(dirty->n_pages > 0);
	dirty->pending = calloc(PAGE_SET_WORDS(dirty->n_pages), sizeof(uint64_t));
	if (dirty->pending == NULL) {
		error = ENOMEM;
		goto out_of_memory;
	}
	dirty->engine = DIRTY_COMPARE;
	snprintf(dirty->reason, sizeof(dirty->reason), "asked for");
	if (engine != DIRTY_COMPARE) {
		error = try_pagemap(dirty, pid, &st);
		if (error == 0)
			dirty->engine = DIRTY_PAGEMAP;
		if (error != 0 && (engine == DIRTY_PAGEMAP || error == ENOMEM)) {
			snprintf(why, 256, "%s", dirty->reason);
			goto fail;
		}
	}
	if (keep_copy || dirty->engine == DIRTY_COMPARE) {
		error = make_copy(dirty);
		if (error != 0)
			goto out_of_memory;
	}
	dirty_forget(dirty);
	*out = dirty;
	return 0;
out_of_memory:
	snprintf(why, 256, "a copy of %zu MB of memory: %s", dirty->size >> 20, strerror(error));
fail:
	dirty_close(dirty);
	return error;
}

void dirty_close(struct dirty *dirty)
{
	if (dirty == NULL)
		return;
	if (dirty->ram != NULL)
		munmap((void *)(uintptr_t)dirty->ram, dirty->size);
	if (dirty->copy != NULL)
		munmap(dirty->copy, dirty->size);
	if (dirty->pagemap_fd >= 0)
		close(dirty->pagemap_fd);
	free(dirty->known);
	free(dirty->pending);
	free(dirty->regions);
	free(dirty);
}

enum dirty_engine dirty_engine(const struct dirty *dirty)
{
	return dirty->engine;
}

const char *dirty_reason(const struct dirty *dirty)
{
	return dirty->reason;
}

size_t dirty_n_pages(const struct dirty *dirty)
{
	return dirty->n_pages;
}

void dirty_forget(struct dirty *dirty)
{
	for (size_t page = 0; page < dirty->n_pages; page++)
		page_set_add(dirty->pending, page);
	if (dirty->known != NULL)
		memset(dirty->known, 0, PAGE_SET_WORDS(dirty->n_pages) * sizeof(uint64_t));
}

static void scan_compare(struct dirty *dirty)
{
	for (size_t page = 0; page < dirty->n_pages; page++) {
		/* The C library's memcmp() uses the widest vectors that the CPU has. */
		if (!page_set_has(dirty->pending, page) &&
			memcmp(dirty->ram + page * PAGE_BYTES, dirty->copy + page * PAGE_BYTES,
				PAGE_BYTES) != 0)
			page_set_add(dirty->pending, page);
	}
}

int dirty_scan(struct dirty *dirty, const uint64_t **set, size_t *n)
{
	size_t count = 0;

	if (dirty->engine == DIRTY_PAGEMAP) {
		int error = scan_pagemap(dirty);

		if (error != 0) {
			/* Some changes may have been reported and are lost. */
			dirty_forget(dirty);
			return error;
		}
	} else {
		scan_compare(dirty);
	}
	for (size_t i = 0; i < PAGE_SET_WORDS(dirty->n_pages); i++)
		count += (size_t)__builtin_popcountll(dirty->pending[i]);
	*set = dirty->pending;
	*n = count;
	return 0;
}

const uint8_t *dirty_take(struct dirty *dirty, size_t page, uint8_t now[PAGE_BYTES])
{
	const uint8_t *result = NULL;

	dirty->pending[page / 64] &= ~(1ull << (page % 64));
	memcpy(now, dirty->ram + page * PAGE_BYTES, PAGE_BYTES);
	if (dirty->copy != NULL) {
		uint8_t *copy = dirty->copy + page * PAGE_BYTES;

		if (page_set_has(dirty->known, page)) {
			memcpy(dirty->before, copy, PAGE_BYTES);
			result = dirty->before;
		}
		memcpy(copy, now, PAGE_BYTES);
		page_set_add(dirty->known, page);
	}
	return result;
}
