/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef EDGEPLEX_LIBVIRT_FIX_H
#define EDGEPLEX_LIBVIRT_FIX_H

/*
 * CVE-2024-4418, for libvirt 6.7 to 10.3: a thread that waits for libvirtd's answer watches the
 * connection's socket by a GSource that points into its stack. When another thread wakes it (with
 * a call of its own, or a keepalive that is due), the source stays, and the next one to wait on
 * that connection writes through it: crashes and lost wake-ups, just when a server doesn't answer.
 *
 * libvirt_fix.c has the functions of GLib by which libvirt does this, in front of GLib's own, and
 * takes away what was left, as libvirt's own repair does. To a repaired libvirt it makes no
 * difference.
 */

/* Finds GLib's own; to be called once, before libvirt is used. Returns 0, or -1 without GLib. */
int libvirt_fix_init(void);

#endif
