#!/usr/bin/env bash
# Trains on several machines of a SLURM cluster. When its time is up, the job saves a checkpoint and puts itself back into
# the queue; the same command then resumes from there.
#   sbatch --nodes 2 scripts/slurm.sh --dataset imagenet --output_dir /shared/runs/imagenet
# The output folder has to lie on a disk that all nodes share. GPUS_PER_NODE=0 trains on the CPUs, one process a node.
#SBATCH --job-name=hf-finetune
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:USR1@180
set -u

gpus=${GPUS_PER_NODE-${SLURM_GPUS_ON_NODE:-8}}
cpu_flag=()
if [ "$gpus" -eq 0 ]; then cpu_flag=(--use_cpu); fi
first_node=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
# A launcher that comes back learns the store's address only so: scaling.md, "Faults".
export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1

# USR1 comes three minutes before the time is up, TERM when the job is pre-empted or cancelled. After both the training
# saves and ends; srun passes the signal on to the launchers, and they give their processes 30 seconds. After a TERM
# SLURM itself decides whether the job goes back into the queue.
requeue=0
trap 'requeue=1; kill -TERM "$training"' USR1
trap 'kill -TERM "$training"' TERM

# SLURM_NODEID and HOSTNAME are those of each node, so they are put in there and not here.
# shellcheck disable=SC2016
srun --kill-on-bad-exit=1 bash -c '
    if [ "$SLURM_NODEID" -eq 0 ]; then is_host=true; else is_host=false; fi
    exec "${PYTHON:-python}" -m torch.distributed.run --nnodes "$SLURM_NNODES" --nproc_per_node "$1" --max_restarts 3 \
        --rdzv_backend c10d --rdzv_id "$SLURM_JOB_ID-${SLURM_RESTART_COUNT:-0}" --rdzv_endpoint "$2:29400" \
        --rdzv_conf "is_host=$is_host" --local_addr "$SLURMD_NODENAME" "${@:3}"
' bash "$((gpus > 0 ? gpus : 1))" "$first_node" scripts/run_finetune.py "$@" ${cpu_flag[@]+"${cpu_flag[@]}"} &
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
