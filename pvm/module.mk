# SPDX-License-Identifier: GPL-2.0-or-later

PVM_SOURCES := pvm/fib_feed.c pvm/pvm_config.c pvm/pvmd.c

include common/bgp/module.mk

$(B)/pvmd: $(PVM_SOURCES:%.c=$(B)/obj/%.o) $(LIBFIBMSG) $(BGPHOST_ARCHIVES)
	$(CC) $(LDFLAGS) $(BGPHOST_STATIC) -o $@ $(PVM_SOURCES:%.c=$(B)/obj/%.o) $(LIBFIBMSG) \
		$(BGPHOST_LIBS)
PROGRAMS += $(B)/pvmd
GUEST_PROGRAMS += $(B)/pvmd

$(B)/tests/pvm/pvm_config_test: $(B)/obj/pvm/pvm_config_test.o $(B)/obj/pvm/pvm_config.o \
		$(LIBBGPPURE) $(LIBCOMMON)
	@mkdir -p $(@D)
	$(CC) $(LDFLAGS) -o $@ $^ $(COMMON_LIBS) -lcmocka
UNIT_TESTS += $(B)/tests/pvm/pvm_config_test

$(B)/fuzz/bgp_config: pvm/config_fuzz.c pvm/pvm_config.c cvm/cvm_config.c $(BGPHOST_PURE) \
		$(COMMON_SOURCES)
	@mkdir -p $(@D)
	clang $(CPPFLAGS) $(FUZZ_CFLAGS) -o $@ $(filter %.c,$^) $(COMMON_LIBS)
FUZZERS += $(B)/fuzz/bgp_config
