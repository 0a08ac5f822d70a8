#!/usr/bin/env bash
# Train on several machines: the same command on each of them.
#
#     NNODES=2 NPROC=8 HEAD=node1:29500 scripts/multi_node.sh CONFIG [key=value]...
#     srun --nodes=2 --ntasks-per-node=1 --gpus-per-node=8 scripts/multi_node.sh CONFIG [key=value]...
#
# The run directory must lie on a file system that all of them share. CONFIG and paths are as in
# scripts/train.sh.
#
# NNODES         machines (those of the Slurm job, else 1)
# NPROC          processes of each machine, one for each GPU (the visible GPUs, at least 1)
# HEAD           host:port at which the machines meet, the host one of them (the first of the Slurm
#                job, else localhost; port 29500)
# RDZV_ID        a name that they share and no other run on HEAD has (the Slurm job's id, else autowu)
# PYTHON         the interpreter (.venv/bin/python if it is there, else python3)
# TORCHRUN_ARGS  more words for torchrun
# DRY_RUN        1 prints the command instead
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/launch.sh

read_trainer_arguments "$@"
choose_python_and_nproc
read -ra torchrun_arguments <<<"${TORCHRUN_ARGS:-}"

NNODES=${NNODES:-${SLURM_NNODES:-1}}
is_count "$NNODES" || die "NNODES=$NNODES: must be a number of machines, at least 1"
RDZV_ID=${RDZV_ID:-${SLURM_JOB_ID:-autowu}}
if [[ -z ${HEAD:-} ]]; then
    host=localhost
    if [[ -n ${SLURM_JOB_NODELIST:-} ]]; then
        hosts=$(scontrol show hostnames "$SLURM_JOB_NODELIST") # node[1-3] in full, one a line
        host=${hosts%%$'\n'*}
    fi
    HEAD=$host:29500
fi
if [[ $NNODES -gt 1 && $HEAD == localhost:* ]]; then
    die "HEAD=$HEAD: must be host:port of one of the $NNODES machines, the same on each of them"
fi

become "$PYTHON" -m torch.distributed.run --nnodes "$NNODES" --nproc-per-node "$NPROC" \
    --rdzv-backend c10d --rdzv-endpoint "$HEAD" --rdzv-id "$RDZV_ID" \
    "${torchrun_arguments[@]}" train.py "${trainer_arguments[@]}"
