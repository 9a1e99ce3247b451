# SPDX-License-Identifier: GPL-2.0-or-later
# edgeplexd, the controller, and edgeplex, its command line.

include controller/drivers.mk
-include controller/cli/module.mk

CONTROLLER_NAMES := \
	api api_docs api_inventory api_port api_progress api_routes api_vm \
	fleet fleet_guest fleet_heal fleet_move fleet_move_switch fleet_protect \
	fleet_protect_ask fleet_protector fleet_reaper fleet_server fleet_spare \
	fleet_standby fleet_switch fleet_takeover fleet_watch \
	registry registry_customer registry_cvm registry_place registry_port registry_server \
	registry_site registry_spare \
	store store_alloc store_cvm store_inventory store_port store_progress store_schema \
	store_spare store_sql \
	engine explain guest_config heal_decide health model placement problem \
	protect_decide risks
CONTROLLER_OBJECTS := $(CONTROLLER_NAMES:%=$(B)/obj/controller/%.o)
CONTROLLER_LIBS = -lmicrohttpd -lsqlite3 -lpthread -lm

$(B)/edgeplexd: $(B)/obj/controller/main.o $(CONTROLLER_OBJECTS) $(LIBDRIVERS) $(LIBCOMMON)
	$(CC) $(LDFLAGS) -o $@ $^ $(CONTROLLER_LIBS) $(DRIVERS_LIBS) $(COMMON_LIBS)
PROGRAMS += $(B)/edgeplexd

define controller_unit_test
$(B)/tests/controller/$(1)_test: $(B)/obj/controller/$(1)_test.o $(CONTROLLER_OBJECTS) $(LIBDRIVERS) \
		$(LIBCOMMON)
	@mkdir -p $$(@D)
	$(CC) $(LDFLAGS) -o $$@ $$^ $(CONTROLLER_LIBS) $(DRIVERS_LIBS) $(COMMON_LIBS) -lcmocka
UNIT_TESTS += $(B)/tests/controller/$(1)_test
endef
$(foreach t,$(filter $(CONTROLLER_NAMES),$(patsubst controller/%_test.c,%,$(wildcard \
	controller/*_test.c))),$(eval $(call controller_unit_test,$(t))))

$(foreach t,explain guest_config registry registry_spare,$(B)/tests/controller/$(t)_test): \
	$(B)/obj/controller/registry_fixture.o

$(B)/fuzz/model: controller/model_fuzz.c controller/model.c controller/problem.c common/prefix.c
	@mkdir -p $(@D)
	clang $(CPPFLAGS) $(FUZZ_CFLAGS) -o $@ $(filter %.c,$^) $(COMMON_LIBS) -lm
FUZZERS += $(B)/fuzz/model

$(B)/fuzz/guest: controller/guest_fuzz.c controller/health.c common/jsonrpc.c common/log.c
	@mkdir -p $(@D)
	clang $(CPPFLAGS) $(FUZZ_CFLAGS) -o $@ $(filter %.c,$^) $(COMMON_LIBS)
FUZZERS += $(B)/fuzz/guest

.PHONY: bench-fabric
bench-fabric: $(DRIVERS_SHELL) ## Change an edge switch's rules as moves do, and time it
	B=$(B) $(PYTHON) tests/controller/bench_fabric.py
