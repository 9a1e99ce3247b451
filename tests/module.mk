# SPDX-License-Identifier: GPL-2.0-or-later

.PHONY: check check-moves bench-takeover list-unit-tests
check: ## Install, build and test everything
	deps/install-packages
	$(MAKE) deps
	$(MAKE) -j2 all
	$(MAKE) image
	tests/run

check-moves: all image ## Test moves that go wrong and a controller that dies at every step, and failovers in a row, drains and the end of what is protected; `check` tests some
	EDGEPLEX_ALL_MOVES=1 /usr/bin/python3 -B -m pytest -v -p no:cacheprovider tests/e2e/test_migrate.py \
		tests/e2e/test_protect.py tests/e2e/test_protect_elsewhere.py tests/e2e/test_lifecycle.py

bench-takeover: all ## Measure how soon a configured PVM takes over sessions and traffic of one that was killed
	/usr/bin/python3 -B tests/routing/bench_takeover.py

list-unit-tests:
	@printf '%s\n' $(UNIT_TESTS)
