# The proof that the method works, in a world with a known answer. Included by the Makefile.
#
#   make proof          three seeds, into runs/proof
#   make proof-smoke    one seed of a smaller world, in which the main directions must hold
#   make known-more     what is beside the paper (docs/reward.md, conditioned.md, in-context.md, infer.md), into runs/more

PROOF ?= runs/proof
PROOF_SEEDS ?= 1 2 3
MORE ?= runs/more
SMOKE ?= runs/smoke
CHAIN := -f examples/known_world/chain.mk
REPORT := $(BIN)/python examples/known_world/report.py
SIZE ?= 80

.PHONY: proof proof-smoke known-more
proof: $(VENV)/installed
	$(MAKE) -j2 $(foreach run,seed without inverted,$(PROOF_SEEDS:%=$(run)-%))
	@$(REPORT) $(PROOF_SEEDS:%=$(PROOF)/seed-%) --size $(SIZE) --plot $(PROOF)/proof.png > $(PROOF)/report.txt && cat $(PROOF)/report.txt

# The whole chain for each seed, then its main part without one principle, and its main part with one principle inverted.
seed-%:
	$(MAKE) $(CHAIN) W=$(PROOF)/seed-$* SEED=$* SIZE=$(SIZE)
without-%: seed-%
	$(MAKE) $(CHAIN) W=$(PROOF)/without-$* SEED=$* SIZE=$(SIZE) FROM=$(PROOF)/seed-$* C=examples/known_world/without-people.yaml main
inverted-%: seed-%
	$(MAKE) $(CHAIN) W=$(PROOF)/inverted-$* SEED=$* SIZE=$(SIZE) FROM=$(PROOF)/seed-$* C=examples/known_world/making-inverted.yaml main

# Its base also learns to grade, to follow principles in view, and to say why an answer was chosen. That takes more tokens.
known-more: $(VENV)/installed
	$(MAKE) -j2 $(PROOF_SEEDS:%=more-%)
	@$(BIN)/python examples/known_world/more.py $(PROOF_SEEDS:%=$(MORE)/seed-%) --size $(SIZE) > $(MORE)/report.txt && cat $(MORE)/report.txt
more-%:
	$(MAKE) $(CHAIN) W=$(MORE)/seed-$* SEED=$* SIZE=$(SIZE) CURRICULUM=more TOKENS=11000000 MANNERS= more

# Always starts from scratch, because it must show what the code does now.
proof-smoke: $(VENV)/installed
	rm -rf $(SMOKE)
	$(MAKE) $(CHAIN) -j2 W=$(SMOKE)/seed-1 SEED=1 SIZE=20 TOKENS=2400000 WIDTH=96 LAYERS=3 CURRICULUM=quick PROCESSES=2 RED=400 HARMLESS=200 TEST=400 ROUNDS="1 2 3" RL_STEPS=35 smoke
	$(REPORT) $(SMOKE)/seed-1 --size 20 --smoke
