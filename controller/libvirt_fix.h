/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef EDGEPLEX_LIBVIRT_FIX_H
#define EDGEPLEX_LIBVIRT_FIX_H

/*
 * Three defects of libvirt's client, seen in 9.0.0, which show just when a server doesn't
 * answer:
 *
 * - CVE-2024-4418, up to 10.3: a thread that waits for libvirtd's answer watches the connection's
 *   socket by a GSource that points into its stack. When another thread wakes it (with a call of
 *   its own, or a keepalive that is due), the source stays, and the next one to wait on that
 *   connection writes through it.
 * - It works out for how long keepalive lets it wait, and then waits without a limit. Only other
 *   threads wake it, and who does so just before it begins to wait isn't heard: it may then wait
 *   for as long as the server is silent, with everybody who has calls on that connection behind it.
 * - virConnectOpen() has no limit at all: keepalive begins when it has returned.
 *
 * libvirt_fix.c has the functions of GLib by which libvirt waits, in front of GLib's own. It takes
 * away what was left, as libvirt's own repair does; wakes each waiting thread every 250 ms, which
 * then does whatever is due, keepalive's checks first; and ends connections at a limit of ours. To
 * a repaired libvirt it makes no difference.
 */

/* Finds GLib's own; to be called once, before libvirt is used. Returns 0, or -1 without GLib. */
int libvirt_fix_init(void);

/*
 * From now on, a connection on which this thread waits for an answer, after `ms` in all, is ended;
 * the call then fails. 0: no limit any more. It doesn't limit the operating system's connect().
 */
void libvirt_fix_limit(int ms);

#endif
