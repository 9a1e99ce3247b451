/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef EDGEPLEX_IMAGE_BEAT_H
#define EDGEPLEX_IMAGE_BEAT_H

/*
 * The agent's signs of life for init (guest.beat): nobody else reaches the VM if it hangs. It is
 * ended, and started again, 4 to 6 s after its last one: before the controller, which asks it every
 * second, takes the whole VM for hanging (controller/heal.h).
 */

#define AGENT_BEAT_MS 1500
#define AGENT_BEAT_EXPECTED_MS 2000

#endif
