#!/usr/bin/env bash
# Trains on several machines of a SLURM cluster. When its time is up, or when it is pre-empted, the job saves a checkpoint
# and goes back into the queue; the same job then resumes from there.
#   sbatch --nodes 2 scripts/slurm.sh --dataset imagenet --output_dir /shared/runs/imagenet
# The output folder has to lie on a disk that all nodes share. Without GPUs, one process a node:
#   sbatch --gpus-per-node 0 --cpus-per-task 16 --export=ALL,GPUS_PER_NODE=0 scripts/slurm.sh ...
#SBATCH --job-name=hf-finetune
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:USR1@180
set -u

gpus=${GPUS_PER_NODE-${SLURM_GPUS_ON_NODE:-8}}
cpu_flag=()
if [ "$gpus" -eq 0 ]; then cpu_flag=(--use_cpu); fi
# The address by which SLURM itself reaches a node, whose name need not resolve.
address() { scontrol show node "$1" | sed -n 's/.*NodeAddr=\([^ ]*\).*/\1/p'; }
first_node=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
# A launcher that comes back learns the store's address only so: scaling.md, "Faults".
export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1

# USR1 comes to this script alone, three minutes before the time is up. The signal to the step has to be scancel's: a
# srun that is sent a TERM kills its tasks. When the job is pre-empted, requeued or cancelled, SLURM sends TERM to the
# step as well as here. After a TERM the training saves and ends; the launchers give their processes 30 seconds.
requeue=0
trap 'requeue=1; scancel --signal=TERM "$SLURM_JOB_ID.0"' USR1
trap ':' TERM

# All cores that the job has on the node are the task's, which srun by itself would give one.
# SLURM_NODEID and SLURMD_NODENAME are those of each node, so they are put in there and not here.
# shellcheck disable=SC2016
srun --kill-on-bad-exit=1 --cpus-per-task="${SLURM_CPUS_PER_TASK:-1}" bash -c "$(declare -f address)"'
    if [ "$SLURM_NODEID" -eq 0 ]; then is_host=true; else is_host=false; fi
    exec "${PYTHON:-python}" -m torch.distributed.run --nnodes "$SLURM_NNODES" --nproc_per_node "$1" --max_restarts 3 \
        --rdzv_backend c10d --rdzv_id "$SLURM_JOB_ID-${SLURM_RESTART_COUNT:-0}" --rdzv_endpoint "$2:29400" \
        --rdzv_conf "is_host=$is_host" --local_addr "$(address "$SLURMD_NODENAME")" "${@:3}"
' bash "$((gpus > 0 ? gpus : 1))" "$(address "$first_node")" scripts/run_finetune.py "$@" ${cpu_flag[@]+"${cpu_flag[@]}"} &
training=$!
# A trapped signal ends the wait, not the training.
while true; do
    wait "$training"
    code=$?
    if ! kill -0 "$training" 2>/dev/null; then break; fi
done
if [ "$requeue" -eq 1 ] && [ "$code" -ne 0 ]; then
    scontrol requeue "$SLURM_JOB_ID"
    exit 0
fi
exit "$code"
