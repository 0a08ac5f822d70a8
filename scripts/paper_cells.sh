# shellcheck shell=bash
# Cells of the paper's tables and figures; sourced, after scripts/cells.sh, by scripts/paper.sh and
# scripts/slurm_array.sbatch.
#
# experiments/NAME/sweep.sh defines `sweep_cells`, which prints the cells by calls of `grid`.

# choose_sweep NAME: read its sweep file, and set the knobs of scripts/paper.sh, which explains them.
choose_sweep() {
    local file=experiments/$1/sweep.sh value
    if [[ ! -e $file ]]; then
        die "$1: must be one of $(cd experiments && echo */sweep.sh | sed 's|/sweep.sh||g')"
    fi
    ONLY=${ONLY:-*}
    OUTPUT_DIR=${OUTPUT_DIR:-runs/paper}
    for value in ${SEEDS:-}; do
        if [[ $value != 0 ]] && ! is_count "$value"; then die "SEEDS: $value must be a number"; fi
    done
    if [[ -n ${MAX_BATCH_PER_GPU:-} && $MAX_BATCH_PER_GPU != 0 ]]; then
        is_count "$MAX_BATCH_PER_GPU" || die "MAX_BATCH_PER_GPU=$MAX_BATCH_PER_GPU: must be a number"
    fi
    choose_python_and_nproc
    export PYTHON NPROC # for scripts/train.sh, so that the cells get the NPROC reckoned with here
    source "$file"
}

# grid CONFIGS BATCH_SIZES SEEDS MAX_BATCH: a cell for every config, batch size and seed, one seed
# after the other. CONFIGS are names in configs/; the user's SEEDS and MAX_BATCH_PER_GPU win.
grid() {
    local CONFIGS='' BATCH_SIZES=$2 MAX_BATCH_PER_GPU=${MAX_BATCH_PER_GPU:-$4} name seed
    for name in $1; do CONFIGS+=" configs/$name.yaml"; done
    for seed in ${SEEDS:-$3}; do SEEDS=$seed batch_size_cells; done
}

# row NAME BATCH_SIZES SEEDS MAX_BATCH: the three schedules of a row of Tables 1 to 3.
row() {
    grid "$1_baseline $1_autowu_constant_cosine $1_autowu" "${@:2}"
}

# The cells of the sweep that ONLY selects.
paper_cells() {
    local cell
    sweep_cells | while read -r cell; do
        # shellcheck disable=SC2053  # ONLY is a pattern
        if [[ ${cell%% *} == $ONLY ]]; then echo "$cell"; fi
    done
}

# Set the array `cells`, of which there must be one at least.
read_paper_cells() {
    read_cells paper_cells
    if [[ -z ${cells[0]} ]]; then die "ONLY=$ONLY: no cell has such a name"; fi
}
