#!/usr/bin/env bash
# Train on several machines: the same command on each of them.
#
#     NNODES=2 NPROC=8 HEAD=node1:29500 scripts/multi_node.sh CONFIG [key=value]...
#     srun --nodes=2 --ntasks-per-node=1 --gpus-per-node=8 scripts/multi_node.sh CONFIG [key=value]...
#
# The run directory must lie on a file system that all of them share. CONFIG and paths are as in
# scripts/train.sh. Two jobs whose first node is the same need different ports: on one port the
# second joins the store of the first, and dies when the first ends. Under Slurm the default port
# differs between steps and between jobs whose ids are near to each other.
#
# NNODES         machines (those of the Slurm step, else of the job, else 1)
# NPROC          processes of each machine, one for each GPU (the visible GPUs, at least 1)
# HEAD           host:port at which the machines meet, the host one of them (the first of the Slurm
#                step, else of the job; a port from 20000 to 29999, made of the ids of job and step).
#                One machine without HEAD starts alone, on a free port
# RDZV_ID        a name that they share and no other run on HEAD has (the ids of the Slurm job and
#                step, else autowu); one machine without HEAD has no use for it
# PYTHON         the interpreter (.venv/bin/python if it is there, else python3)
# TORCHRUN_ARGS  more words for torchrun
# DRY_RUN        1 prints the command instead
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/launch.sh

# Names by which every machine means itself.
LOOPBACK='^(localhost(\..*)?|ip6-localhost|127(\.[0-9]+)*|0\.0\.0\.0|\[[0:]*[01]\]|\[::\])$'

# choose_head: set HEAD to the first machine of the Slurm step or job, with a port of its own.
choose_head() {
    local nodes=${SLURM_STEP_NODELIST:-${SLURM_JOB_NODELIST:-}} hosts
    local ids=$((101 * ${SLURM_JOB_ID:-0} + ${SLURM_STEP_ID:-0}))
    if [[ -z $nodes ]]; then
        die "HEAD: must be host:port of one of the $NNODES machines, the same on each of them"
    fi
    hosts=$(scontrol show hostnames "$nodes") || # node[1-3] in full, one a line
        die "HEAD: must be host:port, because scontrol cannot tell the first machine of $nodes"
    # Below 32768, from where Linux takes the ports of connections.
    HEAD=${hosts%%$'\n'*}:$((20000 + ids % 10000))
}

# check_head: die unless HEAD is a host and a port, and several machines mean the same host by it.
check_head() {
    local host=${HEAD%:*} port=${HEAD##*:}
    if [[ ! $HEAD =~ ^([^][:space:]:[]+|\[[0-9A-Fa-f:.]+\]):[1-9][0-9]{0,4}$ ]] ||
        ((port > 65535)); then
        die "HEAD=$HEAD: must be host:port, with a port from 1 to 65535"
    fi
    if [[ $NNODES -gt 1 && ${host,,} =~ $LOOPBACK ]]; then
        die "HEAD=$HEAD: must be one of the $NNODES machines, and $host is another one on each"
    fi
}

read_trainer_arguments "$@"
choose_python_and_nproc
read -ra torchrun_arguments <<<"${TORCHRUN_ARGS:-}"

NNODES=${NNODES:-${SLURM_STEP_NUM_NODES:-${SLURM_NNODES:-1}}}
is_count "$NNODES" || die "NNODES=$NNODES: must be a number of machines, at least 1"
if [[ $NNODES == 1 && -z ${HEAD:-} ]]; then
    agent=(--standalone --nproc-per-node "$NPROC")
else
    if [[ -z ${HEAD:-} ]]; then choose_head; fi
    check_head
    RDZV_ID=${RDZV_ID:-${SLURM_JOB_ID:-autowu}${SLURM_STEP_ID:+.$SLURM_STEP_ID}}
    agent=(--nnodes "$NNODES" --nproc-per-node "$NPROC"
        --rdzv-backend c10d --rdzv-endpoint "$HEAD" --rdzv-id "$RDZV_ID")
fi

become_torchrun "${agent[@]}" "${torchrun_arguments[@]}" train.py "${trainer_arguments[@]}"
