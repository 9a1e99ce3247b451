/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef EDGEPLEX_BGP_EOR_H
#define EDGEPLEX_BGP_EOR_H

/*
 * When a speaker that has restarted may say End-of-RIB (RFC 4724 section 4.1).
 *
 * A peer drops our former routes upon our End-of-RIB, so all that we pass on to it must have gone
 * out before: the VPN's routes to a CE, a CE's routes to the VPN. bgpd waits for the peers of the
 * same address family only, so that the CE hears End-of-RIB before the first VPN route; and two
 * bgpds that wait for each other do so until a timer ends it. Therefore it is bgpd's selection
 * deferral that has to be off (`bgp graceful-restart select-defer-time 0`), and this instead.
 */

/*
 * Call when a BGP instance was just created. Holds every End-of-RIB back until each configured peer
 * has sent its own (or, restarting as we are, has been quiet about it for 5 s), or 30 s have
 * passed.
 */
void bgp_eor_hold(void);

#endif
