#!/bin/sh
# Run the pipe of three commands and one step of each trainer on a GPU. `make gpu-check` calls it.
#
#   sh examples/gpu-check.sh BIN MODEL      BIN is the folder of `cai`; the output files are in runs/gpu-check
set -eu
BIN=$1 MODEL=$2 RUN=runs/gpu-check
if ! "$BIN/python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
    echo "no usable GPU found: nothing was checked" >&2
    exit 1
fi
mkdir -p "$RUN"
"$BIN/python" -c 'import torch; print("GPU:", torch.cuda.get_device_name())'
# Three processes share the GPU, so each one takes a part of its memory.
cai() { "$BIN/cai" "$@"; }
share="--gpu-memory 0.25 --max-tokens 64"
head -n 16 examples/red-team.jsonl | cai sample - -m "$MODEL" $share | cai critique - -m "$MODEL" $share |
    cai revise - -m "$MODEL" $share > "$RUN/revisions.jsonl"
cai train-sft "$RUN/revisions.jsonl" -m "$MODEL" --steps 1 --restart -o "$RUN/sft"
head -n 16 examples/red-team.jsonl | cai sample - -n 2 -m "$RUN/sft" --gpu-memory 0.5 --max-tokens 64 > "$RUN/pairs.jsonl"
cai label "$RUN/pairs.jsonl" -m "$MODEL" --gpu-memory 0.5 --restart -o "$RUN/preferences.jsonl"
cai train-pm "$RUN/preferences.jsonl" -m "$MODEL" --steps 1 --restart -o "$RUN/pm"
cai train-dpo "$RUN/preferences.jsonl" -m "$RUN/sft" --steps 1 --restart -o "$RUN/dpo"
cai rl examples/red-team.jsonl -m "$RUN/sft" --pm "$RUN/pm" --steps 1 --max-tokens 64 --restart -o "$RUN/rl"
"$BIN/python" - "$RUN" <<'PY'
import json, sys
rows = [json.loads(line) for line in open(f"{sys.argv[1]}/revisions.jsonl")]
assert len(rows) == 16 and all(row["rounds"][0]["revision"] is not None for row in rows)
for step in ("sft", "pm", "dpo", "rl"):
    assert json.load(open(f"{sys.argv[1]}/{step}/manifest.json"))["counts"]["steps"] == 1
PY
cai report "$RUN"
