#!/usr/bin/env bash
# Tune the baseline: every peak LR with every length of the warmup (appendix C.1 of
# arXiv:2107.05855, which finds peak LRs of about 0.008 and 0.016 at batch size 16384).
#
#     scripts/sweep_baseline_lr.sh
#     LRS="0.004 0.008" WARMUP_EPOCHS=5 OUTPUT_DIR=runs/short OVERRIDES=epochs=30 \
#         scripts/sweep_baseline_lr.sh
#
# The LRs act as they stand: schedule.scale_lr is none. Cells are finished, interrupted and failed
# as in scripts/sweep_batch_size.sh.
#
# CONFIG             settings file with the warmup_cosine schedule
#                    (configs/imagenet_resnet50_adamp_baseline.yaml)
# BATCH_SIZE         images per optimizer step, over all GPUs (16384)
# LRS                peak LRs ("0.004 0.008 0.016 0.032": the paper's two and one on either side)
# WARMUP_EPOCHS      ("5 10 20 40": the paper's default and longer ones; ours, because the paper
#                    does not give its grid)
# SEEDS              ("0")
# OVERRIDES          more key=value words for every cell, quoted as in a shell (none)
# OUTPUT_DIR         folder of the cells (runs/sweep_baseline_lr)
# NPROC, PYTHON, TORCHRUN_ARGS   as in scripts/train.sh
# DRY_RUN            1 prints the commands of the unfinished cells instead
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/cells.sh

CONFIG=${CONFIG:-configs/imagenet_resnet50_adamp_baseline.yaml}
BATCH_SIZE=${BATCH_SIZE:-16384}
LRS=${LRS:-0.004 0.008 0.016 0.032}
WARMUP_EPOCHS=${WARMUP_EPOCHS:-5 10 20 40}
SEEDS=${SEEDS:-0}
OUTPUT_DIR=${OUTPUT_DIR:-runs/sweep_baseline_lr}

baseline_lr_cells() {
    local lr warmup seed
    for lr in $LRS; do
        for warmup in $WARMUP_EPOCHS; do
            for seed in $SEEDS; do
                echo "$(basename "$CONFIG" .yaml)-batch$BATCH_SIZE-lr$lr-warmup$warmup-seed$seed" \
                    "$CONFIG data.batch_size=$BATCH_SIZE optimizer.lr=$lr" \
                    "schedule.scale_lr=none schedule.warmup_epochs=$warmup seed=$seed"
            done
        done
    done
}

if [[ $# -gt 0 ]]; then die "$1: no arguments are taken (OVERRIDES=key=value is for all cells)"; fi
read_cells baseline_lr_cells
run_cells
