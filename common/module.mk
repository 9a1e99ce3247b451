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
