# SPDX-License-Identifier: GPL-2.0-or-later
include dataplane/fib.mk

# edgeplex-fwd, linked statically so that it runs in the guest, which has no shared libraries.

FWD_ENGINE_SOURCES := dataplane/engine.c dataplane/icmp.c dataplane/iface.c dataplane/ip4.c \
	dataplane/ip6.c dataplane/mpls.c dataplane/neighbor.c dataplane/nexthop.c
FWD_SOURCES := $(FWD_ENGINE_SOURCES) dataplane/fpm.c dataplane/main.c dataplane/netlink.c \
	dataplane/packet_socket.c dataplane/port.c dataplane/rehearsal.c dataplane/routes.c dataplane/rpc.c \
	dataplane/tap.c dataplane/worker.c

# DPDK's drivers register themselves, nothing refers to them: they are linked whole.
FWD_DPDK_DRIVERS := -lrte_bus_pci -lrte_bus_vdev -lrte_mempool_ring -lrte_net_virtio
FWD_DPDK_LIBS := -lrte_ethdev -lrte_meter -lrte_net -lrte_mbuf -lrte_mempool -lrte_ring -lrte_pci \
	-lrte_eal -lrte_telemetry -lrte_kvargs
# A sanitized program can't be static.
FWD_STATIC := $(if $(filter 1,$(SANITIZE)),,-static)
FWD_SYSTEM_LIBS := -lnuma -lbsd -lmd -lm -lpthread -ldl

$(B)/obj/dataplane/%.o: MOD_CPPFLAGS += -I/usr/include/libnl3 $(shell pkg-config --cflags libdpdk)
$(B)/obj/dataplane/%.o: MOD_CFLAGS += -Wno-address-of-packed-member

$(B)/edgeplex-fwd: $(FWD_SOURCES:%.c=$(B)/obj/%.o) $(LIBFIB) $(LIBFIBMSG) $(LIBCOMMON) \
		$(CJSON_ARCHIVE)
	$(CC) $(FWD_STATIC) -Wl,--no-warnings $(LDFLAGS) -o $@ $(filter %.o,$^) $(LIBFIB) $(LIBFIBMSG) $(LIBCOMMON) \
		-Wl,--start-group -Wl,--whole-archive $(FWD_DPDK_DRIVERS) -Wl,--no-whole-archive \
		$(FWD_DPDK_LIBS) -Wl,--end-group \
		-lnl-route-3 -lnl-3 $(CJSON_ARCHIVE) $(FWD_SYSTEM_LIBS)
PROGRAMS += $(B)/edgeplex-fwd
GUEST_PROGRAMS += $(B)/edgeplex-fwd


# Headers are read where they lie in the frame, as everywhere in DPDK: not aligned.
FWD_FUZZ_SOURCES := dataplane/packet_fuzz.c dataplane/rehearsal.c dataplane/routes.c $(FWD_ENGINE_SOURCES) $(FIB_SOURCES) \
	common/log.c
$(B)/fuzz/packet: $(FWD_FUZZ_SOURCES) $(wildcard dataplane/*.h common/*.h)
	@mkdir -p $(@D)
	clang $(CPPFLAGS) $(shell pkg-config --cflags libdpdk) -mpopcnt $(FUZZ_CFLAGS) \
		-fno-sanitize=alignment -Wno-address-of-packed-member -o $@ $(filter %.c,$^) \
		$(shell pkg-config --libs libdpdk)
FUZZERS += $(B)/fuzz/packet

$(B)/tests/dataplane/routes_test: $(patsubst %,$(B)/obj/dataplane/%.o,routes_test routes nexthop iface) \
		$(LIBFIB) $(LIBCOMMON)
	@mkdir -p $(@D)
	$(CC) $(LDFLAGS) -o $@ $^ -lcmocka -lcjson -lpthread
UNIT_TESTS += $(B)/tests/dataplane/routes_test
