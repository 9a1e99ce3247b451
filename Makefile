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

# For FUZZERS: the sources, compiled and linked by clang in one go.
FUZZ_CFLAGS := -std=gnu17 -g -O1 -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=undefined
FUZZ_SECONDS ?= 10

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

.PHONY: all prepare unit fuzz format lint clean help
all: $(PROGRAMS) ## Build every program

prepare: $(DEPS_STAMPS) $(PROGRAMS) ## Make everything that tests and the demo need
	@:

unit: $(UNIT_TESTS) ## Build and run the unit tests
	@failed=0; for t in $(UNIT_TESTS); do $$t || failed=1; done; exit $$failed

fuzz: $(FUZZERS) ## Run every fuzz target for FUZZ_SECONDS (10)
	@failed=0; for f in $(FUZZERS); do \
		mkdir -p $$f.corpus; echo "fuzz: $$f"; \
		$$f -max_total_time=$(FUZZ_SECONDS) -rss_limit_mb=1024 -timeout=10 -verbosity=0 \
			-artifact_prefix=$$f.crash- $$f.corpus >$$f.log 2>&1 || { cat $$f.log; failed=1; }; \
	done; exit $$failed

C_FILES = $(shell git ls-files "*.c" "*.h" 2>/dev/null)
C_SOURCES = $(filter %.c,$(C_FILES))
# Fuzz targets are compiled by rules of their own.
TIDY_MARKS = $(patsubst %.c,$(B)/lint/%.tidy,$(filter-out %_fuzz.c,$(C_SOURCES)))
SCRIPTS = $(shell git grep -lE '^\#!/bin/(ba)?sh')

format: ## Lay the C sources out as .clang-format says
	clang-format -i $(C_FILES)

lint: $(TIDY_MARKS) ## Check layout (clang-format), C (clang-tidy, cppcheck) and scripts (shellcheck)
	clang-format --dry-run -Werror $(C_FILES)
	cppcheck --quiet --error-exitcode=1 --std=c11 -D_GNU_SOURCE -I. -j2 --inline-suppr \
		--include=.ci/cppcheck.h \
		--enable=warning,performance,portability --library=posix \
		--suppress=missingIncludeSystem --suppress=readdirCalled $(C_SOURCES)
	shellcheck $(SCRIPTS)

# How each source is compiled, for clang-tidy and editors: what make would run.
$(B)/compile_commands.json: Makefile $(wildcard */module.mk) .ci/compile-commands
	@mkdir -p $(@D)
	$(MAKE) --no-print-directory -nB PACKAGES=unchecked $(C_SOURCES:%.c=$(B)/obj/%.o) | \
		.ci/compile-commands $@

# The object stands for the headers that the source includes.
$(B)/lint/%.tidy: %.c $(B)/obj/%.o .clang-tidy | $(B)/compile_commands.json
	@mkdir -p $(@D)
	clang-tidy --quiet -p $(B) --extra-arg=-Wno-unknown-warning-option $< 2>$@.log || \
		{ cat $@.log; exit 1; }
	@touch $@

clean: ## Remove what the build made, but not the libraries in build/deps
	find build -mindepth 1 -maxdepth 1 ! -name deps -exec rm -rf {} +

help: ## Show this list
	@grep -hE '^[a-z][a-z-]*:.*##' $(MAKEFILE_LIST) | sort -u | sed -E 's/^([a-z-]+):.*## */\1\t/' | \
		awk -F'\t' '{printf "  make %-18s %s\n", $$1, $$2}'
endif
