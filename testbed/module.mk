# SPDX-License-Identifier: GPL-2.0-or-later

include testbed/probe/module.mk

.PHONY: demo demo-down
demo: ## Install, build, start the testbed and show that customers' packets cross the VPN
	deps/install-packages
	$(MAKE) deps
	$(MAKE) -j2 all
	$(MAKE) image
	testbed/demo

demo-down: ## Take the testbed down
	testbed/testbed down

.PHONY: bench-migration
bench-migration: ## Compare ways of moving a PVM under traffic (about half an hour; BENCH="--few 2")
	deps/install-packages
	$(MAKE) deps
	$(MAKE) -j2 all
	$(MAKE) image
	testbed/bench/migration $(BENCH)

.PHONY: soak-checkpoint
soak-checkpoint: ## Let a protected CVM fail 50 times under BGP load (about an hour; BENCH="--failures 5")
	deps/install-packages
	$(MAKE) deps
	$(MAKE) -j2 all
	$(MAKE) image
	testbed/bench/soak $(BENCH)

.PHONY: bench-drain
bench-drain: ## Drain a server of eight PVMs under traffic (five minutes; BENCH="--pvms 4 --rate 200")
	deps/install-packages
	$(MAKE) deps
	$(MAKE) -j2 all
	$(MAKE) image
	testbed/bench/drain $(BENCH)

MINUTES ?= 10
.PHONY: chaos
chaos: ## Let whatever can fail fail at random, under traffic (MINUTES=10 SEED=1 BENCH="--alone")
	deps/install-packages
	$(MAKE) deps
	$(MAKE) -j2 all
	$(MAKE) image
	testbed/bench/chaos --minutes $(MINUTES) $(if $(SEED),--seed $(SEED)) $(BENCH)

.PHONY: evaluation
evaluation: ## Reproduce the article's evaluation, with a report (under an hour; QUICK=1: under 15 minutes)
	deps/install-packages
	deps/install-packages deps/packages-evaluation.txt
	$(MAKE) deps
	$(MAKE) -j2 all
	$(MAKE) image
	testbed/evaluation/run $(if $(filter-out 0,$(QUICK)),--quick) $(EVALUATION)

.PHONY: bench-heal
bench-heal: ## Let PVMs, and a server with eight, fail under traffic, and time it (BENCH="--kinds server --times 1")
	deps/install-packages
	$(MAKE) deps
	$(MAKE) -j2 all
	$(MAKE) image
	testbed/bench/heal $(BENCH)

.PHONY: bench-calm
bench-calm: ## Keep all processors busy while nothing fails: nobody may react (ten minutes; BENCH="--minutes 2")
	deps/install-packages
	$(MAKE) deps
	$(MAKE) -j2 all
	$(MAKE) image
	testbed/bench/calm $(BENCH)
