#!/usr/bin/env bash
# The cells of a table of test accuracy: every config at every batch size, with every seed.
#
#     scripts/sweep_batch_size.sh
#     BATCH_SIZES=16384 MAX_BATCH_PER_GPU=4096 OVERRIDES="data.root=/data epochs=30" \
#         OUTPUT_DIR=runs/short scripts/sweep_batch_size.sh
#
# A cell with a summary.json is finished and passed over, whatever its settings were: give other
# OVERRIDES another OUTPUT_DIR. One that was interrupted goes on; one that fails is named at the
# end, and the exit code is then 1. Ctrl-C, SIGTERM and a closed terminal stop the sweep once the
# cell has saved. Paths are relative to the root of the repository.
#
# CONFIGS            settings files (CIFAR-10, ResNet-18, AdamP: the baseline, AutoWU with a constant
#                    and a cosine, AutoWU with a cosine)
# BATCH_SIZES        images per optimizer step, over all GPUs ("256 1024 8192 16384")
# SEEDS              ("0 1 2")
# MAX_BATCH_PER_GPU  images that fit into one GPU at once; a larger batch is accumulated over the
#                    smallest power of two of passes that fit (0: no limit)
# OVERRIDES          more key=value words for every cell, quoted as in a shell (none)
# OUTPUT_DIR         folder of the cells (runs/sweep_batch_size)
# NPROC, PYTHON, TORCHRUN_ARGS   as in scripts/train.sh
# DRY_RUN            1 prints the commands of the unfinished cells instead
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/cells.sh

if [[ $# -gt 0 ]]; then die "$1: no arguments are taken (OVERRIDES=key=value is for all cells)"; fi
choose_batch_size_knobs
read_cells batch_size_cells
run_cells
