/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "dataplane/packet_socket.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include <arpa/inet.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <net/if_arp.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include "common/log.h"

#define BURST 32u
#define BUFFER_BYTES (1 << 20)

static int write_sysctl(const char *family, const char *device, const char *key, const char *value)
{
	char path[128];
	ssize_t n;
	int fd;

	snprintf(path, sizeof(path), "/proc/sys/net/%s/conf/%s/%s", family, device, key);
	fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		return errno == ENOENT ? 0 : errno; /* no such protocol in this kernel */
	n = write(fd, value, strlen(value));
	close(fd);
	return n < 0 ? EIO : 0;
}

/*
 * A packet socket only copies what a device receives: the kernel must not answer too. The address
 * belongs to the TAP, so with the strict reverse path filter nothing comes in by the device.
 */
static void silence_kernel(const char *device)
{
	if (write_sysctl("ipv4", device, "arp_ignore", "8") ||
		write_sysctl("ipv4", device, "rp_filter", "1") ||
		write_sysctl("ipv6", device, "disable_ipv6", "1"))
		log_warn("can't keep the kernel from answering on device=%s, frames may be "
			 "answered twice",
			device);
}

static int set_up(int fd, const char *device, struct rte_ether_addr *mac)
{
	struct sockaddr_ll addr = {
		.sll_family = AF_PACKET,
		.sll_protocol = htons(ETH_P_ALL),
		.sll_ifindex = (int)if_nametoindex(device),
	};
	struct packet_mreq all = {.mr_ifindex = addr.sll_ifindex, .mr_type = PACKET_MR_PROMISC};
	struct ifreq ifr = {0};
	int yes = 1, size = BUFFER_BYTES;

	if (addr.sll_ifindex == 0)
		return errno;
	snprintf(ifr.ifr_name, sizeof(ifr.ifr_name), "%s", device);
	if (ioctl(fd, SIOCGIFHWADDR, &ifr) < 0)
		return errno;
	if (ifr.ifr_hwaddr.sa_family != ARPHRD_ETHER)
		return ENOTSUP;
	memcpy(mac->addr_bytes, ifr.ifr_hwaddr.sa_data, sizeof(mac->addr_bytes));
	setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &size, sizeof(size));
	setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
	if (setsockopt(fd, SOL_PACKET, PACKET_ADD_MEMBERSHIP, &all, sizeof(all)) < 0 ||
		setsockopt(fd, SOL_PACKET, PACKET_IGNORE_OUTGOING, &yes, sizeof(yes)) < 0 ||
		setsockopt(fd, SOL_PACKET, PACKET_AUXDATA, &yes, sizeof(yes)) < 0 ||
		bind(fd, (struct sockaddr *)&addr, sizeof(addr)) < 0)
		return errno;
	return 0;
}

int packet_socket_open(const char *device, struct rte_ether_addr *mac)
{
	/* Protocol 0: nothing arrives before bind(). */
	int fd = socket(AF_PACKET, SOCK_RAW | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	int error = fd < 0 ? errno : set_up(fd, device, mac);

	if (error == 0) {
		silence_kernel(device);
		return fd;
	}
	log_error("can't open device=%s: %s; is it there, is it Ethernet, do we run as root?",
		device, strerror(error));
	if (fd >= 0)
		close(fd);
	return -1;
}

/* The kernel takes VLAN tags out of the frame: a tagged frame would look like one of ours. */
static bool is_tagged(struct msghdr *msg)
{
	for (struct cmsghdr *c = CMSG_FIRSTHDR(msg); c; c = CMSG_NXTHDR(msg, c)) {
		struct tpacket_auxdata aux;

		if (c->cmsg_level != SOL_PACKET || c->cmsg_type != PACKET_AUXDATA)
			continue;
		memcpy(&aux, CMSG_DATA(c), sizeof(aux));
		return aux.tp_status & TP_STATUS_VLAN_VALID;
	}
	return false;
}

/* Gives the frame its tag's ethertype back, so that it counts as what it is. */
static void mark_tagged(struct rte_mbuf *m)
{
	if (m->data_len >= sizeof(struct rte_ether_hdr))
		rte_pktmbuf_mtod(m, struct rte_ether_hdr *)->ether_type =
			htons(RTE_ETHER_TYPE_VLAN);
}

unsigned packet_socket_receive(
	int fd, struct rte_mempool *pool, struct rte_mbuf **frames, unsigned n)
{
	union {
		char bytes[CMSG_SPACE(sizeof(struct tpacket_auxdata))];
		struct cmsghdr align;
	} control[BURST];
	struct mmsghdr msgs[BURST];
	struct iovec iov[BURST];
	unsigned kept = 0;
	int got;

	n = RTE_MIN(n, BURST);
	if (rte_pktmbuf_alloc_bulk(pool, frames, n) != 0)
		return 0;
	memset(msgs, 0, n * sizeof(msgs[0]));
	for (unsigned i = 0; i < n; i++) {
		iov[i].iov_base = rte_pktmbuf_mtod(frames[i], void *);
		iov[i].iov_len = rte_pktmbuf_tailroom(frames[i]);
		msgs[i].msg_hdr.msg_iov = &iov[i];
		msgs[i].msg_hdr.msg_iovlen = 1;
		msgs[i].msg_hdr.msg_control = &control[i];
		msgs[i].msg_hdr.msg_controllen = sizeof(control[i]);
	}
	got = recvmmsg(fd, msgs, n, MSG_DONTWAIT, NULL);
	for (int i = 0; i < got; i++) {
		struct rte_mbuf *m = frames[i];

		/* Larger than a buffer: larger than any MTU that a port may have. */
		if (msgs[i].msg_hdr.msg_flags & MSG_TRUNC) {
			rte_pktmbuf_free(m);
			continue;
		}
		m->data_len = (uint16_t)msgs[i].msg_len;
		m->pkt_len = msgs[i].msg_len;
		if (is_tagged(&msgs[i].msg_hdr))
			mark_tagged(m);
		frames[kept++] = m;
	}
	for (unsigned i = got > 0 ? (unsigned)got : 0; i < n; i++)
		rte_pktmbuf_free(frames[i]);
	return kept;
}

unsigned packet_socket_send(int fd, struct rte_mbuf **frames, unsigned n)
{
	struct mmsghdr msgs[BURST];
	struct iovec iov[BURST];
	unsigned sent = 0;

	while (sent < n) {
		unsigned part = RTE_MIN(n - sent, BURST);
		int took;

		memset(msgs, 0, part * sizeof(msgs[0]));
		for (unsigned i = 0; i < part; i++) {
			struct rte_mbuf *m = frames[sent + i];

			iov[i].iov_base = rte_pktmbuf_mtod(m, void *);
			iov[i].iov_len = m->data_len;
			msgs[i].msg_hdr.msg_iov = &iov[i];
			msgs[i].msg_hdr.msg_iovlen = 1;
		}
		took = sendmmsg(fd, msgs, part, MSG_DONTWAIT);
		if (took <= 0)
			break;
		for (int i = 0; i < took; i++)
			rte_pktmbuf_free(frames[sent + (unsigned)i]);
		sent += (unsigned)took;
	}
	return sent;
}
