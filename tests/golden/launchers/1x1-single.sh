#!/bin/sh
# On the host: sh demo.sh
# demo: single on 1 x 1 H200-141GB, 16 sequences a step
# The folder that it is started in is on storage that all hosts see; muster is installed on each of them.
set -eu
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
    "nodes": 1,
    "devices_per_node": 1,
    "device": "gpu",
    "strategy": "single"
  }
}
MUSTER
cat > "$folder/accelerate.yaml" <<'MUSTER'
compute_environment: LOCAL_MACHINE
distributed_type: 'NO'
num_machines: 1
num_processes: 1
machine_rank: 0
main_training_function: main
rdzv_backend: static
same_network: true
use_cpu: false
MUSTER
exec python -m training "$folder/spec.yaml" --run-dir runs/demo
