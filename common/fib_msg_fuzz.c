/* SPDX-License-Identifier: GPL-2.0-or-later */
/* libFuzzer: any frame either is refused or decodes to a route that can be encoded again. */
#include <stdlib.h>
#include <string.h>

#include "common/fib_msg.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	uint8_t frame[FIB_MSG_MAX], again[FIB_MSG_MAX];
	struct fib_route route;
	enum fib_msg_op op;
	size_t length = size + 4;

	if (length > sizeof(frame))
		return 0;
	frame[0] = 1;
	frame[1] = 1;
	frame[2] = (uint8_t)(length >> 8);
	frame[3] = (uint8_t)length;
	memcpy(frame + 4, data, size);
	if (fib_msg_frame_len(frame, length) != (int)length)
		return 0;
	if (fib_msg_decode(frame, length, &op, &route, NULL) < 0)
		return 0;
	if (op == FIB_ADD && fib_msg_encode(op, &route, again, sizeof(again)) < 0)
		abort();
	return 0;
}
