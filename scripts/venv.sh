#!/usr/bin/env bash
# Bring .venv in line with a requirements file and autowu itself, importable from any folder; at
# once when it already is.
#
#     scripts/venv.sh requirements-dev.txt
#
# PYTHON is the interpreter that a new .venv is made with. An environment whose making or updating
# was interrupted (.venv/.incomplete) or whose Python is gone is made anew; one that was made by
# hand is kept and updated.
set -euo pipefail
cd "$(dirname "$0")/.."

PYTHON=${PYTHON:-python3}
requirements=${1:-}
if [[ $# != 1 || ! -f $requirements ]]; then
    echo "usage: scripts/venv.sh REQUIREMENTS_FILE (requirements.txt or requirements-dev.txt)" >&2
    exit 2
fi
files=("$requirements")
while read -r included; do files+=("$included"); done < <(sed -n 's/^-r *//p' "$requirements")
files+=(pyproject.toml)

is_usable() {
    [[ ! -e .venv/.incomplete ]] &&
        .venv/bin/python -c 'import sys, pip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
}

is_up_to_date() {
    local file
    for file in "${files[@]}"; do
        cmp -s "$file" ".venv/.installed-$file" || return 1
    done
}

if is_usable && is_up_to_date; then exit 0; fi

if ! is_usable; then
    version=$("$PYTHON" -c 'import platform; print(platform.python_version())') || {
        echo "autowu needs Python 3.11 or newer, and '$PYTHON' does not run;" \
            "choose another with PYTHON=python3.12" >&2
        exit 2
    }
    if ! "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
        echo "autowu needs Python 3.11 or newer, and '$PYTHON' is $version;" \
            "choose another with PYTHON=python3.12" >&2
        exit 2
    fi
    echo "making .venv with Python $version"
    rm -rf .venv
    mkdir .venv
    touch .venv/.incomplete
    "$PYTHON" -m venv .venv
fi

echo "installing $requirements into .venv (the first time some minutes: PyTorch is large)"
touch .venv/.incomplete
quiet=(--quiet)
if [[ -t 1 ]]; then quiet=(); fi # a person wants to see the downloads
.venv/bin/python -m pip install --disable-pip-version-check "${quiet[@]}" -r "$requirements"
.venv/bin/python -m pip install --disable-pip-version-check --quiet --no-deps --editable .
for file in "${files[@]}"; do cp "$file" ".venv/.installed-$file"; done
rm .venv/.incomplete
