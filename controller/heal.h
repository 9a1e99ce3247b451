/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef EDGEPLEX_HEAL_H
#define EDGEPLEX_HEAL_H

/*
 * How long healing waits for whom, and why.
 *
 * The budget: a second from the death of a PVM's process until its spare forwards, two from that of
 * a server. A false alarm costs the customer a graceful restart, no more, since whoever is replaced
 * is fenced first; but it costs a VM, so what may be slowness alone is given much longer than what
 * can't be.
 */

/* ---- VMs ---------------------------------------------------------------------------------- */

/* From one question to a guest whether it is alive to the next: cheap for it, and often enough. */
#define HEAL_ALIVE_MS 1000
/* For its answer. The agent itself answers within 300 ms, whatever hangs in the guest. */
#define HEAL_ANSWER_MS 500
/*
 * So many questions in a row unanswered, and nothing heard of it at the switch meanwhile: it hangs.
 * Six seconds; a guest that is only starved gets some milliseconds of processor in that time.
 */
#define HEAL_UNANSWERED 6
/* So many, before one that no spare can stand in for is ended and started again: that costs more.
 */
#define HEAL_UNANSWERED_COLD 60
/* A program in the guest that has stood still for so long is ended; its supervisor starts it. */
#define HEAL_PROGRAM_MS 15000
/* The same for the routing daemon, which may be busy with a big table, and whose peers wait 30 s.
 */
#define HEAL_DAEMON_MS 20000
/* And after that, for it to come back before the VM itself is replaced. */
#define HEAL_PROGRAM_AGAIN_MS 30000
/*
 * A question that came back so much later than it could was delayed here: we are starved ourselves,
 * and judge nobody by it.
 */
#define HEAL_LATE_MS 300
/* For hostd to say whether there is a QEMU; libvirt takes a second or two to notice its death. */
#define HEAL_PEEK_MS 250
/* Asked again so soon: a process that is killed closes its channel before all that it had is gone.
 */
#define HEAL_PEEK_AGAIN_MS 20
/* A channel that closed without anybody who can say why: the VM is gone, if it stays closed. */
#define HEAL_HUNG_UP_MS 1500
/* Between attempts to heal one VM. */
#define HEAL_RETRY_MS 500
/*
 * How often a VM that was just replaced is looked at until it gives service, and for how long. Only
 * who waits to be told gains by looking more often, and eight guests that answer all the time come
 * to serve later.
 */
#define HEAL_LOOK_MS 200
#define HEAL_SERVING_MS 120000
/*
 * Spares take over in turns, so many at a time on each server (heal_at_once()): what a VM does for
 * the first time takes a whole processor, and when eight do it on two, all of them come late. A
 * turn ends when the VM serves, or so long after it began, or was configured; and nobody waits
 * longer than that.
 */
#define HEAL_TURN_MS 10000
#define HEAL_TURN_SERVES_MS 3000
#define HEAL_TURNS_MS 30000
#define HEAL_TURN_LOOK_MS 10

/* ---- servers ------------------------------------------------------------------------------ */

/* From one question to a hostd to the next, and for its answer; a matter of a millisecond. */
#define HEAL_KEEPALIVE_MS 200
#define HEAL_KEEPALIVE_ANSWER_MS 250
/* Nobody there has said anything for so long: libvirt and the switch are asked, too. */
#define HEAL_DOUBT_MS 700
/* A trunk without a carrier, and a hostd that says nothing: two signs that don't lie together. */
#define HEAL_TRUNK_SILENT_MS 300
/* For hostd's answer once the trunk has no carrier: the VMs behind it can't be reached anyway. */
#define HEAL_TRUNK_ANSWER_MS 150
/* A trunk without a carrier, though the server is well: longer than a link takes to come back. */
#define HEAL_TRUNK_MS 1000
/*
 * Nothing but silence: of hostd, libvirt and every guest. Longer than what a management network
 * takes to heal itself, and a busy machine to breathe.
 */
#define HEAL_SILENT_MS 2500
/* Of such a silence, before what the switch has heard since then is evidence: OVS counts late. */
#define HEAL_COUNTED_MS 1200
/* For libvirt to be believed silent: it was asked so long ago. */
#define HEAL_LIBVIRT_MS 1000
/* After a start of edgeplexd, for connections to be made; a first one to a libvirt may take 10 s.
 */
#define HEAL_START_MS 10000
/* The same for spares to be heard before a PVM that died meanwhile is started cold. */
#define HEAL_START_SPARES_MS 3000
/* For the switch to say what it has heard. */
#define HEAL_COUNTERS_MS 500
/* For a server that was given up: it answers again for so long. */
#define HEAL_BACK_MS 1000

/* ---- taking over -------------------------------------------------------------------------- */

/* For the switch to confirm the fence; then it is asked again. */
#define HEAL_FENCE_MS 2000
/* For a spare to take its configuration; its keeper goes on if it doesn't. */
#define HEAL_CONFIGURE_MS 5000

/* ---- spares ------------------------------------------------------------------------------- */

/* How often the pools are looked at without any news. */
#define HEAL_POOL_MS 2000
/* Until the next attempt at a spare, after one failed. */
#define HEAL_POOL_RETRY_MS 5000
/* At most so many spares of a site boot at a time: they take processor from those that serve. */
#define HEAL_POOL_BOOTING 2
/*
 * While a VM of the site is being replaced, and until its successor serves, its pool rests: a spare
 * that boots takes processor from those that take over, and each of them takes much longer to come
 * than a spare is late by waiting for it. Not for longer than this: a successor that never serves
 * doesn't keep the pool empty.
 */
#define HEAL_POOL_RESTS_MS 10000
/* A spare that isn't ready after so long is replaced by another. */
#define HEAL_POOL_BOOT_MS 180000

#endif
