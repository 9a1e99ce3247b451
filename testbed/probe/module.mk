# SPDX-License-Identifier: GPL-2.0-or-later
# edgeplex-probe. Read by testbed/module.mk.

$(B)/edgeplex-probe: $(addprefix $(B)/obj/testbed/probe/,probe.o record.o flow_stats.o) $(LIBCOMMON)
	$(CC) $(LDFLAGS) -o $@ $^ $(COMMON_LIBS)
PROGRAMS += $(B)/edgeplex-probe

$(B)/tests/testbed/flow_stats_test: \
		$(addprefix $(B)/obj/testbed/probe/,flow_stats_test.o flow_stats.o record.o)
	@mkdir -p $(@D)
	$(CC) $(LDFLAGS) -o $@ $^ -lcmocka
UNIT_TESTS += $(B)/tests/testbed/flow_stats_test
