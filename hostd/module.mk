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

# Unit tests: a test's object and those of the parts that it names.
define hostd_unit_test
$(B)/tests/hostd/$(1)_test: $(B)/obj/hostd/$(1)_test.o $(patsubst %,$(B)/obj/hostd/%.o,$(2)) $(LIBCOMMON)
	@mkdir -p $$(@D)
	$(CC) $(LDFLAGS) -o $$@ $$^ $(HOSTD_LIBS) -lcmocka
UNIT_TESTS += $(B)/tests/hostd/$(1)_test
endef
HOSTD_LIBS = -lssl -lcrypto -llz4 -lxxhash $(COMMON_LIBS) -lpthread
$(eval $(call hostd_unit_test,delta,delta))
$(eval $(call hostd_unit_test,pauses,pauses))
$(eval $(call hostd_unit_test,state,state))
$(eval $(call hostd_unit_test,urgent,urgent))
$(eval $(call hostd_unit_test,epoch,epoch delta frame state))

$(B)/fuzz/hostd_delta: hostd/delta_fuzz.c hostd/delta.c hostd/delta.h
	@mkdir -p $(@D)
	clang $(CPPFLAGS) $(FUZZ_CFLAGS) -o $@ $(filter %.c,$^) -llz4
FUZZERS += $(B)/fuzz/hostd_delta

$(B)/fuzz/hostd_epoch: hostd/epoch_fuzz.c hostd/epoch.c hostd/delta.c hostd/frame.c hostd/state.c \
		hostd/epoch.h
	@mkdir -p $(@D)
	clang $(CPPFLAGS) $(FUZZ_CFLAGS) -o $@ $(filter %.c,$^) -llz4 -lxxhash
FUZZERS += $(B)/fuzz/hostd_epoch

# Runs in the VM of the protection's tests.
$(B)/tests/hostd/guest_load: tests/hostd/guest_load.c
	@mkdir -p $(@D)
	$(CC) $(CPPFLAGS) -std=gnu17 -Wall -Wextra -Werror -O2 -static -o $@ $<
PROGRAMS += $(B)/tests/hostd/guest_load

HOSTD_SOURCES := $(addprefix hostd/,capture.c control.c delta.c dirty.c epoch.c frame.c freeze.c guardian.c hold.c hostd.c \
	link.c pauses.c qmp.c source.c standby.c state.c urgent.c)
$(B)/edgeplex-hostd: $(HOSTD_SOURCES:%.c=$(B)/obj/%.o) $(LIBCOMMON)
	$(CC) $(LDFLAGS) -o $@ $^ $(HOSTD_LIBS)
PROGRAMS += $(B)/edgeplex-hostd

.PHONY: bench-hostd
bench-hostd: $(B)/edgeplex-hostd $(LIBWP) image ## Move VMs between two hostds: pause and bytes
	B=$(B) $(PYTHON) tests/hostd/bench.py

.PHONY: bench-checkpoint
bench-checkpoint: $(B)/edgeplex-hostd $(LIBWP) $(B)/tests/hostd/guest_load image ## Protect a CVM under BGP load at intervals of 25 to 1000 ms (BENCH="--routes 100000 --memory 512", or "--scale": of several sizes)
	B=$(B) $(PYTHON) tests/hostd/bench_checkpoint.py $(BENCH)
