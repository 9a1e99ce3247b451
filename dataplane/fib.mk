# SPDX-License-Identifier: GPL-2.0-or-later
# libfib.a: longest-prefix match. Read by dataplane/module.mk.

FIB_SOURCES := dataplane/fib.c dataplane/fib_arena.c dataplane/fib_domain.c
LIBFIB := $(B)/libfib.a

ifeq ($(shell uname -m),x86_64)
# A node's slots are found by counting bits; DPDK wants as much of the CPU (SSE4.2) anyway.
$(B)/obj/dataplane/fib.o: MOD_CFLAGS += -mpopcnt
endif

$(LIBFIB): $(FIB_SOURCES:%.c=$(B)/obj/%.o)
	@rm -f $@
	ar rcs $@ $^

$(B)/tests/dataplane/fib_test: $(B)/obj/dataplane/fib_test.o $(B)/obj/dataplane/fib_oracle.o $(LIBFIB)
	@mkdir -p $(@D)
	$(CC) $(LDFLAGS) -o $@ $^ -lcmocka -lpthread
UNIT_TESTS += $(B)/tests/dataplane/fib_test

FIB_FUZZ_SOURCES := dataplane/fib_fuzz.c dataplane/fib_oracle.c $(FIB_SOURCES)
$(B)/fuzz/fib: $(FIB_FUZZ_SOURCES) dataplane/fib.h dataplane/fib_arena.h dataplane/fib_oracle.h
	@mkdir -p $(@D)
	clang $(CPPFLAGS) $(FUZZ_CFLAGS) -o $@ $(FIB_FUZZ_SOURCES)
FUZZERS += $(B)/fuzz/fib

# Against DPDK's tables.
$(B)/obj/dataplane/fib_bench.o: MOD_CFLAGS += $(shell pkg-config --cflags libdpdk)
$(B)/bench/fib_bench: $(B)/obj/dataplane/fib_bench.o $(LIBFIB)
	@mkdir -p $(@D)
	$(CC) $(LDFLAGS) -o $@ $^ $(shell pkg-config --libs libdpdk) -lm

.PHONY: bench-fib
bench-fib: $(B)/bench/fib_bench ## Compare the FIB with DPDK's (about 3 minutes)
	$<
