# SPDX-License-Identifier: GPL-2.0-or-later

PVM_SOURCES := pvm/fib_feed.c pvm/pvm_config.c pvm/pvmd.c

include common/bgp/module.mk

$(B)/pvmd: $(PVM_SOURCES:%.c=$(B)/obj/%.o) $(LIBFIBMSG) $(BGPHOST_ARCHIVES)
	$(CC) $(LDFLAGS) $(BGPHOST_STATIC) -o $@ $(PVM_SOURCES:%.c=$(B)/obj/%.o) $(LIBFIBMSG) \
		$(BGPHOST_LIBS)
PROGRAMS += $(B)/pvmd
GUEST_PROGRAMS += $(B)/pvmd
