#!/usr/bin/env bash
# The runs of a table or a figure of the paper (arXiv:2107.05855): experiments/NAME/sweep.sh.
#
#     scripts/paper.sh table1
#     ONLY='cifar10_*' OVERRIDES="data.root=/data" scripts/paper.sh table1
#     CUDA_VISIBLE_DEVICES=0 ONLY='*-batch16384-*' scripts/paper.sh figure5
#
# Trains on all visible GPUs, one cell after the other; as a Slurm array, a cell a job:
#
#     export SWEEP=table1
#     sbatch "$(LIST=1 bash scripts/slurm_array.sbatch)" scripts/slurm_array.sbatch
#
# Cells are finished, interrupted and failed as in scripts/sweep_batch_size.sh. A cell that two
# tables or figures share is run once. Then `python -m experiments.report runs/paper --into
# experiments/NAME` fills the rows in.
#
# ONLY               pattern of the names of the cells, as of files in a shell ("*": all)
# SEEDS              (the paper's number of them: "0 1 2" on CIFAR, "0" on ImageNet)
# MAX_BATCH_PER_GPU  images that fit into one GPU at once; a larger batch is accumulated (an estimate
#                    for 32 GB, in the sweep file; 0: no limit)
# OVERRIDES          more key=value words for every cell, quoted as in a shell (none)
# OUTPUT_DIR         folder of the cells (runs/paper)
# NPROC, PYTHON, TORCHRUN_ARGS   as in scripts/train.sh
# DRY_RUN            1 prints the commands of the unfinished cells instead
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/cells.sh
source scripts/paper_cells.sh

if [[ $# != 1 ]]; then die "usage: $0 NAME, as in experiments/NAME/sweep.sh"; fi
choose_sweep "$1"
read_paper_cells
run_cells
