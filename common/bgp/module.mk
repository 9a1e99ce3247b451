# SPDX-License-Identifier: GPL-2.0-or-later
# bgpd embedded, shared by pvmd and cvmd: link $(BGPHOST_LIBS), depend on $(BGPHOST_ARCHIVES).

# These need neither FRR nor the kernel: unit tests link them alone.
BGPHOST_PURE := common/bgp/bgp_cfg.c common/bgp/conf_json.c common/bgp/prefix_map.c
BGPHOST_SOURCES := $(BGPHOST_PURE) common/bgp/bgp_cfg_vty.c common/bgp/bgp_collision.c common/bgp/bgp_eor.c common/bgp/bgp_host.c \
	common/bgp/bgp_if.c common/bgp/bgp_next_hop.c common/bgp/bgp_nht.c common/bgp/bgp_paths.c common/bgp/bgp_redist.c \
	common/bgp/bgp_show.c common/bgp/bgp_stale.c common/bgp/kernel_net.c common/bgp/service.c
BGPHOST_FRR := bgp_cfg_vty bgp_collision bgp_eor bgp_host bgp_if bgp_next_hop bgp_nht bgp_paths bgp_redist bgp_show bgp_stale

LIBBGPHOST := $(B)/libbgphost.a
LIBBGPPURE := $(B)/libbgppure.a

$(BGPHOST_FRR:%=$(B)/obj/common/bgp/%.o): MOD_CPPFLAGS = $(FRR_CPPFLAGS)
$(BGPHOST_FRR:%=$(B)/obj/common/bgp/%.o): | $(DEPS)/frr.stamp
$(B)/obj/common/bgp/kernel_net.o: MOD_CPPFLAGS = -isystem /usr/include/libnl3

$(LIBBGPHOST): $(BGPHOST_SOURCES:%.c=$(B)/obj/%.o)
	@rm -f $@
	ar rcs $@ $^

$(LIBBGPPURE): $(BGPHOST_PURE:%.c=$(B)/obj/%.o)
	@rm -f $@
	ar rcs $@ $^

BGPHOST_WRAPPED := bgp_zebra_announce bgp_zebra_withdraw bgp_zebra_announce_table \
	bgp_zebra_withdraw_table_all_subtypes zclient_send_rnh bgp_zebra_send_capabilities \
	bgp_zebra_update bgp_zebra_stale_timer_update zlog_init pid_output \
	bgp_process vpn_leak_to_vrf_withdraw_all bgp_getsockname bgp_connect \
	bgp_event_update bgp_clear_stale_route
comma := ,
BGPHOST_LDFLAGS := $(BGPHOST_WRAPPED:%=-Wl$(comma)--wrap=%)

# libfrr asks for a program interpreter, so that libfrr.so can be executed; a static program that has
# one is started by it and dies.
LIBFRR_STATIC := $(B)/libfrr.a
$(LIBFRR_STATIC): $(DEPS)/frr/lib/libfrr.a
	@mkdir -p $(@D)
	objcopy --rename-section .interp=.rodata.interp $< $@

# Whole: FRR calls what is put in its functions' places, also where the program itself calls nothing.
BGPHOST_LIBS = $(BGPHOST_LDFLAGS) \
	-Wl,--whole-archive $(LIBBGPHOST) -Wl,--no-whole-archive $(LIBCOMMON) \
	$(subst $(DEPS)/frr/lib/libfrr.a,$(LIBFRR_STATIC),$(FRR_LIBS)) \
	$(CJSON_LIBS) -lnl-route-3 -lnl-3 -lm -lpthread
BGPHOST_ARCHIVES = $(LIBBGPHOST) $(LIBCOMMON) $(FRR_ARCHIVES) $(LIBFRR_STATIC) $(LIBYANG_ARCHIVE) $(CJSON_ARCHIVE)
# The guest has no shared libraries.
BGPHOST_STATIC = $(if $(filter 1,$(SANITIZE)),,-static)

define bgphost_unit_test
$(B)/tests/common/bgp/$(1)_test: $(B)/obj/common/bgp/$(1)_test.o $(LIBBGPPURE) $(LIBCOMMON)
	@mkdir -p $$(@D)
	$(CC) $(LDFLAGS) -o $$@ $$^ $(COMMON_LIBS) -lcmocka
UNIT_TESTS += $(B)/tests/common/bgp/$(1)_test
endef
$(foreach t,bgp_cfg prefix_map,$(eval $(call bgphost_unit_test,$(t))))
