#!/bin/sh
# Count how often a model leaks the format: four rounds per prompt, for each engine and format, with and without few-shot examples.
#
#   sh examples/faults.sh CAI MODEL PROMPTS RUN        the same command resumes an unfinished run
#
# CAI is the program (.venv/bin/cai). ENGINES="transformers" runs one engine only.
set -eu
cai=$1 model=$2 prompts=$3 run=$4
mkdir -p "$run"
for engine in ${ENGINES:-transformers vllm}; do
    for format in chat hh; do
        for shots in examples none; do
            name=$run/$engine-$format-$shots
            how="-m $model --engine $engine --format $format --temperature 0.7 --max-tokens 64"
            few=$([ "$shots" = none ] && echo "--few-shot 0" || true)
            [ -f "$name.jsonl" ] && continue
            # shellcheck disable=SC2086
            [ -f "$run/$engine-$format.jsonl" ] || "$cai" sample "$prompts" $how -o "$run/$engine-$format.jsonl"
            # shellcheck disable=SC2086
            "$cai" revise "$run/$engine-$format.jsonl" $how $few --from-response --rounds 4 -o "$name.jsonl"
        done
    done
done
"$(dirname "$cai")/python" "$(dirname "$0")/fault_table.py" "$run"/*-examples.jsonl "$run"/*-none.jsonl
