# shellcheck shell=bash
# Cells of a sweep, one training run each; sourced by the sweeps, from the root of the repository.
#
# A cell is a line of words, "NAME CONFIG key=value...". OUTPUT_DIR and OVERRIDES hold for all cells.
source scripts/launch.sh

child=''       # process of the cell that runs
stop_status='' # exit code to end with, once a signal asked the sweep to stop

# forward SIGNAL STATUS: hand a signal on to the cell, and end with STATUS when the cell has ended.
forward() {
    stop_status=$2
    if [[ -n $child ]]; then kill -s "$1" "$child" 2>/dev/null || true; fi
}
trap 'forward INT 130' INT
trap 'forward TERM 143' TERM
trap 'forward TERM 129' HUP # a closed terminal

# wait_for COMMAND...: run it and return its exit code, while the traps above act at once.
wait_for() {
    local status
    # A process group of its own keeps a Ctrl-C of the terminal from reaching the cell twice, which
    # would end it without a checkpoint.
    set -m
    "$@" </dev/null &
    child=$!
    set +m
    # A signal between the last cell and this one found no child to go to.
    if [[ -n $stop_status ]]; then kill -s TERM "$child" 2>/dev/null || true; fi
    while true; do
        status=0
        wait "$child" || status=$?
        if ! kill -0 "$child" 2>/dev/null; then break; fi # else it was a trap that ended the wait
    done
    child=''
    return "$status"
}

# read_cells FUNCTION: set the array `cells` to the lines that FUNCTION prints; all configs in them
# must be there.
read_cells() {
    local lines same config
    lines=$("$1")
    mapfile -t cells <<<"$lines"
    same=$(cut -d ' ' -f 1 <<<"$lines" | sort | uniq -d | head -n 1)
    if [[ -n $same ]]; then die "two cells have the name $same"; fi
    while read -r config; do
        if [[ -n $config ]]; then check_config "$config"; fi
    done < <(cut -d ' ' -s -f 2 <<<"$lines" | sort -u)
}

# quoted WORD: as it stands in OVERRIDES. printf %q would not do: it may write $'...', which xargs
# does not know.
quoted() {
    local apostrophe="'\\''"
    local word=${1//\'/"$apostrophe"}
    echo "'$word'"
}

# run_cell NAME CONFIG [key=value]...: nothing when it is finished; otherwise train, or go on.
run_cell() {
    local name=$1 config=$2 overrides override word words
    words=("output_dir=$OUTPUT_DIR" "name=$1" "${@:3}")
    # xargs splits as a shell does, quotes included, and expands nothing.
    overrides=$(xargs -r printf '%s\n' <<<"${OVERRIDES:-}") || die "OVERRIDES=$OVERRIDES: bad quotes"
    while read -r override; do
        if [[ -z $override ]]; then continue; fi
        if [[ $override != *=* ]]; then die "OVERRIDES: $override must be key=value"; fi
        if [[ $override == config=* ]]; then check_config "${override#config=}"; fi
        for word in "${words[@]}"; do
            if [[ ${word%%=*} == "${override%%=*}" ]]; then
                die "OVERRIDES: the sweep itself sets ${word%%=*}, so that $override cannot act"
            fi
        done
        words+=("$override")
    done <<<"$overrides"

    if [[ -e $OUTPUT_DIR/$name/summary.json ]]; then
        tell "done: $OUTPUT_DIR/$name"
    elif is_dry_run; then
        scripts/train.sh "$config" "${words[@]}"
    else
        tell "cell: $OUTPUT_DIR/$name"
        wait_for scripts/train.sh "$config" "${words[@]}"
    fi
}

# Run the cells in their order; one that fails does not keep the rest from running.
run_cells() {
    local line cell status failed=()
    for line in "${cells[@]}"; do
        read -ra cell <<<"$line"
        status=0
        run_cell "${cell[@]}" || status=$?
        if is_dry_run && [[ $status != 0 ]]; then exit "$status"; fi # it is no cell that failed
        # torchrun ends with 1 after a signal, so that what the sweep was told counts as well.
        if [[ -z $stop_status && $status =~ ^(129|130|143)$ ]]; then stop_status=$status; fi
        if [[ -n $stop_status ]]; then
            tell "stopped at ${cell[0]}; the same command goes on from there"
            exit "$stop_status"
        fi
        if [[ $status != 0 ]]; then
            tell "failed: ${cell[0]} (exit code $status)"
            failed+=("${cell[0]}")
        fi
    done
    if [[ ${#failed[@]} -gt 0 ]]; then
        tell "${#failed[@]} of ${#cells[@]} cells failed:"
        for line in "${failed[@]}"; do tell "    $line"; done
        exit 1
    fi
}

# The knobs of scripts/sweep_batch_size.sh, which explains them.
choose_batch_size_knobs() {
    local stem=configs/cifar10_resnet18_adamp value
    CONFIGS=${CONFIGS:-"${stem}_baseline.yaml ${stem}_autowu_constant_cosine.yaml \
${stem}_autowu.yaml"}
    BATCH_SIZES=${BATCH_SIZES:-256 1024 8192 16384}
    SEEDS=${SEEDS:-0 1 2}
    MAX_BATCH_PER_GPU=${MAX_BATCH_PER_GPU:-0}
    OUTPUT_DIR=${OUTPUT_DIR:-runs/sweep_batch_size}
    for value in $BATCH_SIZES; do
        is_count "$value" || die "BATCH_SIZES: $value must be a number of images"
    done
    if [[ $MAX_BATCH_PER_GPU != 0 ]] && ! is_count "$MAX_BATCH_PER_GPU"; then
        die "MAX_BATCH_PER_GPU=$MAX_BATCH_PER_GPU: must be a number of images, or 0 for no limit"
    fi
    choose_python_and_nproc
    export PYTHON NPROC # for scripts/train.sh, so that the cells get the NPROC reckoned with here
}

# A cell for every batch size, config and seed.
batch_size_cells() {
    local batch_size config seed accumulate extra
    for batch_size in $BATCH_SIZES; do
        accumulate=1
        extra=''
        if [[ $MAX_BATCH_PER_GPU != 0 ]]; then
            while ((batch_size > MAX_BATCH_PER_GPU * NPROC * accumulate)); do
                accumulate=$((2 * accumulate))
            done
        fi
        if ((accumulate > 1)); then extra=" accumulate=$accumulate"; fi
        for config in $CONFIGS; do
            for seed in $SEEDS; do
                echo "$(basename "$config" .yaml)-batch$batch_size-seed$seed $config" \
                    "data.batch_size=$batch_size seed=$seed$extra"
            done
        done
    done
}
