# Do the trainers work? Three proofs on real data, on a CPU. Included by the Makefile.
#
#   make learn HH=harmless-base.jsonl.gz             all three, into runs/learn: about two hours on two cores
#   make learn-pm | learn-rl | learn-sft HH=...      one of them
#
# HH is a file of hh-rlhf (github.com/anthropics/hh-rlhf). Its first 1,500 pairs are the training set, the others the test set.

HH ?= harmless-base.jsonl.gz
LEARN ?= runs/learn
TRAIN_PAIRS ?= 1500
HELD_OUT ?= 400
RL_STEPS ?= 40
PM_FIT := --lr 2e-5 --max-length 384 --batch-size 8 --grad-accum 1 --save-dtype float32
ANSWER := --max-tokens 48 --seed 1

.PHONY: learn learn-pm learn-rl learn-sft
learn: learn-pm learn-rl learn-sft

$(HH):
	@echo "HH=$(HH): no such file; give HH= a file of hh-rlhf, for instance harmless-base's train.jsonl.gz" >&2; exit 1

$(LEARN)/train.jsonl: $(HH) | $(VENV)/installed
	@mkdir -p $(@D)
	$(CAI) import hh-rlhf $(HH) --preferences --limit $(TRAIN_PAIRS) -o $@
$(LEARN)/all.jsonl: $(HH) | $(VENV)/installed
	@mkdir -p $(@D)
	$(CAI) import hh-rlhf $(HH) --preferences -o $@
$(LEARN)/test.jsonl: $(LEARN)/all.jsonl $(LEARN)/train.jsonl
	tail -n +$$(($$(wc -l < $(LEARN)/train.jsonl) + 1)) $< > $@

# (a) A preference model, compared with TRL's own trainer on the same rows.
$(LEARN)/pm/manifest.json: $(LEARN)/train.jsonl $(LEARN)/test.jsonl $(M)
	$(CAI) train-pm $< --eval $(LEARN)/test.jsonl -m $(MODEL) $(PM_FIT) -o $(@D)
$(LEARN)/trl-pm/config.json: $(LEARN)/train.jsonl $(M)
	$(BIN)/python examples/trl_reward.py $< $(MODEL) $(@D)
$(LEARN)/choices-cai.jsonl: $(LEARN)/test.jsonl $(LEARN)/pm/manifest.json
	$(CAI) eval choice $< -m $(LEARN)/pm --quiet -o $@
$(LEARN)/choices-trl.jsonl: $(LEARN)/test.jsonl $(LEARN)/trl-pm/config.json
	$(CAI) eval choice $< -m $(LEARN)/trl-pm --quiet -o $@
learn-pm: $(LEARN)/choices-cai.jsonl $(LEARN)/choices-trl.jsonl
	$(CAI) eval judges cai=$(LEARN)/choices-cai.jsonl trl=$(LEARN)/choices-trl.jsonl --plot $(LEARN)/calibration.png

# (b) RL with that preference model as the reward. Two preference models score the answers to held-out prompts: that one, and
# TRL's, which RL did not use.
$(LEARN)/rl/manifest.json: $(LEARN)/train.jsonl $(LEARN)/pm/manifest.json $(M)
	$(CAI) rl $< -m $(MODEL) --pm $(LEARN)/pm --steps $(RL_STEPS) --batch-size 4 --max-length 256 --max-tokens 48 --lr 2e-5 --kl-coef 0.05 --num-generations 4 --grad-accum 1 --save-dtype float32 -o $(@D)
$(LEARN)/answers-base.jsonl: $(LEARN)/test.jsonl $(M)
	$(CAI) sample $< -m $(MODEL) --limit $(HELD_OUT) $(ANSWER) -o $@
$(LEARN)/answers-rl.jsonl: $(LEARN)/test.jsonl $(LEARN)/rl/manifest.json
	$(CAI) sample $< -m $(LEARN)/rl --limit $(HELD_OUT) $(ANSWER) -o $@
$(LEARN)/scored-%.jsonl: $(LEARN)/answers-%.jsonl $(LEARN)/pm/manifest.json
	$(CAI) score $< -m $(LEARN)/pm -o $@
$(LEARN)/other-%.jsonl: $(LEARN)/answers-%.jsonl $(LEARN)/trl-pm/config.json
	$(CAI) score $< -m $(LEARN)/trl-pm -o $@
learn-rl: $(foreach kind,scored other,$(LEARN)/$(kind)-base.jsonl $(LEARN)/$(kind)-rl.jsonl)
	@echo "scores by the preference model that was the reward:"
	$(CAI) eval scores base=$(LEARN)/scored-base.jsonl rl=$(LEARN)/scored-rl.jsonl
	@echo "scores by a preference model that RL did not use:"
	$(CAI) eval scores base=$(LEARN)/other-base.jsonl rl=$(LEARN)/other-rl.jsonl
	$(BIN)/python examples/learned.py answers $(LEARN)/answers-base.jsonl $(LEARN)/answers-rl.jsonl $(LEARN)/rl/metrics.jsonl

# (c) Fine-tuning on the demo's revisions: the likelihood of held-out revisions before and after.
$(LEARN)/revisions-test.jsonl: $(RUN)/revisions-2.jsonl
	@mkdir -p $(@D)
	$(CAI) split $< --fraction 0.3 -o $@ --rest $(LEARN)/revisions-train.jsonl
$(LEARN)/sft/manifest.json: $(LEARN)/revisions-test.jsonl $(M)
	$(CAI) train-sft $(LEARN)/revisions-train.jsonl --keep-cut --eval $< -m $(MODEL) --save-dtype float32 -o $(@D)
learn-sft: $(LEARN)/sft/manifest.json
	$(BIN)/python examples/learned.py likelihood $(LEARN)/revisions-test.jsonl $(MODEL) $(LEARN)/sft
