#!/usr/bin/env bash
# Train on the GPUs of this machine, or on its CPU.
#
#     scripts/train.sh CONFIG [key=value]...
#     NPROC=4 scripts/train.sh configs/digits.yaml seed=1
#
# CONFIG is a settings file; several are read in their order, and config=FILE is another way to name
# one. Paths are relative to the root of the repository. The same command continues a run that was
# interrupted.
#
# NPROC          processes, one for each GPU (the visible GPUs, at least 1)
# PYTHON         the interpreter (.venv/bin/python if it is there, else python3)
# TORCHRUN_ARGS  more words for torchrun when NPROC > 1, such as --shutdown-timeout=90, the seconds
#                that it gives the trainer to save after a signal, where 30 are too few
# DRY_RUN        1 prints the command instead
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/launch.sh

read_trainer_arguments "$@"
choose_python_and_nproc
read -ra torchrun_arguments <<<"${TORCHRUN_ARGS:-}"

if [[ $NPROC == 1 ]]; then
    become "$PYTHON" train.py "${trainer_arguments[@]}"
else
    become_torchrun --standalone --nproc-per-node "$NPROC" "${torchrun_arguments[@]}" \
        train.py "${trainer_arguments[@]}"
fi
