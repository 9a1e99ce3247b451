/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef EDGEPLEX_BOOT_H
#define EDGEPLEX_BOOT_H

/*
 * The steps that make a VM out of a booted kernel. For PID 1 only, before any thread. What fails is
 * logged, and the boot goes on: a VM that answers on its channel can tell what is wrong with it.
 */

#define BOOT_NAME_MAX 64

enum boot_role { BOOT_ROLE_NONE, BOOT_ROLE_PVM, BOOT_ROLE_CVM };

struct boot_params {
	enum boot_role role;
	char name[BOOT_NAME_MAX]; /* of the VM, or "" */
	unsigned hugepages;       /* of 2 MiB */
};

/* "pvm", "cvm" or "none". */
const char *boot_role_name(enum boot_role role);

/* Mounts /proc, /sys, /dev, /run, /tmp, /dev/hugepages; makes /run/edgeplex. */
void boot_mount(void);

/* Reads the kernel command line: edgeplex.role=pvm|cvm edgeplex.name=NAME edgeplex.hugepages=N. */
void boot_read_params(struct boot_params *params);

/*
 * Sets huge pages aside. (The kernel's own parameter does so before it unpacks the image, for which
 * a small VM then has not enough memory left.)
 */
void boot_reserve_hugepages(const struct boot_params *params);

/* Sets the kernel's parameters so that it sends nothing by itself and forwards nothing. */
void boot_set_sysctls(void);

/* Gives the memory of a file of the image back: the image lives in RAM. */
void boot_discard(const char *path);

/*
 * Loads the modules that the role needs and hands it its NICs, which are known by their PCI order:
 * a PVM's to vfio-pci (never to the kernel's driver), a CVM's become `core` and `inside`, up.
 */
void boot_set_up_devices(enum boot_role role);

#endif
