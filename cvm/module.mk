# SPDX-License-Identifier: GPL-2.0-or-later
# common/bgp/module.mk was included by pvm's.

CVM_SOURCES := cvm/cvm_config.c cvm/cvmd.c

$(B)/cvmd: $(CVM_SOURCES:%.c=$(B)/obj/%.o) $(BGPHOST_ARCHIVES)
	$(CC) $(LDFLAGS) $(BGPHOST_STATIC) -o $@ $(CVM_SOURCES:%.c=$(B)/obj/%.o) $(BGPHOST_LIBS)
PROGRAMS += $(B)/cvmd
GUEST_PROGRAMS += $(B)/cvmd

$(B)/tests/cvm/cvm_config_test: $(B)/obj/cvm/cvm_config_test.o $(B)/obj/cvm/cvm_config.o \
		$(LIBBGPPURE) $(LIBCOMMON)
	@mkdir -p $(@D)
	$(CC) $(LDFLAGS) -o $@ $^ $(COMMON_LIBS) -lcmocka
UNIT_TESTS += $(B)/tests/cvm/cvm_config_test
