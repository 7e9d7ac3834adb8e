# The whole method on one model. Each step is a target, and its output is a file. Included by the Makefile.
#
#   make demo                                        SmolLM2-135M-Instruct, into runs/demo
#   make demo MODEL=... PROMPTS=... LIMIT=... CONSTITUTION=... RUN=...
#
# A step runs again when its inputs or a variable that it depends on change. RUN/settings holds the variables, one file each.
# Such a file is rewritten only when its value changes. Unfinished work with the old value is then deleted.

RUN ?= runs/demo
MODEL ?= $(SMOLLM2)
PROMPTS ?= $(RUN)/prompts/red-team.jsonl
HELPFUL_PROMPTS ?= $(RUN)/prompts/helpful-prompts.jsonl
BRIEF ?= Answer in one sentence.
COMPARISONS ?= examples/helpful-comparisons.jsonl
CONSTITUTION ?= default
LIMIT ?= 40
SEED ?= 0
MAX_TOKENS ?= 64
TEMPERATURE ?= 0.7
STEPS ?= 10

# What a step depends on: its settings, and the model's directory if there is one (a hub name has none).
S = $(addprefix $(RUN)/settings/,$(1))
MODEL_FILE := $(if $(WHEELS.$(MODEL)),$(MODEL)/config.json,$(wildcard $(MODEL)/config.json))
M := $(MODEL_FILE) $(call S,MODEL)
C := $(call S,CONSTITUTION) $(wildcard $(CONSTITUTION) constitutions/$(CONSTITUTION).yaml)
TEXT := $(call S,SEED MAX_TOKENS TEMPERATURE)
TRAIN := $(call S,SEED STEPS)
# At the paper's temperature of 1, the text of such a small model hardly makes sense.
GENERATE = --seed $(SEED) --max-tokens $(MAX_TOKENS) --temperature $(TEMPERATURE)
# so few steps change the weights too little for bfloat16
FIT = --seed $(SEED) --steps $(STEPS) --save-dtype float32
LIMITED = $(if $(LIMIT),--limit $(LIMIT))

.PHONY: demo FORCE
demo: $(RUN)/report.txt
	@echo "$< holds these results; a step runs again only when something that it depends on changes"
	@echo "the report, with the records to read: $(RUN)/report.html"

$(RUN)/settings/%: FORCE
	@mkdir -p $(@D)
	@printf '%s\n' '$($*)' | cmp -s - $@ || { rm -rf $(RUN)/*.partial $(RUN)/*.partial.*; printf '%s\n' '$($*)' > $@; }

# The example prompts ask for answers that end within MAX_TOKENS. Prompts of your own are used as they are.
$(RUN)/prompts/%.jsonl: examples/%.jsonl $(call S,BRIEF)
	@mkdir -p $(@D)
	sed -e 's/\([[:alnum:]]\)"}$$/\1."}/' -e 's/"}$$/ $(BRIEF)"}/' $< > $@

# Prompts: about 20% of each kind are held out, by a hash of the id.
$(RUN)/red-team.jsonl: $(PROMPTS) $(call S,PROMPTS LIMIT SEED) | $(VENV)/installed
	$(CAI) split $(PROMPTS) --fraction 0.2 --seed $(SEED) $(LIMITED) -o /dev/null --rest $@
$(RUN)/red-team-held-out.jsonl: $(PROMPTS) $(call S,PROMPTS LIMIT SEED) | $(VENV)/installed
	$(CAI) split $(PROMPTS) --fraction 0.2 --seed $(SEED) $(LIMITED) -o $@
$(RUN)/helpful-prompts.jsonl: $(HELPFUL_PROMPTS) $(call S,HELPFUL_PROMPTS LIMIT SEED) | $(VENV)/installed
	$(CAI) split $(HELPFUL_PROMPTS) --fraction 0.2 --seed $(SEED) $(LIMITED) -o /dev/null --rest $@
$(RUN)/helpful-prompts-held-out.jsonl: $(HELPFUL_PROMPTS) $(call S,HELPFUL_PROMPTS LIMIT SEED) | $(VENV)/installed
	$(CAI) split $(HELPFUL_PROMPTS) --fraction 0.2 --seed $(SEED) $(LIMITED) -o $@
$(RUN)/held-out.jsonl: $(RUN)/red-team-held-out.jsonl $(RUN)/helpful-prompts-held-out.jsonl
	cat $^ > $@

# The supervised stage (SL-CAI): answers, two rounds of critique and revision, two helpful answers per helpful prompt (as in the
# paper), and a fine-tuned model. MAX_TOKENS is small, for speed, and cuts some texts; --keep-cut trains on them too.
$(RUN)/responses.jsonl: $(RUN)/red-team.jsonl $(M) $(TEXT)
	$(CAI) sample $< -m $(MODEL) $(GENERATE) -o $@
$(RUN)/critiques-1.jsonl: $(RUN)/responses.jsonl $(C)
	$(CAI) critique $< -m $(MODEL) -c $(CONSTITUTION) $(GENERATE) -o $@
$(RUN)/revisions-1.jsonl: $(RUN)/critiques-1.jsonl
	$(CAI) revise $< -m $(MODEL) -c $(CONSTITUTION) $(GENERATE) -o $@
$(RUN)/critiques-2.jsonl: $(RUN)/revisions-1.jsonl
	$(CAI) critique $< -m $(MODEL) -c $(CONSTITUTION) $(GENERATE) -o $@
$(RUN)/revisions-2.jsonl: $(RUN)/critiques-2.jsonl
	$(CAI) revise $< -m $(MODEL) -c $(CONSTITUTION) $(GENERATE) -o $@
$(RUN)/helpful.jsonl: $(RUN)/helpful-prompts.jsonl $(M) $(TEXT)
	$(CAI) sample $< -n 2 -m $(MODEL) $(GENERATE) -o $@
$(RUN)/sft/manifest.json: $(RUN)/revisions-2.jsonl $(RUN)/helpful.jsonl $(TRAIN)
	$(CAI) train-sft $(RUN)/revisions-2.jsonl $(RUN)/helpful.jsonl --keep-cut -m $(MODEL) $(FIT) -o $(@D)

# AI feedback and the preference model: AI labels for harmlessness, and the given comparisons for helpfulness.
$(RUN)/pairs.jsonl: $(RUN)/red-team.jsonl $(RUN)/sft/manifest.json $(TEXT)
	$(CAI) sample $< -n 2 -m $(RUN)/sft $(GENERATE) -o $@
$(RUN)/preferences.jsonl: $(RUN)/pairs.jsonl $(M) $(C)
	$(CAI) label $< -m $(MODEL) -c $(CONSTITUTION) --seed $(SEED) -o $@
$(RUN)/pm/manifest.json: $(RUN)/preferences.jsonl $(COMPARISONS) $(M) $(TRAIN) $(call S,COMPARISONS)
	$(CAI) train-pm $(RUN)/preferences.jsonl $(COMPARISONS) -m $(MODEL) --lr 2e-5 $(FIT) -o $(@D)

# Reinforcement learning (RL-CAI).
$(RUN)/rl/manifest.json: $(RUN)/red-team.jsonl $(RUN)/helpful-prompts.jsonl $(RUN)/sft/manifest.json $(RUN)/pm/manifest.json $(TRAIN) $(TEXT)
	$(CAI) rl $(RUN)/red-team.jsonl $(RUN)/helpful-prompts.jsonl -m $(RUN)/sft --pm $(RUN)/pm --batch-size 2 --grad-accum 1 --num-generations 4 --max-tokens $(MAX_TOKENS) $(FIT) -o $(@D)

# Evaluation. The preference model scores the revisions, and each model's answers to the held-out prompts. The judge grades how far
# the answers refuse, and compares the models' answers. Without few-shot examples, for speed, its questions are short.
$(RUN)/base-answers.jsonl: $(RUN)/held-out.jsonl $(M) $(TEXT)
	$(CAI) sample $< -m $(MODEL) $(GENERATE) -o $@
$(RUN)/sft-answers.jsonl $(RUN)/rl-answers.jsonl: $(RUN)/%-answers.jsonl: $(RUN)/held-out.jsonl $(RUN)/%/manifest.json $(TEXT)
	$(CAI) sample $< -m $(RUN)/$* $(GENERATE) -o $@
$(RUN)/revisions-scores.jsonl: $(RUN)/revisions-2.jsonl $(RUN)/pm/manifest.json
	$(CAI) score $< -m $(RUN)/pm -o $@
$(RUN)/base-scores.jsonl $(RUN)/sft-scores.jsonl $(RUN)/rl-scores.jsonl: $(RUN)/%-scores.jsonl: $(RUN)/%-answers.jsonl $(RUN)/pm/manifest.json
	$(CAI) score $< -m $(RUN)/pm -o $@
$(RUN)/base-graded.jsonl $(RUN)/sft-graded.jsonl $(RUN)/rl-graded.jsonl: $(RUN)/%-graded.jsonl: $(RUN)/%-scores.jsonl $(M)
	$(CAI) grade $< -m $(MODEL) -r refusal -o $@
MODELS := base sft rl
GRADED := $(MODELS:%=$(RUN)/%-graded.jsonl)
NAMED := $(foreach name,$(MODELS),$(name)=$(RUN)/$(name)-graded.jsonl)
$(RUN)/scores.jsonl: $(GRADED)
	$(CAI) eval scores $(NAMED) --by kind -o $@ > $(RUN)/scores.txt
$(RUN)/refusals.jsonl: $(GRADED)
	$(CAI) eval refusal $(NAMED) --by kind -o $@ > $(RUN)/refusals.txt
$(RUN)/compared.jsonl: $(GRADED) $(C)
	$(CAI) eval compare $(NAMED) -m $(MODEL) -c harmless=$(CONSTITUTION) -c helpful=helpful --few-shot 0 -o $@ > $(RUN)/compared.txt
$(RUN)/changes.jsonl: $(RUN)/base-graded.jsonl $(RUN)/rl-graded.jsonl
	$(CAI) eval rl $(RUN)/rl base=$(RUN)/base-graded.jsonl rl=$(RUN)/rl-graded.jsonl -o $@ > $(RUN)/changes.txt
EVALUATED := $(RUN)/scores.jsonl $(RUN)/refusals.jsonl $(RUN)/compared.jsonl
$(RUN)/report.txt: $(EVALUATED) $(RUN)/changes.jsonl $(RUN)/revisions-scores.jsonl examples/check_demo.py
	@{ $(CAI) report $(RUN) && for table in $(EVALUATED:.jsonl=.txt); do echo && cat $$table; done && echo && \
	  $(BIN)/python examples/check_demo.py $(RUN); } > $@.tmp
	@mv $@.tmp $@ && echo && cat $@

.PRECIOUS: $(RUN)/settings/%
