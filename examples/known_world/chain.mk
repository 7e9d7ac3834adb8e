# The whole method in the known world for one seed. `make proof` runs it for each seed.
#
#   make -f examples/known_world/chain.mk W=runs/proof/seed-1 SEED=1
#
# All steps are ordinary `cai` commands. Only the prompts, the comparisons and the base model come from the known world.

SEED ?= 1
W ?= runs/proof/seed-$(SEED)
# The folder of the world's files, the base model and its first answers. A run with another constitution can share them.
FROM ?= $(W)
BASE := $(FROM)/base
BIN ?= .venv/bin
SIZE ?= 80
TOKENS ?= 9000000
WIDTH ?= 128
LAYERS ?= 4
# What the base learns, in lessons.py: whole, quick for the smaller world, more for what is beside the paper.
CURRICULUM ?= whole
# The number of processes that train the base: at most the number of batches per step (`parts` in lessons.py).
PROCESSES ?= 1
RED ?= 800
HARMLESS ?= 2000
TEST ?= 1200
ROUNDS ?= 1 2 3 4
RL_STEPS ?= 60

here := examples/known_world
HARMS := making people ends
PRINCIPLES := $(HARMS) evasion
CAI := $(BIN)/cai
PY := $(BIN)/python
LAST := $(lastword $(ROUNDS))
WORLD := $(here)/constitution.yaml
C ?= $(WORLD)
# The harder world's answers may be rude; a principle about manners takes part in critiques and revisions, and not in labels.
MANNERS := $(if $(filter quick,$(CURRICULUM)),,-c $(here)/manners.yaml)
$(filter-out $(WORLD),$(C)): $(WORLD) $(here)/reversed.yaml
ENGINE := --engine transformers --seed $(SEED) --quiet
TALK := $(ENGINE) --max-tokens 48 --batch-size 64
JUDGE := $(ENGINE) --batch-size 64 --principles-per-pair all
FIT := --seed $(SEED) --save-dtype float32 --quiet
SFT := $(FIT) --lr 1e-3 --epochs 2 --batch-size 32 --grad-accum 1 --max-length 256
PM := $(FIT) --lr 5e-4 --epochs 2 --batch-size 32 --grad-accum 1 --max-length 256
rl_steps = $(FIT) --algo rloo --kl-coef 0.05 --lr 2e-4 --steps $(1) --batch-size 8 --grad-accum 1 --num-generations 8 --max-tokens 48
RL := $(call rl_steps,$(RL_STEPS))
LONG := $(call rl_steps,$(shell expr 4 '*' $(RL_STEPS)))

# One thread per process, so that one process can run on each core.
export OMP_NUM_THREADS := 1

.SECONDARY:
.DELETE_ON_ERROR:
.PHONY: all main smoke more
SFTS := $(ROUNDS:%=sft-%) sft-direct
RLS := rl rl-hard rl-reasoned rl-unclamped rl-evasive
all: $(foreach model,base $(SFTS) $(RLS),$(W)/answers-$(model).jsonl) $(W)/judged.txt \
  $(foreach model,sft-$(LAST) rl,$(W)/scored-$(model).jsonl) $(HARMS:%=$(W)/reasoned-%.jsonl)
main: $(foreach model,sft-$(LAST) rl,$(W)/answers-$(model).jsonl)
# Beside the paper (docs/reward.md, conditioned.md, in-context.md, infer.md): the judge as the reward, a PM that reads the principle,
# four times the steps, the constitution in context, and the constitution inferred from people's choices.
EXTRA := rl-judged rl-graded rl-long rl-judged-long rl-graded-long rl-conditioned rl-conditioned-helpful rl-conditioned-without sft-in-context sft-filtered
more: $(foreach model,base sft-once sft-twice sft-$(LAST) rl $(EXTRA),$(W)/answers-$(model).jsonl) $(W)/inferred/principles.jsonl
smoke: $(foreach model,base sft-$(LAST) rl,$(W)/answers-$(model).jsonl) $(W)/judged.txt

# The world: requests, human comparisons, and a base model that is trained on the world's texts.
$(FROM)/test.jsonl: $(here)/data.py $(here)/world.py
	$(PY) $(here)/data.py $(FROM) --seed $(SEED) --size $(SIZE) --red $(RED) --harmless $(HARMLESS) --test $(TEST)
$(BASE)/config.json: $(here)/base.py $(here)/lessons.py $(here)/world.py $(WORLD) $(here)/reversed.yaml
	@mkdir -p $(@D)
	$(if $(filter 1,$(PROCESSES)),$(PY),$(BIN)/torchrun --standalone --nproc-per-node $(PROCESSES)) $(here)/base.py $(BASE) --seed $(SEED) --size $(SIZE) --tokens $(TOKENS) --width $(WIDTH) --layers $(LAYERS) --curriculum $(CURRICULUM) > $(BASE).log

# The supervised stage.
$(FROM)/responses.jsonl: $(FROM)/test.jsonl $(BASE)/config.json
	$(CAI) sample $(FROM)/red.jsonl -m $(BASE) $(TALK) -o $@
$(FROM)/helpful.jsonl: $(FROM)/test.jsonl $(BASE)/config.json
	$(CAI) sample $(FROM)/harmless.jsonl --limit $(RED) -m $(BASE) $(TALK) -o $@
$(W)/critiques-1.jsonl: $(FROM)/responses.jsonl $(C)
	@mkdir -p $(@D)
	$(CAI) critique $< -m $(BASE) -c $(C) $(MANNERS) $(TALK) -o $@
define round
$(W)/critiques-$(1).jsonl: $(W)/revisions-$(2).jsonl $(C)
	$(CAI) critique $$< -m $(BASE) -c $(C) $(MANNERS) $(TALK) -o $$@
endef
$(foreach n,$(filter-out 1,$(ROUNDS)),$(eval $(call round,$(n),$(shell expr $(n) - 1))))
$(W)/revisions-%.jsonl: $(W)/critiques-%.jsonl
	$(CAI) revise $< -m $(BASE) -c $(C) $(MANNERS) $(TALK) -o $@
$(W)/direct.jsonl: $(FROM)/responses.jsonl $(C)
	$(CAI) revise $< --direct --rounds $(LAST) -m $(BASE) -c $(C) $(MANNERS) $(TALK) -o $@
# The weight of the helpful answers is the number of rounds, because a record has one revision per round. So the two are equal in
# number, unless there are fewer HARMLESS than RED requests.
$(W)/sft-direct/manifest.json: $(W)/direct.jsonl $(FROM)/helpful.jsonl
	$(CAI) train-sft $< $(FROM)/helpful.jsonl=$(LAST) -m $(BASE) $(SFT) -o $(@D)
$(W)/sft-%/manifest.json: $(W)/revisions-%.jsonl $(FROM)/helpful.jsonl
	$(CAI) train-sft $< $(FROM)/helpful.jsonl=$* -m $(BASE) $(SFT) -o $(@D)

# The constitution in context: as many answers per request as a round of SL-CAI writes texts. The filter keeps answers by their grades.
$(W)/in-context.jsonl: $(FROM)/test.jsonl $(BASE)/config.json $(C)
	$(CAI) sample $(FROM)/red.jsonl -n 3 --constitution-in-context all -m $(BASE) -c $(C) $(TALK) -o $@
$(W)/graded.jsonl: $(W)/in-context.jsonl
	$(CAI) grade $< -m $(BASE) -c $(C) $(ENGINE) --batch-size 64 -o $@
$(W)/filtered.jsonl: $(W)/graded.jsonl
	$(CAI) export sft $< $(PRINCIPLES:%=--min-grade %=0.5) --quiet -o $@
$(W)/sft-in-context/manifest.json: $(W)/in-context.jsonl $(FROM)/helpful.jsonl
	$(CAI) train-sft $< $(FROM)/helpful.jsonl=3 -m $(BASE) $(SFT) -o $(@D)
$(W)/sft-filtered/manifest.json: $(W)/filtered.jsonl $(FROM)/helpful.jsonl
	$(CAI) train-sft $< $(FROM)/helpful.jsonl=$$(echo "$$(wc -l < $<) $(RED)" | awk '{print $$1 / $$2}') -m $(BASE) $(SFT) -o $(@D)
# As many steps as with the answers in context. Two rounds have about as many generated tokens, because their texts are shorter.
$(W)/sft-once/manifest.json: $(W)/revisions-1.jsonl $(FROM)/helpful.jsonl
	$(CAI) train-sft $<=3 $(FROM)/helpful.jsonl=3 -m $(BASE) $(SFT) -o $(@D)
$(W)/sft-twice/manifest.json: $(W)/revisions-2.jsonl $(FROM)/helpful.jsonl
	$(CAI) train-sft $<=1.5 $(FROM)/helpful.jsonl=3 -m $(BASE) $(SFT) -o $(@D)
# The base does not know the words of the examples. It fails if no rule predicts the choices; then the report says so.
$(W)/inferred/principles.jsonl: $(FROM)/test.jsonl $(BASE)/config.json
	$(CAI) constitution infer $(FROM)/principled-comparisons.jsonl -m $(BASE) --few-shot 0 $(ENGINE) --batch-size 64 -o $(@D) || test -e $@

# Feedback: soft labels, hard labels, reasoned labels (clamped and unclamped), and human labels that prefer bare refusals.
SL := $(W)/sft-$(LAST)
$(W)/pairs.jsonl: $(SL)/manifest.json
	$(CAI) sample $(FROM)/red.jsonl -n 2 -m $(SL) $(TALK) -o $@
$(W)/soft.jsonl: $(W)/pairs.jsonl $(C)
	$(CAI) label $< -m $(BASE) -c $(C) $(JUDGE) -o $@
$(W)/hard.jsonl: $(W)/soft.jsonl $(here)/harden.py
	$(PY) $(here)/harden.py $< $@
$(W)/reasoned.jsonl: $(W)/pairs.jsonl $(C)
	$(CAI) label $< -m $(BASE) -c $(C) $(JUDGE) --cot --max-tokens 64 -o $@
$(W)/unclamped.jsonl: $(W)/pairs.jsonl $(C)
	$(CAI) label $< -m $(BASE) -c $(C) $(JUDGE) --cot --max-tokens 64 --clamp 0,1 -o $@
$(W)/pm-evasive/manifest.json: $(FROM)/test.jsonl $(BASE)/config.json
	$(CAI) train-pm $(FROM)/evasive-comparisons.jsonl $(FROM)/helpful-comparisons.jsonl -m $(BASE) $(PM) -o $(@D)
# AI labels count four times as much as human ones. Most principles say nothing about a pair, so a label is near 0.5.
$(W)/pm-%/manifest.json: $(W)/%.jsonl
	$(CAI) train-pm $<=4 $(FROM)/helpful-comparisons.jsonl -m $(BASE) $(PM) -o $(@D)

# Reinforcement learning, with the KL in the reward, as in the paper. GRPO divides by the spread of each request's scores. If all
# answers to a request are similar, it amplifies the PM's noise, and the answers degenerate.
# RL on human labels starts from SL-CAI too: in an easier world, whose base hardly ever refused, RL from the base never drew a refusal.
$(W)/rl/manifest.json: $(W)/pm-soft/manifest.json $(SL)/manifest.json
	$(CAI) rl $(FROM)/red.jsonl $(FROM)/harmless.jsonl -m $(SL) --pm $(W)/pm-soft $(RL) -o $(@D)
$(W)/rl-%/manifest.json: $(W)/pm-%/manifest.json $(SL)/manifest.json
	$(CAI) rl $(FROM)/red.jsonl $(FROM)/harmless.jsonl -m $(SL) --pm $(W)/pm-$* $(RL) -o $(@D)

# The rewards are a probability; a PM's are logits, whose spread is about eight times as large.
JUDGED := --feedback $(BASE)=8 -c $(C) --principles-per-prompt all
COMPARED := $(JUDGED) --feedback-how compare --few-shot 0
define judged
$(W)/rl-$(1)/manifest.json: $(SL)/manifest.json $(C)
	$(CAI) rl $(FROM)/red.jsonl $(FROM)/harmless.jsonl -m $(SL) $(2) -o $$(@D)
endef
$(eval $(call judged,judged,$(COMPARED) $(RL)))
$(eval $(call judged,judged-long,$(COMPARED) $(LONG)))
$(eval $(call judged,graded,$(JUDGED) $(RL)))
$(eval $(call judged,graded-long,$(JUDGED) $(LONG)))
$(W)/rl-long/manifest.json: $(W)/pm-soft/manifest.json $(SL)/manifest.json
	$(CAI) rl $(FROM)/red.jsonl $(FROM)/harmless.jsonl -m $(SL) --pm $(W)/pm-soft $(LONG) -o $(@D)
# Each principle of a label is an example, so the weight of 4 is not needed.
$(W)/pm-conditioned/manifest.json: $(W)/soft.jsonl $(C)
	$(CAI) train-pm $< $(FROM)/helpful-comparisons.jsonl --conditioned -c $(C) -m $(BASE) $(PM) -o $(@D)
$(W)/rl-conditioned/manifest.json: $(W)/pm-conditioned/manifest.json $(SL)/manifest.json
	$(CAI) rl $(FROM)/red.jsonl $(FROM)/harmless.jsonl -m $(SL) --pm $(W)/pm-conditioned -c $(C) $(RL) -o $(@D)
# Nobody asks that PM about help, which people judged without a principle. So a PM of their comparisons is added to the reward. On seed 0
# a weight of 1 undid what SL-CAI had learned about harm, and one of 0.25 half of what RL learned.
$(W)/pm-helpful/manifest.json: $(FROM)/test.jsonl $(BASE)/config.json
	$(CAI) train-pm $(FROM)/helpful-comparisons.jsonl -m $(BASE) $(PM) -o $(@D)
$(W)/rl-conditioned-helpful/manifest.json: $(W)/pm-conditioned/manifest.json $(W)/pm-helpful/manifest.json $(SL)/manifest.json
	$(CAI) rl $(FROM)/red.jsonl $(FROM)/harmless.jsonl -m $(SL) --pm $(W)/pm-conditioned --pm $(W)/pm-helpful=0.1 -c $(C) $(RL) -o $(@D)
$(W)/rl-conditioned-without/manifest.json: $(W)/pm-conditioned/manifest.json $(SL)/manifest.json
	$(CAI) rl $(FROM)/red.jsonl $(FROM)/harmless.jsonl -m $(SL) --pm $(W)/pm-conditioned -c $(C) --principles making,ends,evasion $(RL) -o $(@D)

# Results: answers to requests in forms that no model was trained on, and the skill of the judge.
$(W)/answers-base.jsonl: $(BASE)/config.json $(FROM)/test.jsonl
	$(CAI) sample $(FROM)/test.jsonl -m $(BASE) $(TALK) -o $@
$(W)/answers-%.jsonl: $(W)/%/manifest.json $(FROM)/test.jsonl
	$(CAI) sample $(FROM)/test.jsonl -m $(W)/$* $(TALK) -o $@
# These need the base only. They wait for the PM because in the smaller world the second core is idle only during RL.
$(W)/judged-%.jsonl: $(BASE)/config.json $(FROM)/test.jsonl | $(W)/pm-soft/manifest.json
	$(CAI) eval choice $(FROM)/judge-$*.jsonl -m $(BASE) -c $(WORLD) --principles $* $(ENGINE) --batch-size 64 -o $@
$(W)/reasoned-%.jsonl: $(BASE)/config.json $(FROM)/test.jsonl
	$(CAI) eval choice $(FROM)/judge-$*.jsonl -m $(BASE) -c $(WORLD) --principles $* --cot --clamp 0,1 --max-tokens 64 $(ENGINE) --batch-size 64 -o $@
$(W)/scored-%.jsonl: $(W)/answers-%.jsonl $(W)/pm-soft/manifest.json
	$(CAI) score $< -m $(W)/pm-soft --engine transformers --batch-size 64 --quiet -o $@
$(W)/judged.txt: $(PRINCIPLES:%=$(W)/judged-%.jsonl) $(here)/skill.py $(here)/measure.py
	$(PY) $(here)/skill.py $(filter %.jsonl,$^) > $@
	@cat $@
