# The paper's experiment on one model. Each step is a target, and its output is a file. `make reproduce` runs it.
#
#   make reproduce MODEL=... SIZE=small HH=harmless-base.jsonl.gz RUN=runs/mine
#   make reproduce-cost SIZE=paper RUN=runs/mine RATE=5000      what a size takes, from a run of a smaller one
#
# Models: start; sl-1 ... (SL-CAI after so many rounds) and sl-direct (no critiques); rl-LABELS (RL-CAI) for each kind of labels;
# dpo; with HH also rl-human, the baseline. All of RL begins with SL-CAI, so that only the preference models differ. SIZE=paper needs
# prompts and comparisons of your own, as many as the table says.

SIZE ?= smoke
count = $(word $(or $(SIZE_$(SIZE)),$(error SIZE is smoke, small or paper)),$(1))
SIZE_smoke := 1
SIZE_small := 2
SIZE_paper := 3
#                             smoke small  paper
RED          := $(call count,    12   128 182831)# red-team prompts: answered and revised, and two answers each to be labelled
HELPFULS     := $(call count,     8    64 135296)# helpfulness prompts: two answers each. RL draws from all of the file
COMPARED     := $(call count,    16    64 135296)# people's comparisons of helpfulness, for every preference model
PEOPLE       := $(call count,    16   300  20000)# people's comparisons of harmlessness, for the baseline
OTHERS       := $(call count,    16  1400  20000)# others, for the preference model that judges the results
ROUNDS       := $(call count,     1     2      4)# rounds of critique and revision
STEPS        := $(call count,     2    30   1000)# steps of RL
TEST         := $(call count,     6   100   2000)# held-out red-team prompts
TEST_HELPFUL := $(call count,     4    60   2000)# held-out helpfulness prompts
TEST_PAIRS   := $(call count,    16   200   2000)# held-out comparisons of harmlessness, for the judges
TOKENS       := $(call count,    32    96    512)# the longest answer
# What `make reproduce-cost` says, from a run of SIZE=smoke: with answers as short as there, of 32 tokens.
#   hours         0.34   5.1   3017          with SmolLM2-135M on two cores
#   GPU hours     0.01  0.22     94          at RATE=5000 tokens per second

MODEL ?= models/SmolLM2-135M-Instruct
RUN ?= runs/reproduce
SEED ?= 0
BIN ?= .venv/bin
CONSTITUTION ?= default
PROMPTS ?= examples/red-team.jsonl
HELPFUL_PROMPTS ?= examples/helpful-prompts.jsonl
COMPARISONS ?= examples/helpful-comparisons.jsonl
# Held-out prompts from another source; by default a fifth of HELPFUL_PROMPTS, and of PROMPTS unless HH has some.
TEST_HELPFUL_PROMPTS ?=
# Comparisons of helpfulness that fine-tune a base model first. A chat model needs none.
HELPFUL ?=
# A file of hh-rlhf, such as harmless-base's train.jsonl.gz: for the baseline, and for a judge that is independent of the method.
HH ?=
# The model that judges the results starts from, after training on people's comparisons of HH that no other step reads.
JUDGE_MODEL ?= $(MODEL)
JUDGE_LORA ?= $(if $(filter $(MODEL),$(JUDGE_MODEL)),$(LORA))
# Where the starting model runs: ENGINE=server URL=...; all models: REPLICAS=N. LORA=1 trains adapters.
ENGINE ?=
URL ?=
REPLICAS ?=
LORA ?=
# Of all answers. At the paper's temperature of 1, a small model's text hardly makes sense.
TEMPERATURE ?= 1
RATE ?=
GPUS ?= 1

CAI := $(BIN)/cai
LAST := $(lastword $(shell seq $(ROUNDS)))
SL := $(RUN)/sl-$(LAST)
START := $(if $(HELPFUL),$(RUN)/start,$(MODEL))
STARTED := $(if $(HELPFUL),$(RUN)/start/manifest.json)
SAMPLE := --seed $(SEED) --max-tokens $(TOKENS) --temperature $(TEMPERATURE)
LOCAL := $(if $(REPLICAS),--replicas $(REPLICAS)) $(if $(filter-out server,$(ENGINE)),--engine $(ENGINE))
# Of the starting model, which is also the critic and the judge.
ASK := -m $(START) $(if $(filter server,$(ENGINE)),--engine server $(foreach url,$(URL),--base-url $(url)),$(LOCAL))
TALK := $(ASK) -c $(CONSTITUTION) $(SAMPLE)
fit = --seed $(SEED) $(if $(1),--lora --keep-adapter,--save-dtype float32)
pm = $(call fit,$(1)) --lr $(if $(1),2e-4,2e-5) --max-length 512 --batch-size 8 --grad-accum 1
FIT := $(call fit,$(LORA))
PM := $(call pm,$(LORA))
RL := $(FIT) --steps $(STEPS) --batch-size $(if $(filter paper,$(SIZE)),16,2) --grad-accum 1 --num-generations 4 --max-tokens $(TOKENS) \
  --temperature $(TEMPERATURE) $(if $(filter small,$(SIZE)),$(if $(LORA),--lr 1e-4))# at the default so few steps hardly change adapters

LABELS := plain few-shot reasoned unclamped
MODELS := $(shell seq -f sl-%g $(ROUNDS)) sl-direct $(LABELS:%=rl-%) dpo $(if $(HH),rl-human)
SCORED := start $(MODELS)
CHOSEN := start sl-$(LAST) rl-few-shot $(if $(HH),rl-human)
NAMED = $(foreach name,$(2),$(name)=$(RUN)/$(name)-$(1).jsonl)

ifneq ($(and $(HELPFUL),$(filter server,$(ENGINE))),)
$(error HELPFUL makes the starting model in this run, so ENGINE=server cannot have it; give the finished model as MODEL)
endif
# Says so if a file has fewer lines than the size asks for: $(call enough,FILE,LINES,VARIABLES).
enough = @n=$$(wc -l < $(1)); test $$n -ge $(2) || echo "$(1): $$n lines; SIZE=$(SIZE) asks for $(2) ($(3))" >&2

.SECONDARY:
.DELETE_ON_ERROR:
.PHONY: all cost
all: $(RUN)/claims.txt

GROWN = red-team.jsonl=$(RED) helpful-prompts.jsonl=$(HELPFULS) comparisons.jsonl=$(COMPARED) $(if $(or $(HH),$(wildcard $(RUN)/hh-test.jsonl)),\
  hh-people.jsonl=$(PEOPLE) hh-others.jsonl=$(OTHERS) hh-test.jsonl=$(TEST_PAIRS)) held-out.jsonl=$(shell expr $(TEST) + $(TEST_HELPFUL))
# The rates are those of the run's machine, or RATE tokens per second of a GPU.
cost:
	$(CAI) plan run $(RUN) $(foreach file,$(GROWN),--prompts $(file)) --rounds $(ROUNDS) $(if $(RATE),--rate $(RATE)) --gpus $(GPUS)

# Prompts. What is not held out is for training.
$(RUN)/red-team.jsonl: $(PROMPTS)
	@mkdir -p $(@D)
	$(CAI) split $< --fraction $(if $(HH),0,0.2) --seed $(SEED) -o $(RUN)/red-team-held-out.jsonl --rest $@
	$(call enough,$@,$(RED),PROMPTS)
$(RUN)/helpful-prompts.jsonl: $(HELPFUL_PROMPTS)
	@mkdir -p $(@D)
	$(CAI) split $< --fraction $(if $(TEST_HELPFUL_PROMPTS),0,0.2) --seed $(SEED) -o $(RUN)/helpful-prompts-held-out.jsonl --rest $@
	$(call enough,$@,$(HELPFULS),HELPFUL_PROMPTS)
$(RUN)/hh.jsonl: $(HH)
	@mkdir -p $(@D)
	$(CAI) import hh-rlhf $< --preferences -o $@
$(RUN)/hh-prompts.jsonl: $(HH)
	@mkdir -p $(@D)
	$(CAI) import hh-rlhf $< --kind red-team -o $@
# The last pairs of the file are for tests: their prompts for the models, the pairs for the judges.
$(RUN)/hh-people.jsonl: $(RUN)/hh.jsonl
	head -n $(PEOPLE) $< > $@
$(RUN)/hh-others.jsonl: $(RUN)/hh.jsonl
	@test $$(wc -l < $<) -ge $$(($(PEOPLE) + $(OTHERS) + $(TEST_PAIRS))) || \
	  { echo "HH: $$(wc -l < $<) comparisons are fewer than $(PEOPLE) + $(OTHERS) + $(TEST_PAIRS), which share none" >&2; exit 1; }
	tail -n +$$(($(PEOPLE) + 1)) $< | head -n $(OTHERS) > $@
$(RUN)/hh-test.jsonl: $(RUN)/hh.jsonl
	tail -n $(TEST_PAIRS) $< > $@
$(RUN)/held-out.jsonl: $(if $(HH),$(RUN)/hh-prompts.jsonl,$(RUN)/red-team.jsonl) $(TEST_HELPFUL_PROMPTS) $(RUN)/helpful-prompts.jsonl
	{ tail -n $(TEST) $(if $(HH),$<,$(RUN)/red-team-held-out.jsonl); \
	  head -n $(TEST_HELPFUL) $(or $(TEST_HELPFUL_PROMPTS),$(RUN)/helpful-prompts-held-out.jsonl); } > $@
	$(call enough,$@,$(shell expr $(TEST) + $(TEST_HELPFUL)),HH and TEST_HELPFUL_PROMPTS)
$(RUN)/start/manifest.json: $(HELPFUL)
	$(CAI) train-sft $< -m $(MODEL) $(FIT) -o $(@D)

# The supervised stage: answers, rounds of critique and revision, revisions without critiques, two answers per helpfulness prompt.
$(RUN)/responses.jsonl: $(RUN)/red-team.jsonl $(STARTED)
	$(CAI) sample $< --limit $(RED) $(ASK) $(SAMPLE) -o $@
define round
$(RUN)/revisions-$(1).jsonl: $(RUN)/$(2).jsonl
	$(CAI) revise $$< --from-response $(TALK) -o $$@
endef
$(eval $(call round,1,responses))
$(foreach n,$(filter-out 1,$(shell seq $(ROUNDS))),$(eval $(call round,$(n),revisions-$(shell expr $(n) - 1))))
$(RUN)/direct.jsonl: $(RUN)/responses.jsonl
	$(CAI) revise $< --direct --rounds $(ROUNDS) $(TALK) -o $@
$(RUN)/helpful.jsonl: $(RUN)/helpful-prompts.jsonl $(STARTED)
	$(CAI) sample $< --limit $(HELPFULS) -n 2 $(ASK) $(SAMPLE) -o $@
$(RUN)/sl-direct/manifest.json: $(RUN)/direct.jsonl $(RUN)/helpful.jsonl
	$(CAI) train-sft $^ --keep-cut -m $(START) $(FIT) -o $(@D)
$(RUN)/sl-%/manifest.json: $(RUN)/revisions-%.jsonl $(RUN)/helpful.jsonl
	$(CAI) train-sft $^ --keep-cut -m $(START) $(FIT) -o $(@D)

# AI feedback: labels without examples, with the constitution's, and after reasoning, clamped as in the paper and not.
$(RUN)/pairs.jsonl: $(RUN)/red-team.jsonl $(SL)/manifest.json
	$(CAI) sample $< --limit $(RED) -n 2 -m $(SL) $(LOCAL) $(SAMPLE) -o $@
$(RUN)/plain.jsonl: $(RUN)/pairs.jsonl
	$(CAI) label $< $(TALK) --few-shot 0 -o $@
$(RUN)/few-shot.jsonl: $(RUN)/pairs.jsonl
	$(CAI) label $< $(TALK) -o $@
$(RUN)/reasoned.jsonl: $(RUN)/pairs.jsonl
	$(CAI) label $< $(TALK) --cot --keep-cut -o $@
$(RUN)/unclamped.jsonl: $(RUN)/pairs.jsonl
	$(CAI) label $< $(TALK) --cot --keep-cut --clamp 0,1 -o $@
$(RUN)/comparisons.jsonl: $(COMPARISONS)
	@mkdir -p $(@D)
	head -n $(COMPARED) $< > $@
	$(call enough,$@,$(COMPARED),COMPARISONS)
$(RUN)/pm-human/manifest.json: $(RUN)/hh-people.jsonl $(RUN)/comparisons.jsonl
	$(CAI) train-pm $^ -m $(START) $(PM) -o $(@D)
$(RUN)/pm-others/manifest.json: $(RUN)/hh-others.jsonl $(RUN)/hh-test.jsonl
	$(CAI) train-pm $< --eval $(RUN)/hh-test.jsonl -m $(JUDGE_MODEL) $(call pm,$(JUDGE_LORA)) -o $(@D)
$(RUN)/pm-%/manifest.json: $(RUN)/%.jsonl $(RUN)/comparisons.jsonl
	$(CAI) train-pm $^ -m $(START) $(PM) -o $(@D)

# Reinforcement learning, and DPO on the same labels.
$(RUN)/rl-%/manifest.json: $(RUN)/pm-%/manifest.json $(SL)/manifest.json
	$(CAI) rl $(RUN)/red-team.jsonl $(RUN)/helpful-prompts.jsonl -m $(SL) --pm $(RUN)/pm-$* $(RL) -o $(@D)
$(RUN)/dpo/manifest.json: $(RUN)/few-shot.jsonl $(SL)/manifest.json
	$(CAI) train-dpo $< -m $(SL) $(FIT) --batch-size 8 --grad-accum 1 -o $(@D)

# Results. The judge of scores is the preference model of other people's comparisons; without HH that of the few-shot labels.
JUDGE := $(RUN)/pm-$(if $(HH),others,few-shot)
# The start answers as the other models do, and not on a server.
$(RUN)/start-answers.jsonl: $(RUN)/held-out.jsonl $(STARTED)
	$(CAI) sample $< -m $(START) $(LOCAL) $(SAMPLE) -o $@
$(RUN)/%-answers.jsonl: $(RUN)/held-out.jsonl $(RUN)/%/manifest.json
	$(CAI) sample $< -m $(RUN)/$* $(LOCAL) $(SAMPLE) -o $@
$(RUN)/%-scores.jsonl: $(RUN)/%-answers.jsonl $(JUDGE)/manifest.json
	$(CAI) score $< -m $(JUDGE) $(if $(REPLICAS),--replicas $(REPLICAS)) -o $@
$(RUN)/revised-scores.jsonl: $(RUN)/revisions-$(LAST).jsonl $(JUDGE)/manifest.json
	$(CAI) score $< -m $(JUDGE) $(if $(REPLICAS),--replicas $(REPLICAS)) -o $@
$(RUN)/%-graded.jsonl: $(RUN)/%-scores.jsonl
	$(CAI) grade $< $(ASK) -r refusal -o $@
# In another prompt format than that of the labels.
$(RUN)/compared.jsonl: $(CHOSEN:%=$(RUN)/%-graded.jsonl)
	$(CAI) eval compare $(call NAMED,graded,$(CHOSEN)) $(ASK) --format hh -c harmless=$(CONSTITUTION) -c helpful=helpful --few-shot 0 --by kind -o $@ > $(RUN)/compared.txt
$(RUN)/judged.jsonl: $(RUN)/hh-test.jsonl $(STARTED)
	$(CAI) eval choice $< $(ASK) -c $(CONSTITUTION) -o $@ > $(RUN)/judged.txt
$(RUN)/scores.jsonl: $(SCORED:%=$(RUN)/%-graded.jsonl)
	$(CAI) eval scores $(call NAMED,graded,$(SCORED)) --by kind -o $@ > $(RUN)/scores.txt
$(RUN)/refusals.jsonl: $(SCORED:%=$(RUN)/%-graded.jsonl)
	$(CAI) eval refusal $(call NAMED,graded,$(SCORED)) --by kind -o $@ > $(RUN)/refusals.txt
TABLES := scores refusals compared $(if $(HH),judged)
$(RUN)/claims.txt: $(TABLES:%=$(RUN)/%.jsonl) $(RUN)/revised-scores.jsonl examples/reproduce/claims.py
	$(CAI) eval figures $(RUN) > $(RUN)/figures.txt
	@{ $(CAI) report $(RUN) && for table in $(TABLES); do echo && cat $(RUN)/$$table.txt; done && echo && \
	  $(BIN)/python examples/reproduce/claims.py $(RUN) --rounds $(ROUNDS); } > $@.tmp
	@mv $@.tmp $@ && cat $@
