#!/bin/sh
# On each of the 2 hosts: sh demo.sh NODE_RANK HEAD_HOST    (NODE_RANK is 0 on HEAD_HOST)
# demo: ddp on 2 x 8 H200-141GB, 256 sequences a step
# The folder that it is started in is on storage that all hosts see; muster is installed on each of them.
set -eu
node_rank=${1:?which host this is, from 0} head=${2:?the name of host 0}
folder=$(mktemp -d)
cat > "$folder/spec.yaml" <<'MUSTER'
{
  "name": "demo",
  "model": {
    "variant": "qwen2.5-14b-instruct"
  },
  "data": {
    "train": "/data/train.jsonl"
  },
  "cluster": {
    "nodes": 2,
    "strategy": "ddp",
    "devices_per_node": 8,
    "device": "gpu"
  }
}
MUSTER
exec torchrun --nnodes=2 --nproc-per-node=8 "--node-rank=$node_rank" "--master-addr=$head" --master-port=29500 -m training "$folder/spec.yaml" --run-dir runs/demo
