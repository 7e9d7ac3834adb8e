#!/bin/sh
# Two servers on one machine with two GPUs, and a command that uses both:
#   sh servers.sh MODEL pairs.jsonl preferences.jsonl
# On several machines start `vllm serve` on each, and give one --base-url per machine.
set -eu
CUDA_VISIBLE_DEVICES=0 vllm serve "$1" --port 8000 >server-0.log 2>&1 & servers=$!
CUDA_VISIBLE_DEVICES=1 vllm serve "$1" --port 8001 >server-1.log 2>&1 & servers="$servers $!"
trap 'kill $servers; wait' EXIT
for port in 8000 8001; do curl -sf --retry 120 --retry-delay 5 --retry-all-errors "http://127.0.0.1:$port/health"; done
cai label "$2" -m "$1" --engine server --base-url http://127.0.0.1:8000/v1 --base-url http://127.0.0.1:8001/v1 -o "$3"
