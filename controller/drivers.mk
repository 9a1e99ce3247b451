# SPDX-License-Identifier: GPL-2.0-or-later
# libdrivers.a: how the controller speaks to servers, VMs and switches.
# Link $(LIBDRIVERS) before $(LIBCOMMON), and $(DRIVERS_LIBS) $(COMMON_LIBS) behind them.

DRIVERS_SOURCES := $(addprefix controller/,fabric.c fabric_counters.c fabric_flows.c \
	fabric_reconcile.c fabric_request.c fabric_rules.c fabric_session.c guest.c hostd_client.c \
	hypervisor.c hypervisor_xml.c libvirt_fix.c)
LIBDRIVERS := $(B)/libdrivers.a
DRIVERS_LIBS = -lvirt -lxml2 $(OVS_LIBS)

$(LIBDRIVERS): $(DRIVERS_SOURCES:%.c=$(B)/obj/%.o)
	@rm -f $@
	ar rcs $@ $^

DRIVERS_OVS_OBJECTS := $(addprefix $(B)/obj/controller/,fabric.o fabric_counters.o fabric_flows.o \
	fabric_reconcile.o fabric_request.o fabric_session.o)
$(DRIVERS_OVS_OBJECTS): MOD_CPPFLAGS += $(OVS_CPPFLAGS)
$(DRIVERS_OVS_OBJECTS): | $(DEPS)/ovs.stamp
$(B)/obj/controller/hypervisor_xml.o $(B)/obj/controller/hypervisor_xml_test.o: MOD_CPPFLAGS += -isystem /usr/include/libxml2

# Lets tests use the drivers as edgeplexd does.
DRIVERS_SHELL := $(B)/tests/controller/drivers_shell
PROGRAMS += $(DRIVERS_SHELL)
$(DRIVERS_SHELL): $(B)/obj/tests/controller/drivers_shell.o $(LIBDRIVERS) $(LIBCOMMON)
	@mkdir -p $(@D)
	$(CC) $(LDFLAGS) -o $@ $^ $(DRIVERS_LIBS) $(COMMON_LIBS)

define drivers_unit_test
$(B)/tests/controller/$(1)_test: $(B)/obj/controller/$(1)_test.o $(B)/obj/controller/$(1).o $(LIBCOMMON)
	@mkdir -p $$(@D)
	$(CC) $(LDFLAGS) -o $$@ $$^ -lxml2 $(COMMON_LIBS) -lcmocka
UNIT_TESTS += $(B)/tests/controller/$(1)_test
endef
$(foreach t,fabric_rules hypervisor_xml,$(eval $(call drivers_unit_test,$(t))))

$(B)/tests/controller/libvirt_fix_test: $(B)/obj/controller/libvirt_fix_test.o $(B)/obj/controller/libvirt_fix.o
	@mkdir -p $(@D)
	$(CC) $(LDFLAGS) -o $@ $^ -lvirt -lcmocka
UNIT_TESTS += $(B)/tests/controller/libvirt_fix_test
