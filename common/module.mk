# SPDX-License-Identifier: GPL-2.0-or-later
# libcommon.a: what several programs share. Link with $(COMMON_LIBS) behind it.

COMMON_SOURCES := common/log.c common/jsonrpc.c common/prefix.c
LIBCOMMON := $(B)/libcommon.a
COMMON_LIBS = -lcjson

$(LIBCOMMON): $(COMMON_SOURCES:%.c=$(B)/obj/%.o)
	@rm -f $@
	ar rcs $@ $^

define common_unit_test
$(B)/tests/common/$(1)_test: $(B)/obj/common/$(1)_test.o $(LIBCOMMON)
	@mkdir -p $$(@D)
	$(CC) $(LDFLAGS) -o $$@ $$^ $(COMMON_LIBS) -lcmocka
UNIT_TESTS += $(B)/tests/common/$(1)_test
endef
$(foreach t,jsonrpc prefix,$(eval $(call common_unit_test,$(t))))

# libfibmsg.a: FIB messages, apart because only the FIB's two ends need libnl.
LIBFIBMSG := $(B)/libfibmsg.a
FIBMSG_LIBS = -lnl-3
$(B)/obj/common/fib_msg.o: MOD_CPPFLAGS += -I/usr/include/libnl3

$(LIBFIBMSG): $(B)/obj/common/fib_msg.o
	@rm -f $@
	ar rcs $@ $^

$(B)/tests/common/fib_msg_test: $(B)/obj/common/fib_msg_test.o $(LIBFIBMSG)
	@mkdir -p $(@D)
	$(CC) $(LDFLAGS) -o $@ $^ $(FIBMSG_LIBS) -lcmocka
UNIT_TESTS += $(B)/tests/common/fib_msg_test

FUZZ_CFLAGS := -std=gnu17 -g -O1 -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=undefined
$(B)/fuzz/fib_msg: common/fib_msg_fuzz.c common/fib_msg.c common/fib_msg.h
	@mkdir -p $(@D)
	clang $(CPPFLAGS) -I/usr/include/libnl3 $(FUZZ_CFLAGS) -o $@ $(filter %.c,$^) $(FIBMSG_LIBS)
FUZZERS += $(B)/fuzz/fib_msg
