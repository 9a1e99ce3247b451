/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "dataplane/tap.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <sys/ioctl.h>

#include "common/log.h"

int tap_attach(const char *name)
{
	struct ifreq ifr = {.ifr_flags = IFF_TAP | IFF_NO_PI};
	int fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
	int error;

	if (fd < 0) {
		log_error("can't open /dev/net/tun: %s; load the tun module and run as root",
			strerror(errno));
		return -1;
	}
	strncpy(ifr.ifr_name, name, IFNAMSIZ - 1);
	if (ioctl(fd, TUNSETIFF, &ifr) < 0) {
		error = errno;
		log_error("can't attach TAP interface=%s: %s%s", name, strerror(error),
			error == EBUSY ? "; another forwarder uses it"
				       : "; remove an interface of this name that is no TAP");
	} else if (ioctl(fd, TUNSETPERSIST, 1) < 0 || ioctl(fd, TUNSETOFFLOAD, 0) < 0) {
		error = errno;
		log_error("can't set up TAP interface=%s: %s", name, strerror(error));
	} else {
		return fd;
	}
	close(fd);
	errno = error;
	return -1;
}

int tap_set_carrier(int fd, bool up)
{
	int carrier = up;

	return ioctl(fd, TUNSETCARRIER, &carrier) < 0 ? errno : 0;
}
