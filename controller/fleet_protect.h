/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef EDGEPLEX_FLEET_PROTECT_H
#define EDGEPLEX_FLEET_PROTECT_H

/*
 * How long the protection of CVMs waits for whom, and why.
 *
 * The budget: half a second from the death of a process to a speaking standby, and a second from
 * that of a server. A server that falls silent is noticed after SILENCE_MS, found out about in
 * ASK_PRIMARY_MS and ASK_GUEST_MS; that is less than the second after which its hostd, should it
 * live on, lets its VM speak without the standby. What then remains is for switch and activation.
 */

/*
 * Without a word from the primary's hostd, which speaks every 100 ms, the standby's says so. Less
 * would make a false alarm of every breath that a busy machine takes.
 */
#define PROTECT_SILENCE_MS 300
/* For the primary's hostd to say how it is, upon an alarm; it is a question of memory only. */
#define PROTECT_ASK_PRIMARY_MS 200
/* For the guest itself, where hostd says nothing: the longest stop of an epoch, several times. */
#define PROTECT_ASK_GUEST_MS 250
/*
 * For the primary's hostd once more, when the fence stands: has it let its VM go meanwhile? One
 * that hangs can't have.
 */
#define PROTECT_CHECK_MS 100
/* How often all this is asked again while an alarm lasts. */
#define PROTECT_ALARM_MS 250
/* For the switch to confirm the fence; then it is asked again. */
#define PROTECT_FENCE_MS 2000
/* For standby.activate: hostd's own limits for QEMU, together. It takes tens of milliseconds. */
#define PROTECT_ACTIVATE_MS 15000
/* For a standby's hostd that doesn't answer while it should activate, perhaps just restarted. */
#define PROTECT_ACTIVATE_AGAIN_MS 10000
/* For hostd to do something that is not urgent. */
#define PROTECT_HOSTD_MS 5000
/* Beyond the protection's own time-out, for protect.stop to let everything go. */
#define PROTECT_STOP_MS 6000
/* After a take-over, for the old primary's hostd to read that its VM is superseded. */
#define PROTECT_TAKEN_MS 1500
/* Until the next attempt at a standby, after one failed. */
#define PROTECT_RETRY_MS 3000
/* How often everything is looked at without any news. */
#define PROTECT_LOOK_MS 2000
/* The progress of the first copy, and how long there may be none. */
#define PROTECT_COPY_POLL_MS 200
#define PROTECT_COPY_STALLED_MS 60000
/* After a start of edgeplexd: a guest's channel that isn't open yet proves nothing. */
#define PROTECT_CHANNEL_MS 5000
/* For somebody who wants to see figures to get those of this moment. */
#define PROTECT_REFRESH_MS 300
/* For a protection to be ended, and a void copy that is in the way of an operation. */
#define PROTECT_END_MS 60000
/* Between attempts to destroy void copies. */
#define PROTECT_REAP_MS 2000

#endif
