/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef EDGEPLEX_HYPERVISOR_H
#define EDGEPLEX_HYPERVISOR_H

/*
 * The virtual machines of one server, through its libvirt.
 *
 * A `struct hv` stands for the server, not for a connection: it connects by itself, again and again
 * (waiting 0.5 s, growing to 10 s, between attempts), and calls fail with EHOSTUNREACH while it is
 * not connected. A dead or frozen libvirtd is noticed by keepalive within HV_KEEPALIVE_MS, and
 * every call that waits on it then returns: nothing hangs for ever.
 *
 * Unless a function says otherwise: it may be called from any thread, several at a time; it blocks
 * (typically 1 to 500 ms, at most HV_KEEPALIVE_MS), so never call it from an event loop; it returns
 * 0 or a positive errno and then fills `why` (may be NULL).
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/prefix.h"
#include "controller/why.h"

#define HV_KEEPALIVE_MS 15000
#define HV_MAX_NICS 2
#define HV_NAME_LEN 64   /* of a VM, NUL included */
#define HV_IFNAME_LEN 16 /* IFNAMSIZ */
#define HV_UUID_LEN 37
/* The name of the virtio-serial port that the guest's agent listens on. */
#define HV_CHANNEL "org.edgeplex.ctl.0"

struct hv;

enum hv_accel {
	HV_ACCEL_AUTO, /* KVM where that server's CPU has vmx or svm and its QEMU can use /dev/kvm
			*/
	HV_ACCEL_KVM,
	HV_ACCEL_TCG,
};

enum hv_vm_state {
	HV_VM_RUNNING,
	HV_VM_PAUSED,
	HV_VM_STOPPING, /* its process is going away: crashed, or being destroyed */
	HV_VM_GONE,     /* only in events */
};

struct hv_nic {
	struct ep_mac mac;
	char bridge[HV_IFNAME_LEN]; /* Open vSwitch bridge on the server */
	uint16_t vlan;              /* access VLAN, 1..4094 */
	uint16_t mtu;               /* bytes of IP packet; 0: the bridge's own */
	/* Name of the port on the bridge. "": derived from the VM's UUID and the NIC's position. */
	char ifname[HV_IFNAME_LEN];
};

/*
 * What devices a VM has, as far as a guest and a saved state know them: a running VM can be copied
 * only to one of the same layout.
 * 1: as it was before layouts were noted. 2: NICs don't announce themselves after a copy.
 */
#define HV_LAYOUT 2

struct hv_vm_spec {
	char name[HV_NAME_LEN];      /* unique on the server; [a-z0-9-]+ */
	char uuid[HV_UUID_LEN];      /* lower-case text form; kept for the VM's life */
	const char *role;            /* "pvm" or "cvm"; kept in the domain's metadata */
	const char *owner;           /* whom this VM serves, e.g. "port/green-a"; metadata */
	uint64_t memory_kib;         /* rounded up to a MiB without a ram_dir */
	const char *kernel, *initrd; /* paths on the server */
	const char *cmdline;         /* whole kernel command line */
	const char *console_log;     /* path on the server, started anew; NULL: a pty */
	bool viommu; /* the guest drives its NICs by vfio-pci (a PVM): virtual IOMMU, interrupts */
	/*
	 * What edgeplex-hostd wants to copy the VM, both or neither: a second monitor socket at
	 * this path on the server, and a directory there, on a tmpfs, for the VM's memory. It lies
	 * in a file that QEMU makes without a name, which is gone with it. The paths' directories
	 * exist.
	 */
	const char *qmp_path, *ram_dir;
	/*
	 * With them: path of libedgeplex-wp.so on the server, which has the kernel keep account of
	 * written pages. NULL: hostd compares the memory.
	 */
	const char *preload;
	bool incoming;   /* a copy's destination: waits, paused, for another VM's state */
	unsigned layout; /* 1 to HV_LAYOUT; 0: the newest */
	size_t n_nics;
	struct hv_nic nics[HV_MAX_NICS]; /* the guest's PCI order is this order */
};

/* A VM of ours that exists on a server. */
struct hv_vm {
	char name[HV_NAME_LEN];
	char uuid[HV_UUID_LEN];
	char role[8];
	char owner[80];
	uint64_t memory_kib; /* as its spec had it; 0: started by a version that didn't note it */
	unsigned layout;     /* see HV_LAYOUT */
	enum hv_vm_state state;
};

struct hv_server_info {
	char hostname[65];
	unsigned cpus;
	uint64_t memory_kib;      /* in the machine */
	uint64_t memory_free_kib; /* usable for VMs now: free, buffers and page cache */
	enum hv_accel accel;      /* what HV_ACCEL_AUTO means there: HV_ACCEL_KVM or HV_ACCEL_TCG */
	unsigned long libvirt_version; /* major * 1,000,000 + minor * 1,000 + release */
	unsigned long qemu_version;    /* the same */
};

struct hv_vm_stats {
	uint64_t cpu_ms;     /* of the whole QEMU process, since it started */
	uint64_t rss_kib;    /* of the QEMU process, on the server */
	uint64_t memory_kib; /* of the guest, rounded up to a MiB */
};

enum hv_event_type {
	HV_EVENT_CONNECTED,    /* also after every reconnection: list the VMs again */
	HV_EVENT_DISCONNECTED, /* `detail` says why */
	HV_EVENT_VM,           /* `vm` changed to `vm.state`; only name, uuid and state are set */
};

struct hv_event {
	enum hv_event_type type;
	struct hv_vm vm;
	const char *detail; /* valid during the call */
};

/*
 * Called on a thread of this module, one event at a time for each server. Must not block and must
 * not call hv_*() or guest_*(): note the event, wake your own thread.
 */
typedef void (*hv_event_fn)(void *ctx, const struct hv_event *event);

/*
 * Starts to connect to `uri` and returns at once. `name` is the server's, for messages. `on_event`
 * may be NULL. Returns NULL with errno when resources ran out.
 */
struct hv *hv_open(const char *name, const char *uri, hv_event_fn on_event, void *ctx);

/*
 * Waits until connected. ETIMEDOUT after `timeout_ms` (a server's first connection may take 10 s:
 * its libvirt then probes QEMU); `why` tells what the newest attempt ran into.
 */
int hv_wait_connected(struct hv *hv, int timeout_ms, struct why *why);

/* Is it connected at this moment? Doesn't block. */
bool hv_alive(struct hv *hv);

const char *hv_name(const struct hv *hv);

/* After it returns no callback runs any more. Doesn't wait for libvirt. Accepts NULL. */
void hv_close(struct hv *hv);

int hv_server_info(struct hv *hv, struct hv_server_info *info, struct why *why);

/*
 * Can a running VM be copied from the one server to the other? Both need the same machine and the
 * same accelerator: QEMU's version decides what its machines' device state consists of. False with
 * `why`. Pure.
 */
bool hv_can_copy(
	const struct hv_server_info *from, const struct hv_server_info *to, struct why *why);

/*
 * Starts a VM and returns when its process runs (the guest may take seconds more to boot). A
 * running or paused VM with this name and UUID is success, and is left as it is, but a running one
 * is no destination: EBUSY with spec->incoming. EEXIST: the name or the UUID is taken by another
 * VM. EINVAL: the spec is wrong. EIO: libvirt refused; `why` has its words.
 */
int hv_vm_start(struct hv *hv, const struct hv_vm_spec *spec, struct why *why);

/* Ends a VM at once and waits until it is gone. A VM that doesn't exist is success. */
int hv_vm_destroy(struct hv *hv, const char *uuid, struct why *why);

/*
 * All VMs on this server that carry our metadata, and no others. `*vms` (free() it) may be NULL
 * when there are none.
 */
int hv_vm_list(struct hv *hv, struct hv_vm **vms, size_t *n, struct why *why);

/* ENOENT when no VM has this UUID. */
int hv_vm_get(struct hv *hv, const char *uuid, struct hv_vm *vm, struct why *why);
int hv_vm_stats(struct hv *hv, const char *uuid, struct hv_vm_stats *stats, struct why *why);

/*
 * The domain's XML as hv_vm_start() gives it to libvirt (free() it); `accel` is not HV_ACCEL_AUTO.
 * NULL with `why` when the spec is wrong. Pure.
 */
char *hv_vm_xml(const struct hv_vm_spec *spec, enum hv_accel accel, struct why *why);

#endif
