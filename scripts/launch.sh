# shellcheck shell=bash
# What the scripts that start the trainer share; sourced by them, from the root of the repository.

# tell WORD...: a line for the user, whose terminal may be gone, which is no error.
tell() { (trap '' PIPE && echo "$*" >&2) || true; }

die() {
    tell "$(basename "$0"): $*"
    exit 2
}

is_dry_run() { [[ -n ${DRY_RUN:-} && $DRY_RUN != 0 ]]; }

# is_count VALUE: a whole number from 1 on, in the decimal digits that $((...)) reads as such.
is_count() { [[ $1 =~ ^[1-9][0-9]*$ ]]; }

# The GPUs that a process started here would see.
count_gpus() {
    local devices device count=0
    if [[ -n ${CUDA_VISIBLE_DEVICES+set} ]]; then
        IFS=, read -ra devices <<<"$CUDA_VISIBLE_DEVICES"
        for device in "${devices[@]}"; do
            if [[ $device == -1 ]]; then break; fi # hides itself and all after it
            count=$((count + 1))
        done
        echo "$count"
    elif command -v nvidia-smi >/dev/null; then
        nvidia-smi -L 2>/dev/null | grep -c '^GPU' || true
    else
        echo 0
    fi
}

# Set PYTHON and NPROC where the user did not.
choose_python_and_nproc() {
    if [[ -z ${PYTHON:-} ]]; then
        PYTHON=python3
        if [[ -x .venv/bin/python ]]; then PYTHON=.venv/bin/python; fi
    fi
    if [[ -z ${NPROC:-} ]]; then
        NPROC=$(count_gpus)
        if ! is_count "$NPROC"; then NPROC=1; fi # no GPU: one process on the CPU
    fi
    is_count "$NPROC" || die "NPROC=$NPROC: must be a number of processes, at least 1"
}

# check_config FILE: die unless it is there.
check_config() {
    if [[ -z $1 ]]; then die "CONFIG is empty: must be a file"; fi
    if [[ ! -e $1 || -d $1 ]]; then die "$1: no such CONFIG file (seen from $PWD)"; fi
}

# read_trainer_arguments WORD...: set trainer_arguments to what train.py takes for them.
read_trainer_arguments() {
    local word config has_config=false
    trainer_arguments=()
    for word in "$@"; do
        case $word in
        -*) die "$word: not an argument (a CONFIG file, then key=value)" ;;
        config=*) config=${word#config=} ;;
        *=*) trainer_arguments+=("$word") && continue ;;
        *) config=$word ;;
        esac
        check_config "$config"
        trainer_arguments+=(--config "$config") && has_config=true
    done
    if ! $has_config; then die "usage: $0 CONFIG [key=value]..."; fi
}

# become COMMAND...: go on as this command, so that signals reach it; only print it in a dry run.
become() {
    local line
    if is_dry_run; then
        printf -v line '%q ' "$@"
        echo "${line% }"
    else
        if [[ -d $1 ]] || ! command -v "$1" >/dev/null; then die "PYTHON=$1: no such program"; fi
        exec "$@"
    fi
}

# become_torchrun WORD...: the same for torchrun, which is a part of torch.
become_torchrun() {
    local status=0
    if ! is_dry_run; then
        "$PYTHON" -c 'import importlib.util, sys; sys.exit(3 * (not importlib.util.find_spec("torch")))' \
            2>/dev/null || status=$?
        if [[ $status == 3 ]]; then
            die "PYTHON=$PYTHON: torch is not installed there: \`pip install -r requirements.txt\`," \
                "or \`. .venv/bin/activate\` where that has been done"
        fi
    fi
    # Under nohup the run is to go on without its terminal, which torchrun alone would take for a
    # wish to stop. An older torchrun does not read this.
    if [[ $(trap -p HUP) == *"''"* ]]; then
        export PET_SIGNALS_TO_HANDLE=${PET_SIGNALS_TO_HANDLE:-SIGTERM,SIGINT,SIGQUIT}
    fi
    become "$PYTHON" -m torch.distributed.run "$@"
}
