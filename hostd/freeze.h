/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef EDGEPLEX_HOSTD_FREEZE_H
#define EDGEPLEX_HOSTD_FREEZE_H

/*
 * No VM stays stopped because hostd died or hangs. Before a source is stopped, a record in the run
 * directory says so; it is memory shared with a file, so a kill at any moment leaves it right.
 * A guard, a child process that does nothing else, waits for hostd's end and then resumes what the
 * records say; so does hostd when it starts, should the guard have been killed too. A hostd that
 * gives no sign of life for FREEZE_HUNG_MS is killed by the guard.
 *
 * A VM is not resumed when its record says that the destination was given leave to run
 * (FREEZE_GRANTED): from then on only the controller may resume it, who knows what the switch lets
 * through.
 *
 * Output of a protected VM that is held (hold.h) is let go, and nothing is held any more.
 */

#include <stdint.h>

/*
 * More than a busy machine keeps a process waiting, and than the other hostd's silence may last
 * (5 s), so that what a peer can see first is dealt with by the peer.
 */
#define FREEZE_HUNG_MS 10000
#define FREEZE_PULSE_MS 500

enum freeze_status {
	FREEZE_RUNNING,
	FREEZE_STOPPED, /* by us, or about to be: resume it */
	FREEZE_GRANTED, /* the destination runs, or may */
};

struct freeze;

/* Makes the record, FREEZE_RUNNING. Returns 0 or errno. */
int freeze_create(
	const char *dir, const uint8_t uuid[16], const char *qmp_path, struct freeze **freeze);

/* In force at once. Doesn't fail and doesn't block. */
void freeze_set(struct freeze *freeze, enum freeze_status status);

/* Removes the record. Accepts NULL. */
void freeze_destroy(struct freeze *freeze);

/*
 * Resumes what records in `dir` say, switches every recorded QEMU back from saving states, and
 * removes the records. Logs what it did.
 */
void freeze_recover(const char *dir);

/*
 * Forks the guard. To be called once, before there are threads, while this process holds the lock
 * of the run directory: the guard holds it too until it has recovered, so a new hostd waits.
 * Returns 0 or errno.
 */
int freeze_start_guard(const char *dir);

/*
 * Tells the guard that this process doesn't hang: from the first time on it expects to hear so
 * every FREEZE_PULSE_MS, until freeze_rest(), after which it only waits for the end.
 */
void freeze_pulse(void);
void freeze_rest(void);

#endif
