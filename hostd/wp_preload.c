/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * libedgeplex-wp.so, preloaded into QEMU as Debian ships it (LD_PRELOAD): registers the guest's
 * memory with userfaultfd for asynchronous write protection, so that the kernel keeps account of
 * the pages that are written, and another process (dirty.c) can read it by PAGEMAP_SCAN. QEMU
 * takes no fault from it that it would notice.
 *
 * EDGEPLEX_WP_RAM names the memory's file, or the directory below which it lies. What can't be
 * registered is used as it is: hostd then compares memory instead.
 */

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <linux/userfaultfd.h>

/* Linux 6.7; not in Debian 12's headers. */
#define WP_UNPOPULATED (1ull << 13)
#define WP_ASYNC (1ull << 15)

typedef void *(*mmap_fn)(void *, size_t, int, int, int, off_t);

/* Is the file behind `fd` the one, or below the directory, that the environment names? */
static int is_guest_memory(int fd)
{
	const char *wanted = getenv("EDGEPLEX_WP_RAM");
	char link[64], path[4096];
	size_t n;
	ssize_t got;

	if (wanted == NULL || wanted[0] == '\0')
		return 0;
	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	got = readlink(link, path, sizeof(path) - 1);
	if (got < 0)
		return 0;
	path[got] = '\0';
	n = strlen(wanted);
	return strncmp(path, wanted, n) == 0 &&
	       (path[n] == '\0' || path[n] == '/' || wanted[n - 1] == '/');
}

static void protect(void *start, size_t length)
{
	struct uffdio_api api = {.api = UFFD_API, .features = WP_ASYNC | WP_UNPOPULATED};
	struct uffdio_register area = {
		.range = {(uintptr_t)start, length},
		.mode = UFFDIO_REGISTER_MODE_WP,
	};
	/* Stays open as long as QEMU lives: closing it would end the account. */
	int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);

	if (fd >= 0 && ioctl(fd, UFFDIO_API, &api) == 0 && ioctl(fd, UFFDIO_REGISTER, &area) == 0)
		return;
	fprintf(stderr,
		"edgeplex-wp: guest memory can't be watched (%s); its pages will be compared\n",
		strerror(errno));
	if (fd >= 0)
		close(fd);
}

static void *map(const char *name, void *at, size_t length, int prot, int flags, int fd, off_t off)
{
	mmap_fn next = (mmap_fn)dlsym(RTLD_NEXT, name);
	void *start;
	int saved;

	if (next == NULL) {
		errno = ENOSYS;
		return MAP_FAILED;
	}
	start = next(at, length, prot, flags, fd, off);
	saved = errno;
	if (start != MAP_FAILED && fd >= 0 && (prot & PROT_WRITE) && (flags & MAP_SHARED) &&
		is_guest_memory(fd))
		protect(start, length);
	errno = saved;
	return start;
}

void *mmap(void *at, size_t length, int prot, int flags, int fd, off_t off)
{
	return map("mmap", at, length, prot, flags, fd, off);
}

void *mmap64(void *at, size_t length, int prot, int flags, int fd, off_t off)
{
	return map("mmap64", at, length, prot, flags, fd, off);
}
