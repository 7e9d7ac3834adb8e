#!/bin/sh
# Label on a Ray cluster. The machines see the model under one path. Needs: pip install 'cai-cli[ray]'
#   first machine:   ray start --head --port=6379
#   each other one:  ray start --address=FIRST:6379
#   first machine:   sh ray.sh pairs.jsonl MODEL preferences.jsonl 8        (8 engines with one GPU each)
#   at the end:      ray stop                                              on every machine
set -eu
ray status --address=auto
exec cai label "$1" -m "$2" --engine ray --address auto --replicas "$4" --tensor-parallel 1 -o "$3"
