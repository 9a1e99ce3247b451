/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef EDGEPLEX_HYPERVISOR_XML_H
#define EDGEPLEX_HYPERVISOR_XML_H

/* libvirt's XML, written and read. For hypervisor.c and its tests. Pure; any thread. */

#include <stdbool.h>
#include <stddef.h>

#include "controller/hypervisor.h"

#define HV_METADATA_URI "https://edgeplex.example/vm/1"

/* Name of the bridge's port for NIC `i` of a spec. */
void hv_nic_ifname(const struct hv_vm_spec *spec, size_t i, char ifname[HV_IFNAME_LEN]);

/* Sets role and owner from our element of a domain's metadata. False: it isn't one. */
bool hv_metadata_read(const char *text, struct hv_vm *vm);

/*
 * From a server's capabilities: its CPU, as XML (free() it; NULL if not told), and whether its QEMU
 * could open /dev/kvm.
 */
char *hv_capabilities_cpu(const char *capabilities, bool *kvm);

/* Has a CPU, given with all features expanded, hardware virtualization? */
bool hv_cpu_virtualizes(const char *cpu);

#endif
