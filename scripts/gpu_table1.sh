#!/usr/bin/env bash
# The CIFAR-10 row of Table 1 on one GPU, on JPEG copies in Parquet files, in pieces of at most nine
# minutes: one seed at a time, the large batches first, then budgets of 10, 30 and 60 epochs, and
# last the loop of the trainer against one over random tensors.
#
#     scripts/gpu_table1.sh              a piece; again until it says that all is done (exit code 0)
#     PIECES=1000 scripts/gpu_table1.sh  one piece after the other
#
# A piece ends with SIGTERM, after which the cell saves, and the next piece goes on within the same
# epoch. Exit code 75: there is more to do. 1: a cell failed. After each piece the finished cells
# are filled into experiments/table1/results.csv; runs that cannot be read are said and left out.
#
# DATA_ROOT          folder with train*.parquet and test*.parquet (data/cifar10-jpeg)
# PIECES             (1)
# PIECE_SECONDS      of a piece, with the time to save (540)
# SAVE_SECONDS       of those, kept for saving after SIGTERM; a cell that needs longer gets it (40)
# SEEDS              ("0 1 2")
# BATCH_SIZES        ("16384 8192 1024 256")
# BUDGETS            epochs of the shorter runs, which add the published procedure ("10 30 60")
# BUDGET_BATCH_SIZES ("16384 8192 1024")
# MAX_BATCH_PER_GPU  (8192: half of the largest batch; an estimate for 40 GB and more)
# COMPILE            true or false: torch.compile (true)
# DETERMINISTIC      true or false: the same bits every time, slower (false)
# CHECKPOINT_EVERY   as the trainer's checkpoint_every (20 epochs)
# OVERRIDES          more key=value words for every cell (none)
# OUTPUT_DIR         folder of the runs (runs/gpu_table1)
# REPORT             folder of results.csv (experiments/table1)
# THROUGHPUT         device of experiments/throughput, or none (cuda)
# NPROC, PYTHON      as in scripts/train.sh; NPROC is 1
# DRY_RUN            1 prints the commands of the unfinished cells instead
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/cells.sh

stem=configs/cifar10_resnet18_adamp
DATA_ROOT=${DATA_ROOT:-data/cifar10-jpeg}
PIECES=${PIECES:-1}
PIECE_SECONDS=${PIECE_SECONDS:-540}
SAVE_SECONDS=${SAVE_SECONDS:-40}
SEEDS=${SEEDS:-0 1 2}
BATCH_SIZES=${BATCH_SIZES:-16384 8192 1024 256}
BUDGETS=${BUDGETS-10 30 60}
BUDGET_BATCH_SIZES=${BUDGET_BATCH_SIZES:-16384 8192 1024}
OUTPUT_DIR=${OUTPUT_DIR:-runs/gpu_table1}
REPORT=${REPORT:-experiments/table1}
THROUGHPUT=${THROUGHPUT:-cuda}
CONFIGS=${CONFIGS:-"${stem}_baseline.yaml ${stem}_autowu_constant_cosine.yaml ${stem}_autowu.yaml"}
BUDGET_CONFIGS=${BUDGET_CONFIGS:-"$CONFIGS ${stem}_autowu_published.yaml"}
# Epochs take a second or two: saving after each of them would take longer than the training.
OVERRIDES="data.name=parquet data.root=$(quoted "$DATA_ROOT") compile=${COMPILE:-true}\
 deterministic=${DETERMINISTIC:-false} checkpoint_every='${CHECKPOINT_EVERY:-20 epochs}'\
${OVERRIDES:+ $OVERRIDES}"
NPROC=${NPROC:-1}
export MAX_BATCH_PER_GPU=${MAX_BATCH_PER_GPU:-8192} NPROC

if [[ $# -gt 0 ]]; then die "$1: no arguments are taken"; fi
for knob in PIECES PIECE_SECONDS SAVE_SECONDS; do
    is_count "${!knob}" || die "$knob=${!knob}: must be a whole number, at least 1"
done
((SAVE_SECONDS < PIECE_SECONDS)) || die "SAVE_SECONDS=$SAVE_SECONDS: must be below PIECE_SECONDS"
for config in $CONFIGS ${BUDGETS:+$BUDGET_CONFIGS}; do check_config "$config"; done
choose_python_and_nproc
export PYTHON

# within_piece COMMAND...: run it for as long as the piece lasts. 124: it was stopped for that.
within_piece() {
    local left=$((PIECE_SECONDS - SAVE_SECONDS - SECONDS)) status=0
    if is_dry_run; then
        "$@"
        return
    fi
    if ((left < 1)); then return 124; fi
    # --foreground: the sweep alone gets the signal, and hands it on to its cell once.
    wait_for timeout --foreground --signal=TERM "$left" "$@" || status=$?
    if [[ -n $stop_status ]]; then status=$stop_status; fi
    return "$status"
}

# stage COMMAND...: within_piece, but a failed cell does not keep the other stages from running.
stage() {
    local status=0
    within_piece "$@" || status=$?
    if [[ $status == 1 ]]; then has_failed=true && status=0; fi
    return "$status"
}

# sweep SEED CONFIGS BATCH_SIZES OUTPUT_DIR [OVERRIDES]: cells of one seed.
sweep() {
    stage env SEEDS="$1" CONFIGS="$2" BATCH_SIZES="$3" OUTPUT_DIR="$4" \
        OVERRIDES="$OVERRIDES${5:+ $5}" scripts/sweep_batch_size.sh
}

measure_throughput() {
    local mark=$OUTPUT_DIR/throughput.done
    if is_dry_run || [[ $THROUGHPUT == none || -e $mark ]]; then return; fi
    stage "$PYTHON" -m experiments.throughput.run --device "$THROUGHPUT" || return
    if ! $has_failed; then mkdir -p "$OUTPUT_DIR" && touch "$mark"; fi
}

# All that is to be done, in its order; finished cells are passed over. 124: time is up.
piece() {
    local seed epochs
    for seed in $SEEDS; do
        sweep "$seed" "$CONFIGS" "$BATCH_SIZES" "$OUTPUT_DIR/epochs200" || return
    done
    for seed in $SEEDS; do
        for epochs in $BUDGETS; do
            sweep "$seed" "$BUDGET_CONFIGS" "$BUDGET_BATCH_SIZES" "$OUTPUT_DIR/epochs$epochs" \
                "epochs=$epochs" || return
        done
    done
    measure_throughput
}

for ((number = 1; number <= PIECES; number++)); do
    SECONDS=0
    status=0
    has_failed=false
    piece || status=$?
    if is_dry_run; then exit "$status"; fi
    if [[ -d $OUTPUT_DIR ]]; then
        "$PYTHON" -m experiments.report "$OUTPUT_DIR" --into "$REPORT" ||
            tell "going on, though the report of $OUTPUT_DIR ended with exit code $?"
    fi
    if [[ -n $stop_status ]]; then exit "$stop_status"; fi
    if [[ $status != 124 ]]; then break; fi
    tell "piece $number ended after $SECONDS s"
done
if [[ $status == 124 ]]; then
    tell "there is more to do: run the same command again"
    exit 75
fi
if $has_failed; then exit 1; fi
exit "$status"
