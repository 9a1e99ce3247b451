# SPDX-License-Identifier: GPL-2.0-or-later
# edgeplex-hostd, and the library that it wants preloaded into QEMU.

LIBWP := $(B)/libedgeplex-wp.so
# Never sanitized: it goes into a QEMU that isn't.
$(LIBWP): hostd/wp_preload.c
	@mkdir -p $(@D)
	$(CC) $(CPPFLAGS) -std=gnu17 -Wall -Wextra -Werror -O2 -g -fPIC -shared -o $@ $< -ldl
PROGRAMS += $(LIBWP)

$(B)/obj/hostd/dirty_test.o: MOD_CPPFLAGS += -DWP_PRELOAD='"$(abspath $(LIBWP))"'
$(B)/tests/hostd/dirty_test: $(B)/obj/hostd/dirty_test.o $(B)/obj/hostd/dirty.o | $(LIBWP)
	@mkdir -p $(@D)
	$(CC) $(LDFLAGS) -o $@ $^ -lcmocka
UNIT_TESTS += $(B)/tests/hostd/dirty_test
