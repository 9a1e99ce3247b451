# SPDX-License-Identifier: GPL-2.0-or-later
# What Debian has no (static) library of, built once into $(DEPS) from Debian's source packages.
# deps/README.md says what and why.

DEPS_PARTS := libyang cjson frr ovs kernel
DEPS_STAMPS := $(DEPS_PARTS:%=$(DEPS)/%.stamp)

# The script finds out whether anything changed that matters.
$(DEPS_STAMPS): $(DEPS)/%.stamp: deps/pins deps/build
	deps/build $(DEPS) $*

.PHONY: deps
deps: $(DEPS_STAMPS) ## Build FRR's and Open vSwitch's libraries, fetch the guest's kernel

# For what is linked or packed: made anew when the part is. Every object waits for all parts.
FRR_ARCHIVES := $(DEPS)/frr/lib/libbgp.a $(DEPS)/frr/lib/libfrr.a
OVS_ARCHIVES := $(DEPS)/ovs/lib/libopenvswitch.a $(DEPS)/ovs/lib/libopenvswitchavx512.a
CJSON_ARCHIVE := $(DEPS)/cjson/lib/libcjson.a
LIBYANG_ARCHIVE := $(DEPS)/libyang/lib/libyang.a
$(FRR_ARCHIVES): $(DEPS)/frr.stamp ;
$(OVS_ARCHIVES): $(DEPS)/ovs.stamp ;
$(CJSON_ARCHIVE): $(DEPS)/cjson.stamp ;
$(LIBYANG_ARCHIVE): $(DEPS)/libyang.stamp ;

# bgpd as a library. Headers as system headers: their warnings are not ours.
FRR_CPPFLAGS := -DHAVE_CONFIG_H -fms-extensions -isystem $(DEPS)/frr/include \
	-isystem $(DEPS)/frr/include/include -isystem $(DEPS)/frr/include/lib \
	-isystem $(DEPS)/frr/include/lib/assert
# bgpd's YANG models are in no archive; libfrr's are found by their sections, so all of it is linked.
FRR_YANG := $(patsubst %,$(DEPS)/frr/yang/frr-%.yang.o,bgp-types bgp bgp-common-structure \
	bgp-common bgp-common-multiprotocol bgp-neighbor bgp-peer-group bgp-bmp bgp-rpki \
	deviations-bgp-datacenter bgp-filter bgp-route-map)
# Good for static and dynamic programs.
FRR_LIBS := $(FRR_YANG) $(DEPS)/frr/lib/libbgp.a -Wl,--whole-archive $(DEPS)/frr/lib/libfrr.a \
	-Wl,--no-whole-archive $(LIBYANG_ARCHIVE) -lpcre2-8 -ljson-c -lcap -lcrypt -lm -lpthread -lrt -ldl

# OpenFlow. Sources include <config.h> first.
OVS_CPPFLAGS := -isystem $(DEPS)/ovs -isystem $(DEPS)/ovs/include -isystem $(DEPS)/ovs/lib
OVS_LIBS := $(OVS_ARCHIVES) -lpthread -latomic -lnuma -lxdp -lbpf -lunbound -lm

# cJSON for static programs (dynamic ones may say -lcjson).
CJSON_LIBS := $(CJSON_ARCHIVE)

# The guest's kernel, unpacked; not installed.
KERNEL_IMAGE := $(DEPS)/kernel/vmlinuz
KERNEL_MODULES := $(DEPS)/kernel/modules
$(KERNEL_IMAGE): $(DEPS)/kernel.stamp ;
