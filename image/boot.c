/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "image/boot.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "common/log.h"

#define MODULES_DIR "/lib/modules"
#define MODULES_LIST MODULES_DIR "/list"
#define PCI_DEVICES "/sys/bus/pci/devices"
#define PCI_VENDOR_VIRTIO 0x1af4
#define PCI_DEVICE_NET_TRANSITIONAL 0x1000
#define PCI_DEVICE_NET 0x1041
#define PCI_ADDRESS_LEN sizeof("0000:00:00.0")
#define NICS 2
#define HUGEPAGES "/proc/sys/vm/nr_hugepages"

struct nics {
	char address[NICS][PCI_ADDRESS_LEN];
	unsigned n;
};

const char *boot_role_name(enum boot_role role)
{
	static const char *const names[] = {"none", "pvm", "cvm"};

	return names[role];
}

/* Reads a small file whole, without the last newline. Returns 0 or errno. */
static int read_text(const char *path, char *text, size_t size)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC), error = 0;
	ssize_t n;

	if (fd < 0)
		return errno;
	n = read(fd, text, size - 1);
	if (n < 0) {
		error = errno;
		n = 0;
	}
	close(fd);
	if (n > 0 && text[n - 1] == '\n')
		n--;
	text[n] = '\0';
	return error;
}

static void write_text(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);

	if (fd < 0 || write(fd, text, strlen(text)) < 0)
		log_error("can't set a kernel parameter path=%s value=%s error=\"%s\"", path, text,
			strerror(errno));
	if (fd >= 0)
		close(fd);
}

/* ---- file systems -------------------------------------------------------------------------- */

void boot_mount(void)
{
	static const struct {
		const char *type, *path, *options;
		unsigned long flags;
		mode_t mode;
	} mounts[] = {
		{"proc", "/proc", NULL, MS_NOSUID | MS_NOEXEC | MS_NODEV, 0555},
		{"sysfs", "/sys", NULL, MS_NOSUID | MS_NOEXEC | MS_NODEV, 0555},
		{"devtmpfs", "/dev", NULL, MS_NOSUID, 0755},
		{"tmpfs", "/run", "mode=0755,size=32m", MS_NOSUID | MS_NODEV, 0755},
		{"tmpfs", "/tmp", "mode=1777,size=16m", MS_NOSUID | MS_NODEV, 0777},
		{"hugetlbfs", "/dev/hugepages", "pagesize=2M,mode=0700", MS_NOSUID | MS_NODEV,
			0700},
	};

	for (unsigned i = 0; i < sizeof(mounts) / sizeof(mounts[0]); i++) {
		mkdir(mounts[i].path, mounts[i].mode);
		if (mount(mounts[i].type, mounts[i].path, mounts[i].type, mounts[i].flags,
			    mounts[i].options) < 0 &&
			errno != EBUSY)
			log_error("can't mount type=%s path=%s error=\"%s\"", mounts[i].type,
				mounts[i].path, strerror(errno));
	}
	if (mkdir("/run/edgeplex", 0700) < 0 && errno != EEXIST)
		log_error(
			"can't make a directory path=/run/edgeplex error=\"%s\"", strerror(errno));
}

/* ---- parameters ---------------------------------------------------------------------------- */

static void read_param(struct boot_params *params, const char *word)
{
	if (strcmp(word, "edgeplex.role=pvm") == 0)
		params->role = BOOT_ROLE_PVM;
	else if (strcmp(word, "edgeplex.role=cvm") == 0)
		params->role = BOOT_ROLE_CVM;
	else if (strncmp(word, "edgeplex.role=", 14) == 0)
		log_error("no such role: boot with edgeplex.role=pvm or edgeplex.role=cvm given=%s",
			word);
	else if (strncmp(word, "edgeplex.name=", 14) == 0)
		snprintf(params->name, sizeof(params->name), "%s", word + 14);
	else if (strncmp(word, "edgeplex.hugepages=", 19) == 0)
		params->hugepages = (unsigned)strtoul(word + 19, NULL, 10);
}

void boot_read_params(struct boot_params *params)
{
	char line[4096];
	char *save = NULL;
	int error = read_text("/proc/cmdline", line, sizeof(line));

	memset(params, 0, sizeof(*params));
	if (error != 0)
		log_error("can't read the kernel command line error=\"%s\"", strerror(error));
	for (char *word = strtok_r(line, " ", &save); word != NULL;
		word = strtok_r(NULL, " ", &save))
		read_param(params, word);
	for (char *c = params->name; *c != '\0'; c++) {
		if (!isalnum((unsigned char)*c) && strchr("-_.", *c) == NULL)
			*c = '-';
	}
	if (params->role == BOOT_ROLE_NONE)
		log_error("no role: boot with edgeplex.role=pvm or edgeplex.role=cvm");
}

void boot_reserve_hugepages(const struct boot_params *params)
{
	char text[16];

	snprintf(text, sizeof(text), "%u", params->hugepages);
	write_text(HUGEPAGES, text);
	if (read_text(HUGEPAGES, text, sizeof(text)) != 0 ||
		strtoul(text, NULL, 10) < params->hugepages)
		log_error("the VM has not enough memory for its huge pages: give it more wanted=%u "
			  "got=%s",
			params->hugepages, text);
}

void boot_set_sysctls(void)
{
	static const char *const settings[][2] = {
		/* The forwarder forwards; the kernel must not, or packets would leak past its
		   rules. */
		{"net/ipv4/ip_forward", "0"},
		{"net/ipv6/conf/all/forwarding", "0"},
		/* Nothing but the controller configures addresses and routes. */
		{"net/ipv6/conf/default/accept_ra", "0"},
		{"net/ipv6/conf/all/accept_ra", "0"},
		{"net/ipv6/conf/default/autoconf", "0"},
		{"net/ipv6/conf/default/router_solicitations", "0"},
		{"net/ipv6/conf/default/accept_redirects", "0"},
		{"net/ipv6/conf/all/accept_redirects", "0"},
		{"net/ipv4/conf/default/accept_redirects", "0"},
		{"net/ipv4/conf/all/accept_redirects", "0"},
		{"net/ipv4/conf/default/send_redirects", "0"},
		{"net/ipv4/conf/all/send_redirects", "0"},
		{"net/ipv4/conf/default/accept_source_route", "0"},
		{"net/ipv4/conf/all/accept_source_route", "0"},
		/* An address belongs to its link: the edge switch checks the sender of every ARP.
		 */
		{"net/ipv4/conf/all/arp_ignore", "1"},
		{"net/ipv4/conf/all/arp_announce", "2"},
		/* Fewer wake-ups of an idle VM. */
		{"vm/stat_interval", "120"},
		{"vm/dirty_writeback_centisecs", "0"},
		{"kernel/sysrq", "0"},
	};
	char path[128];

	for (unsigned i = 0; i < sizeof(settings) / sizeof(settings[0]); i++) {
		snprintf(path, sizeof(path), "/proc/sys/%s", settings[i][0]);
		write_text(path, settings[i][1]);
	}
}

void boot_discard(const char *path)
{
	if (unlink(path) < 0 && errno != ENOENT)
		log_warn("can't remove a file path=%s error=\"%s\"", path, strerror(errno));
}

/* ---- modules ------------------------------------------------------------------------------- */

static void load_module(const char *path, const char *params)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	if (fd < 0 || (syscall(SYS_finit_module, fd, params, 0) < 0 && errno != EEXIST))
		log_error("can't load a kernel module path=%s error=\"%s\"", path, strerror(errno));
	if (fd >= 0)
		close(fd);
}

/* One line of image/modules.list. */
static void load_listed(char *line, const char *role)
{
	char *save = NULL;
	const char *for_role = strtok_r(line, " \t\n", &save);
	const char *module = strtok_r(NULL, " \t\n", &save);
	const char *params = strtok_r(NULL, "\n", &save);
	const char *base;
	char path[256];

	if (for_role == NULL || module == NULL)
		return;
	base = strrchr(module, '/');
	snprintf(path, sizeof(path), MODULES_DIR "/%s.ko", base != NULL ? base + 1 : module);
	if (strcmp(for_role, "any") == 0 || strcmp(for_role, role) == 0)
		load_module(path, params != NULL ? params : "");
	boot_discard(path);
}

static void load_modules(const char *role)
{
	FILE *list = fopen(MODULES_LIST, "re");
	char line[256];

	if (list == NULL) {
		log_error("the image holds no list of modules path=" MODULES_LIST);
		return;
	}
	while (fgets(line, sizeof(line), list) != NULL)
		load_listed(line, role);
	fclose(list);
}

/* ---- NICs ---------------------------------------------------------------------------------- */

static unsigned long read_hex(const char *address, const char *file)
{
	char path[320], text[32];

	snprintf(path, sizeof(path), PCI_DEVICES "/%s/%s", address, file);
	return read_text(path, text, sizeof(text)) == 0 ? strtoul(text, NULL, 16) : 0;
}

static int is_nic(const struct dirent *entry)
{
	unsigned long device;

	if (strlen(entry->d_name) + 1 != PCI_ADDRESS_LEN)
		return 0;
	if (read_hex(entry->d_name, "vendor") != PCI_VENDOR_VIRTIO)
		return 0;
	device = read_hex(entry->d_name, "device");
	return device == PCI_DEVICE_NET || device == PCI_DEVICE_NET_TRANSITIONAL;
}

/* PCI addresses are hexadecimal of fixed width: their order as text is their order as numbers. */
static void find_nics(struct nics *nics)
{
	struct dirent **entries;
	int n = scandir(PCI_DEVICES, &entries, is_nic, alphasort);

	nics->n = 0;
	for (int i = 0; i < n; i++) {
		if (nics->n < NICS)
			memcpy(nics->address[nics->n++], entries[i]->d_name, PCI_ADDRESS_LEN);
		free(entries[i]);
	}
	if (n >= 0)
		free(entries);
	if (n != NICS)
		log_error("a VM has two virtio NICs: check the domain's definition found=%d", n);
}

/* Reserves the NICs for vfio-pci before any driver is there that could take them. */
static void reserve_for_vfio(const struct nics *nics)
{
	char path[320];

	for (unsigned i = 0; i < nics->n; i++) {
		snprintf(path, sizeof(path), PCI_DEVICES "/%s/driver_override", nics->address[i]);
		write_text(path, "vfio-pci");
	}
}

static void check_vfio(const struct nics *nics)
{
	char path[320], driver[320];

	for (unsigned i = 0; i < nics->n; i++) {
		ssize_t n;

		snprintf(path, sizeof(path), PCI_DEVICES "/%s/driver", nics->address[i]);
		n = readlink(path, driver, sizeof(driver) - 1);
		driver[n > 0 ? n : 0] = '\0';
		if (n <= 0 || strcmp(strrchr(driver, '/') + 1, "vfio-pci") != 0)
			log_error("vfio-pci didn't take a NIC: the domain needs an IOMMU, and the "
				  "kernel intel_iommu=on address=%s",
				nics->address[i]);
	}
}

/* The name of a virtio NIC's network device: PCI/virtioN/net/NAME. Returns false if there is none.
 */
static bool find_netdev(const char *address, char name[IFNAMSIZ])
{
	char path[700];
	bool found = false;
	DIR *pci, *net;
	const struct dirent *entry;

	snprintf(path, sizeof(path), PCI_DEVICES "/%s", address);
	pci = opendir(path);
	while (pci != NULL && !found && (entry = readdir(pci)) != NULL) {
		if (strncmp(entry->d_name, "virtio", 6) != 0)
			continue;
		snprintf(path, sizeof(path), PCI_DEVICES "/%s/%s/net", address, entry->d_name);
		net = opendir(path);
		while (net != NULL && !found && (entry = readdir(net)) != NULL) {
			if (entry->d_name[0] == '.')
				continue;
			found = true;
			snprintf(name, IFNAMSIZ, "%.*s", IFNAMSIZ - 1, entry->d_name);
		}
		if (net != NULL)
			closedir(net);
	}
	if (pci != NULL)
		closedir(pci);
	return found;
}

static void bring_up(int fd, const char *name)
{
	struct ifreq request = {0};

	snprintf(request.ifr_name, IFNAMSIZ, "%s", name);
	if (ioctl(fd, SIOCGIFFLAGS, &request) == 0) {
		request.ifr_flags |= IFF_UP;
		if (ioctl(fd, SIOCSIFFLAGS, &request) == 0)
			return;
	}
	log_error("can't bring an interface up name=%s error=\"%s\"", name, strerror(errno));
}

static void name_nic(int fd, const char *address, const char *name)
{
	struct ifreq request = {0};

	if (!find_netdev(address, request.ifr_name)) {
		log_error("a NIC has no network device address=%s", address);
		return;
	}
	snprintf(request.ifr_newname, IFNAMSIZ, "%s", name);
	if (ioctl(fd, SIOCSIFNAME, &request) < 0) {
		log_error("can't rename an interface from=%s to=%s error=\"%s\"", request.ifr_name,
			name, strerror(errno));
		return;
	}
	bring_up(fd, name);
}

void boot_set_up_devices(enum boot_role role)
{
	static const char *const cvm_nics[NICS] = {"core", "inside"};
	struct nics nics;
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	find_nics(&nics);
	if (role == BOOT_ROLE_PVM)
		reserve_for_vfio(&nics);
	load_modules(boot_role_name(role));
	bring_up(fd, "lo");
	if (role == BOOT_ROLE_PVM)
		check_vfio(&nics);
	for (unsigned i = 0; role == BOOT_ROLE_CVM && i < NICS && i < nics.n; i++)
		name_nic(fd, nics.address[i], cvm_nics[i]);
	if (fd >= 0)
		close(fd);
}
