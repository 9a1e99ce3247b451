# SPDX-License-Identifier: GPL-2.0-or-later

.PHONY: check list-unit-tests
check: ## Install, build and test everything
	deps/install-packages
	$(MAKE) deps
	$(MAKE) -j2 all
	$(MAKE) image
	tests/run

list-unit-tests:
	@printf '%s\n' $(UNIT_TESTS)
