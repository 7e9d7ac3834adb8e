#!/bin/sh
# Sample with a Slurm array, then join its shards. Run it on the login node, in the folder of the data:
#   sh slurm.sh prompts.jsonl MODEL runs/responses            the result is runs/responses.jsonl
# Options of sbatch come from its environment: SBATCH_PARTITION, SBATCH_ACCOUNT and others.
set -eu
here=$(dirname "$0")
array=$(sbatch --parsable "$here/slurm-shard.sbatch" "$1" "$2" "$3")
sbatch --dependency="afterok:$array" --kill-on-invalid-dep=yes "$here/slurm-join.sbatch" "$3"
