/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef EDGEPLEX_HOSTD_QMP_H
#define EDGEPLEX_HOSTD_QMP_H

/*
 * QEMU's machine protocol, on a second monitor socket of a VM that libvirt manages
 * (-qmp unix:PATH,server=on,wait=off): what hostd needs to stop and resume a VM and to save and
 * load its device state. Memory doesn't pass here: it is a shared file, and the capability
 * x-ignore-shared keeps it out of the state. That capability is on between qmp_begin_state() and
 * qmp_end_state() only, because a `virsh save` meanwhile would write an image without memory.
 *
 * Every call is bounded by its `timeout_ms`, also when QEMU is stopped by a signal. Functions
 * return 0 or errno, and then qmp_why() tells: ETIMEDOUT (QEMU doesn't answer; may be called
 * again), EREMOTEIO (QEMU refuses), ECONNRESET (it is gone), EBADMSG (that isn't QEMU).
 *
 * An object is to be used from one thread at a time.
 */

#include <stdbool.h>
#include <sys/types.h>
#include <cjson/cJSON.h>

struct qmp;

/* Connects and negotiates. `why` (may be NULL) is set on failure. Also returns what connect() says.
 */
int qmp_open(const char *path, int timeout_ms, struct qmp **qmp, char why[256]);

/* Accepts NULL. QEMU goes on; if it was killed its socket, which it left, is removed. */
void qmp_close(struct qmp *qmp);

/*
 * Removes the socket that a QEMU which was killed has left, unless somebody serves it, or the next
 * QEMU has made its own by now. Returns whether it did. Takes up to half a second.
 */
bool qmp_remove_stale(const char *path);

/* The monitor's connection, to poll() for QEMU's end (POLLHUP). */
int qmp_fd(const struct qmp *qmp);
/* Has QEMU ended? Doesn't block. */
bool qmp_gone(const struct qmp *qmp);

/* What went wrong last, in a sentence. */
const char *qmp_why(const struct qmp *qmp);

/* QEMU's process. */
pid_t qmp_pid(const struct qmp *qmp);

/*
 * Runs a command. Takes `arguments` (may be NULL). `*result` (`result` may be NULL) becomes the
 * caller's.
 */
int qmp_command(
	struct qmp *qmp, const char *command, cJSON *arguments, int timeout_ms, cJSON **result);

/* One of several commands that are given to QEMU at once. */
struct qmp_call {
	const char *command;
	cJSON *arguments; /* may be NULL */
};

#define QMP_MAX_BATCH 64

/*
 * Runs `n` commands (1 to QMP_MAX_BATCH), one after the other, without waiting in between. Takes
 * their arguments. With `fd` unless -1, which a "getfd" among them takes.
 * qmp_batch() returns when all are answered: 0, or the error of the first that failed; those after
 * it were run all the same. qmp_batch_begin() only sends them; qmp_batch_wait() waits for the first
 * `n` of them.
 */
int qmp_batch(struct qmp *qmp, const struct qmp_call *calls, size_t n, int timeout_ms);
int qmp_batch_begin(
	struct qmp *qmp, const struct qmp_call *calls, size_t n, int fd, int timeout_ms);
int qmp_batch_wait(struct qmp *qmp, size_t n, int timeout_ms);

/* The run state: "running", "paused", "postmigrate", "inmigrate", … */
int qmp_status(struct qmp *qmp, char status[32], int timeout_ms);

/*
 * The path of the file that is the VM's memory, for this process: below /proc if QEMU made it
 * without a name (mem-path is a directory). ENOTSUP: its memory is not a file.
 */
int qmp_ram_path(struct qmp *qmp, char *path, size_t size, int timeout_ms);

/* The vCPUs stand still when this returns. */
int qmp_stop(struct qmp *qmp, int timeout_ms);

/* Resumes, also while a state is being saved (which is cancelled). */
int qmp_cont(struct qmp *qmp, int timeout_ms);

/*
 * Switches to saving or loading states, and back to how it was. qmp_end_state() also serves after
 * a process that died in between.
 */
int qmp_begin_state(struct qmp *qmp, int timeout_ms);
int qmp_end_state(struct qmp *qmp, int timeout_ms);

/* The same two as calls of a batch; qmp_begin_state() must have been called once before. */
struct qmp_call qmp_state_call(struct qmp *qmp, bool begin);

/*
 * The calls of a batch that begin to save device state to the batch's descriptor: qmp_save_wait()
 * serves for them. Sets `calls[0]` and `calls[1]`.
 */
void qmp_save_calls(struct qmp *qmp, struct qmp_call calls[2]);

/*
 * Saving the device state of a stopped VM to the file `fd`: begins, and waits until all is there.
 * In between memory can be copied.
 */
int qmp_save_begin(struct qmp *qmp, int fd, int timeout_ms);
int qmp_save_wait(struct qmp *qmp, int timeout_ms);

/* Loads device state from the file `fd` into a QEMU that was started with `-incoming defer`. */
int qmp_load(struct qmp *qmp, int fd, int timeout_ms);

#endif
