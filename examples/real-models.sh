#!/bin/sh
# The whole chain on five records with one model: shows that models of its family work. `make real-models` calls it.
#
#   sh examples/real-models.sh BIN MODEL RUNS     BIN is the folder of `cai`; the output files are in RUNS/NAME
#
# The same command continues an interrupted run. It starts over after a complete one, of which only the weights are deleted.
set -eu
BIN=$1 MODEL=$2 RUN=$3/$(basename "$2")
[ ! -e "$RUN/report.txt" ] || rm -rf "$RUN"
mkdir -p "$RUN"

# step OUT COMMAND ...: `cai COMMAND ... -o RUN/OUT`, unless its manifest, which is written last, is there
step() {
    out=$RUN/$1
    shift
    if [ ! -e "$out.manifest.json" ] && [ ! -e "$out/manifest.json" ]; then
        echo "cai $* -o $out"
        "$BIN/cai" "$@" --quiet -o "$out" || { echo "$MODEL: cai $1 failed" >&2; exit 1; }
    fi
}
red=examples/red-team.jsonl helpful=examples/helpful-prompts.jsonl comparisons=examples/helpful-comparisons.jsonl
engine="--engine transformers"
write="$engine --max-tokens 24 --temperature 0.7"
train="--lora --steps 2 --batch-size 2 --grad-accum 1 --max-length 384"

step responses.jsonl sample $red --limit 5 -m "$MODEL" $write
step critiques.jsonl critique "$RUN/responses.jsonl" -m "$MODEL" $write
step revisions.jsonl revise "$RUN/critiques.jsonl" -m "$MODEL" $write
step helpful.jsonl sample $helpful --limit 5 -n 2 -m "$MODEL" $write
step sft train-sft "$RUN/revisions.jsonl" "$RUN/helpful.jsonl" --keep-cut -m "$MODEL" $train
step pairs.jsonl sample $red --limit 5 -n 2 -m "$RUN/sft" $write
step preferences.jsonl label "$RUN/pairs.jsonl" -m "$MODEL" $engine
step cot.jsonl label "$RUN/pairs.jsonl" --cot --keep-cut --max-tokens 12 --few-shot 1 -m "$MODEL" $engine
step judged.jsonl eval choice $comparisons --limit 5 -m "$MODEL" $engine
step pm train-pm "$RUN/preferences.jsonl" $comparisons -m "$MODEL" $train
step dpo train-dpo "$RUN/preferences.jsonl" $comparisons -m "$RUN/sft" $train
step rl rl $red $helpful --limit 5 -m "$RUN/sft" --pm "$RUN/pm" --num-generations 2 --max-tokens 12 $engine $train
step dpo-answers.jsonl sample $red --limit 5 -m "$RUN/dpo" $write
step rl-answers.jsonl sample $red --limit 5 -m "$RUN/rl" $write
step scores.jsonl score "$RUN/rl-answers.jsonl" -m "$RUN/pm" $engine

"$BIN/python" - "$RUN" <<'PY'
import json, math, sys
from pathlib import Path

run = Path(sys.argv[1])
rows = {path.stem: [json.loads(line) for line in path.open()] for path in run.glob("*.jsonl")}
assert len(rows) == 11 and {len(records) for records in rows.values()} == {5}, {name: len(records) for name, records in rows.items()}
texts = [row["response"] for name in ("responses", "dpo-answers", "rl-answers") for row in rows[name]]
texts += [row["rounds"][0][part] for row in rows["revisions"] for part in ("critique", "revision")]
assert sum(map(bool, texts)) > len(texts) / 2, texts  # a model may end its turn at once, but not often
assert all(len(row["responses"]) == 2 for name in ("helpful", "pairs") for row in rows[name]), "not two answers"
assert all(0.5 <= row["p_chosen"] < 1 for name in ("preferences", "cot") for row in rows[name]), "a label out of its range"
assert all(row["label"].get("reasoning") or row["label"].get("identical") for row in rows["cot"]), "a label without reasoning"
assert all(0 < row["judged"]["p_correct"] < 1 for row in rows["judged"]), "a judgement out of its range"
assert all(math.isfinite(row["scores"]["response"]) for row in rows["scores"]), "a score that is no number"
for trained in ("sft", "pm", "dpo", "rl"):
    assert json.loads((run / trained / "manifest.json").read_text())["counts"]["steps"] == 2, f"{trained}: not two steps"
PY
"$BIN/cai" report "$RUN" > "$RUN/report.tmp"
echo "disk: $(du -shc "$MODEL" "$RUN" | tail -n 1 | cut -f 1), with the model" >> "$RUN/report.tmp"
rm "$RUN"/*/*.safetensors
mv "$RUN/report.tmp" "$RUN/report.txt"
echo && cat "$RUN/report.txt" && echo
