#!/bin/sh
# On each of the 2 hosts: sh demo.sh NODE_RANK HEAD_HOST    (NODE_RANK is 0 on HEAD_HOST)
# demo: zero3 on 2 x 8 A100-80GB, 256 sequences a step
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
    "strategy": "zero3",
    "devices_per_node": 8,
    "device": "gpu"
  }
}
MUSTER
cat > "$folder/accelerate.yaml" <<'MUSTER'
compute_environment: LOCAL_MACHINE
distributed_type: DEEPSPEED
num_machines: 2
num_processes: 16
machine_rank: 0
main_training_function: main
rdzv_backend: static
same_network: true
use_cpu: false
main_process_ip: 127.0.0.1
main_process_port: 29500
deepspeed_config:
  deepspeed_config_file: configs/deepspeed.json
  deepspeed_multinode_launcher: standard
  zero3_init_flag: true
MUSTER
cat > "$folder/deepspeed.json" <<'MUSTER'
{
  "train_batch_size": 256,
  "train_micro_batch_size_per_gpu": 4,
  "gradient_accumulation_steps": 4,
  "gradient_clipping": 0.3,
  "bf16": {
    "enabled": true
  },
  "fp16": {
    "enabled": false
  },
  "communication_data_type": "fp32",
  "data_types": {
    "grad_accum_dtype": "fp32"
  },
  "zero_optimization": {
    "stage": 3,
    "overlap_comm": true,
    "contiguous_gradients": true,
    "reduce_bucket_size": 26214400,
    "stage3_prefetch_bucket_size": 23592960,
    "stage3_param_persistence_threshold": 51200,
    "stage3_gather_16bit_weights_on_model_save": true
  }
}
MUSTER
exec accelerate launch --config_file "$folder/accelerate.yaml" --deepspeed_config_file "$folder/deepspeed.json" --num_machines 2 --num_processes 16 --machine_rank "$node_rank" --main_process_ip "$head" --main_process_port 29500 -m training "$folder/spec.yaml" --run-dir runs/demo
