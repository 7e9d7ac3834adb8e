#!/bin/sh
# The whole chain on a few records with one model, to show that its family works. `make real-models` calls it.
#
#   sh examples/real-models.sh BIN MODEL RUN [FLAG ...]     BIN is the folder of `cai`; FLAGs go to each trainer
#
# A step whose output is complete is left out, so the same command continues a run.
set -eu
BIN=$1 MODEL=$2 RUN=$3
shift 3
start=$(date +%s)
mkdir -p "$RUN"
# step OUT COMMAND ...: `cai COMMAND ... -o RUN/OUT`. Its manifest is written last.
step() {
    out=$RUN/$1
    shift
    if [ ! -e "$out.manifest.json" ] && [ ! -e "$out/manifest.json" ]; then
        echo "cai $* -o $out"
        "$BIN/cai" "$@" --quiet -o "$out" || { echo "$MODEL: cai $1 failed" >&2; exit 1; }
    fi
}
write="--limit 5 --max-tokens 24 --temperature 0.7"
engine="--engine transformers"
train="--steps 2 --batch-size 2 --grad-accum 1 --max-length 384"
red=examples/red-team.jsonl helpful=examples/helpful-prompts.jsonl comparisons=examples/helpful-comparisons.jsonl

step responses.jsonl sample $red -m "$MODEL" $write $engine
step critiques.jsonl critique "$RUN/responses.jsonl" -m "$MODEL" $write $engine
step revisions.jsonl revise "$RUN/critiques.jsonl" -m "$MODEL" $write $engine
step helpful.jsonl sample $helpful -n 2 -m "$MODEL" $write $engine
step sft train-sft "$RUN/revisions.jsonl" "$RUN/helpful.jsonl" --keep-cut -m "$MODEL" $train "$@"
step pairs.jsonl sample $red -n 2 -m "$RUN/sft" $write $engine
step preferences.jsonl label "$RUN/pairs.jsonl" -m "$MODEL" $engine
step cot.jsonl label "$RUN/pairs.jsonl" --cot --keep-cut --max-tokens 12 -m "$MODEL" $engine
step judged.jsonl eval choice $comparisons --limit 5 -m "$MODEL" $engine > "$RUN/judged.txt"
step pm train-pm "$RUN/preferences.jsonl" $comparisons -m "$MODEL" $train "$@"
step dpo train-dpo "$RUN/preferences.jsonl" -m "$RUN/sft" $train "$@"
step rl rl $red $helpful --limit 5 -m "$RUN/sft" --pm "$RUN/pm" --num-generations 2 --max-tokens 12 $engine $train "$@"
step answers-dpo.jsonl sample $red -m "$RUN/dpo" $write $engine
step answers-rl.jsonl sample $red -m "$RUN/rl" $write # by vLLM, if it is installed
step scores.jsonl score "$RUN/answers-rl.jsonl" -m "$RUN/pm" $engine
"$BIN/cai" report "$RUN"
