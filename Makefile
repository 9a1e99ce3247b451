# SPDX-License-Identifier: GPL-2.0-or-later
# One non-recursive build. Every folder adds its programs and tests in its module.mk.

.DEFAULT_GOAL := all
SHELL := /bin/bash
MAKEFLAGS += --no-builtin-rules
.DELETE_ON_ERROR:

B ?= build
# Libraries built from Debian's source packages; shared by every build flavour.
DEPS ?= $(CURDIR)/build/deps
CC := gcc
PYTHON := /usr/bin/python3

CPPFLAGS := -D_GNU_SOURCE -I.
CFLAGS ?= -O2 -g
ALL_CFLAGS = -std=gnu17 -Wall -Wextra -Werror -Wstrict-prototypes -Wmissing-prototypes \
	-fstack-protector-strong -fno-strict-aliasing $(CFLAGS)
ifeq ($(SANITIZE),1)
B := build/san
ALL_CFLAGS += -fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer
LDFLAGS += -fsanitize=address,undefined
endif

PROGRAMS :=
UNIT_TESTS :=
FUZZERS :=
GUEST_PROGRAMS :=

# The folders' makefiles ask pkg-config while they are read. On a machine that lacks packages, make
# therefore installs them and starts over. `make PACKAGES=unchecked` trusts what is there.
GOALS := $(or $(MAKECMDGOALS),all)
ifneq ($(filter-out help clean demo-down,$(GOALS)),)
ifneq ($(PACKAGES),unchecked)
MISSING_PACKAGES := $(shell deps/install-packages --missing)
endif
endif
ifneq ($(MISSING_PACKAGES),)
.PHONY: $(GOALS) with-packages
$(GOALS): with-packages ;
with-packages:
	deps/install-packages
	+$(MAKE) PACKAGES=unchecked $(GOALS)
else

include $(wildcard deps/module.mk common/module.mk dataplane/module.mk pvm/module.mk cvm/module.mk \
	hostd/module.mk controller/module.mk image/module.mk testbed/module.mk tests/module.mk)

# Flags that only some folders need are target-specific variables set in their module.mk:
#   $(B)/obj/dataplane/%.o: MOD_CFLAGS += ...
$(B)/obj/%.o: %.c | $(DEPS_STAMPS)
	@mkdir -p $(@D)
	$(CC) $(CPPFLAGS) $(MOD_CPPFLAGS) $(ALL_CFLAGS) $(MOD_CFLAGS) -MMD -MP -c -o $@ $<

-include $(shell find $(B)/obj -name '*.d' 2>/dev/null)

.PHONY: all prepare unit format lint clean help
all: $(PROGRAMS) ## Build every program

prepare: $(DEPS_STAMPS) $(PROGRAMS) ## Make everything that tests and the demo need
	@:

unit: $(UNIT_TESTS) ## Build and run the unit tests
	@failed=0; for t in $(UNIT_TESTS); do $$t || failed=1; done; exit $$failed

format: ## Lay the C sources out as .clang-format says
	git ls-files '*.c' '*.h' | xargs -r clang-format -i

clean: ## Remove what the build made, but not the libraries in build/deps
	find build -mindepth 1 -maxdepth 1 ! -name deps -exec rm -rf {} +

help: ## Show this list
	@grep -hE '^[a-z][a-z-]*:.*##' $(MAKEFILE_LIST) | sort -u | sed -E 's/^([a-z-]+):.*## */\1\t/' | \
		awk -F'\t' '{printf "  make %-18s %s\n", $$1, $$2}'
endif
