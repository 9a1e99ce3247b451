/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What runs in the VM of the protection's tests, in the place of cvmd: something whose memory must
 * not be lost. Static; finds its address in the kernel's command line (load.address=10.77.0.2).
 *
 * TCP port 7000: answers each byte with itself, exclusive or with a byte that depends on how many
 *   came on this connection: a server that lost its memory, or had some twice, answers wrongly.
 * UDP port 7001: a datagram {u32 µs} has it send {u64 1, 2, …} to the sender, one every so often.
 * UDP port 7002: {u32 pages per second, u32 bytes of each} has it write to its memory. It answers
 *   with the same.
 */

#include <arpa/inet.h>
#include <endian.h>
#include <errno.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define MAX_CLIENTS 16
#define PAGE 4096
#define DIRTIED_PAGES 8192
#define DIRTIED_BYTES ((size_t)DIRTIED_PAGES * PAGE)
#define CHUNK 16384

struct client {
	int fd; /* -1: free */
	uint64_t answered;
	size_t waiting; /* bytes of `out` not sent yet */
	uint8_t out[CHUNK];
};

struct load {
	int listen_fd, sequence_fd, dirty_fd;
	struct client clients[MAX_CLIENTS];
	struct sockaddr_in listener;
	uint64_t sequence;
	int64_t every_us, next_us;
	uint32_t pages_per_s, bytes;
	int64_t dirtied_us;
	uint8_t *memory;
	uint64_t page; /* counts on */
};

static int64_t now_us(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (int64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

static void fail(const char *what)
{
	fprintf(stderr, "load: %s: %s\n", what, strerror(errno));
	exit(1);
}

static void set_address(void)
{
	char text[4096] = "", address[32];
	struct ifreq request = {.ifr_name = "core"};
	struct sockaddr_in *in = (struct sockaddr_in *)&request.ifr_addr;
	FILE *file = fopen("/proc/cmdline", "re");
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	const char *given;

	if (file == NULL || fgets(text, sizeof(text), file) == NULL || fd < 0)
		fail("command line");
	fclose(file);
	given = strstr(text, "load.address=");
	in->sin_family = AF_INET;
	if (given == NULL || sscanf(given, "load.address=%31[0-9.]", address) != 1 ||
		inet_pton(AF_INET, address, &in->sin_addr) != 1)
		fail("load.address");
	if (ioctl(fd, SIOCSIFADDR, &request) < 0)
		fail("SIOCSIFADDR");
	inet_pton(AF_INET, "255.255.255.0", &in->sin_addr);
	if (ioctl(fd, SIOCSIFNETMASK, &request) < 0 || ioctl(fd, SIOCGIFFLAGS, &request) < 0)
		fail("SIOCSIFNETMASK");
	request.ifr_flags |= IFF_UP;
	if (ioctl(fd, SIOCSIFFLAGS, &request) < 0)
		fail("SIOCSIFFLAGS");
	close(fd);
}

static int open_port(int type, uint16_t port)
{
	struct sockaddr_in any = {.sin_family = AF_INET, .sin_port = htons(port)};
	int fd = socket(AF_INET, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), on = 1;

	if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) < 0 ||
		bind(fd, (struct sockaddr *)&any, sizeof(any)) < 0 ||
		(type == SOCK_STREAM && listen(fd, 8) < 0))
		fail("port");
	return fd;
}

static void take_client(struct load *load)
{
	int fd = accept4(load->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK), on = 1;

	for (int i = 0; fd >= 0 && i < MAX_CLIENTS; i++) {
		if (load->clients[i].fd < 0) {
			setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
			load->clients[i] = (struct client){.fd = fd};
			return;
		}
	}
	if (fd >= 0)
		close(fd);
}

static void end_client(struct client *client)
{
	close(client->fd);
	client->fd = -1;
}

static void answer(struct client *client)
{
	ssize_t n;

	if (client->waiting == 0) {
		n = recv(client->fd, client->out, sizeof(client->out), 0);
		if (n == 0 || (n < 0 && errno != EAGAIN)) {
			end_client(client);
			return;
		}
		for (ssize_t i = 0; i < n; i++) {
			uint32_t mixed = (uint32_t)client->answered++ * 2654435761u;

			client->out[i] ^= (uint8_t)(mixed >> 24);
		}
		client->waiting = n > 0 ? (size_t)n : 0;
	}
	if (client->waiting == 0)
		return;
	n = send(client->fd, client->out, client->waiting, MSG_NOSIGNAL);
	if (n < 0 && errno != EAGAIN) {
		end_client(client);
	} else if (n > 0) {
		client->waiting -= (size_t)n;
		memmove(client->out, client->out + n, client->waiting);
	}
}

static void take_order(struct load *load, int fd)
{
	struct sockaddr_in from;
	socklen_t length = sizeof(from);
	uint32_t order[2] = {0};
	ssize_t n = recvfrom(fd, order, sizeof(order), 0, (struct sockaddr *)&from, &length);

	if (n < (ssize_t)sizeof(order[0]))
		return;
	if (fd == load->sequence_fd) {
		/* A repeated order changes nothing. */
		if (from.sin_addr.s_addr == load->listener.sin_addr.s_addr &&
			from.sin_port == load->listener.sin_port &&
			load->every_us == be32toh(order[0]))
			return;
		load->listener = from;
		load->every_us = be32toh(order[0]);
		load->sequence = 0;
		load->next_us = now_us();
	} else {
		load->pages_per_s = be32toh(order[0]);
		load->bytes = be32toh(order[1]);
		if (load->bytes > PAGE)
			load->bytes = PAGE;
		load->dirtied_us = now_us();
		sendto(fd, order, (size_t)n, 0, (struct sockaddr *)&from, length);
	}
}

static void send_sequence(struct load *load)
{
	while (load->every_us > 0 && load->next_us <= now_us()) {
		uint64_t number = htobe64(++load->sequence);

		sendto(load->sequence_fd, &number, sizeof(number), 0,
			(struct sockaddr *)&load->listener, sizeof(load->listener));
		load->next_us += load->every_us;
	}
}

static void dirty(struct load *load)
{
	int64_t now = now_us();
	int64_t due = (now - load->dirtied_us) * load->pages_per_s / 1000000;

	if (due <= 0)
		return;
	load->dirtied_us = now;
	for (int64_t i = 0; i < due && i < DIRTIED_PAGES; i++) {
		uint8_t *page = load->memory + load->page % DIRTIED_PAGES * PAGE;

		load->page++;
		for (uint32_t at = 0; at + sizeof(load->page) <= load->bytes;
			at += sizeof(load->page)) {
			uint64_t word = (load->page * 512 + at) * 0x9e3779b97f4a7c15u;

			word ^= word >> 29;
			memcpy(page + at, &word, sizeof(word));
		}
	}
}

static void serve(struct load *load)
{
	struct pollfd p[MAX_CLIENTS + 3];
	bool busy = load->pages_per_s > 0;
	int64_t wait = busy ? 5000 : 1000000;

	p[0] = (struct pollfd){.fd = load->listen_fd, .events = POLLIN};
	p[1] = (struct pollfd){.fd = load->sequence_fd, .events = POLLIN};
	p[2] = (struct pollfd){.fd = load->dirty_fd, .events = POLLIN};
	for (int i = 0; i < MAX_CLIENTS; i++)
		p[3 + i] = (struct pollfd){.fd = load->clients[i].fd,
			.events = load->clients[i].waiting > 0 ? POLLOUT : POLLIN};
	if (load->every_us > 0 && load->next_us - now_us() < wait)
		wait = load->next_us - now_us();
	if (poll(p, MAX_CLIENTS + 3, wait > 0 ? (int)((wait + 999) / 1000) : 0) < 0)
		return;
	if (p[0].revents != 0)
		take_client(load);
	for (int i = 1; i < 3; i++) {
		if (p[i].revents != 0)
			take_order(load, p[i].fd);
	}
	for (int i = 0; i < MAX_CLIENTS; i++) {
		if (p[3 + i].revents != 0 && load->clients[i].fd == p[3 + i].fd)
			answer(&load->clients[i]);
	}
	send_sequence(load);
	if (busy)
		dirty(load);
}

int main(void)
{
	const int flags = MAP_PRIVATE | MAP_ANONYMOUS;
	static struct load load;

	set_address();
	// cppcheck-suppress invalidFunctionArg ; no file behind anonymous memory
	load.memory = mmap(NULL, DIRTIED_BYTES, PROT_READ | PROT_WRITE, flags, -1, 0);
	if (load.memory == MAP_FAILED)
		fail("memory");
	for (int i = 0; i < MAX_CLIENTS; i++)
		load.clients[i].fd = -1;
	load.listen_fd = open_port(SOCK_STREAM, 7000);
	load.sequence_fd = open_port(SOCK_DGRAM, 7001);
	load.dirty_fd = open_port(SOCK_DGRAM, 7002);
	for (;;)
		serve(&load);
}
