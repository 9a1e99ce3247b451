# SPDX-License-Identifier: GPL-2.0-or-later
# edgeplex, the operators' command line, and its man page.

# The version is edgeplexd's.
CLI_VERSION := $(shell sed -n 's/^\#define API_VERSION "\(.*\)"/\1/p' controller/api.h)
CLI_NAMES := args cli client commands completion event explain follow help json mem operation pages progress \
	resource show status table term text vm
CLI_OBJECTS := $(CLI_NAMES:%=$(B)/obj/controller/cli/%.o)
CLI_LIBS = -lcurl -lcjson -lm

$(B)/obj/controller/cli/%.o: MOD_CPPFLAGS += -DEDGEPLEX_VERSION='"$(CLI_VERSION)"'

$(B)/edgeplex: $(B)/obj/controller/cli/main.o $(CLI_OBJECTS)
	$(CC) $(LDFLAGS) -o $@ $^ $(CLI_LIBS)
PROGRAMS += $(B)/edgeplex

$(B)/man/edgeplex.1: $(B)/edgeplex
	@mkdir -p $(@D)
	$< __man >$@
all: $(B)/man/edgeplex.1

define cli_unit_test
$(B)/tests/controller/cli/$(1)_test: $(B)/obj/controller/cli/$(1)_test.o $(CLI_OBJECTS)
	@mkdir -p $$(@D)
	$(CC) $(LDFLAGS) -o $$@ $$^ $(CLI_LIBS) -lcmocka
UNIT_TESTS += $(B)/tests/controller/cli/$(1)_test
endef
$(foreach t,$(patsubst controller/cli/%_test.c,%,$(wildcard controller/cli/*_test.c)),$(eval \
	$(call cli_unit_test,$(t))))
