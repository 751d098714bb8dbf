#!/usr/bin/env bash
# Makes an environment at one end of the ranges in pyproject.toml: "newest", the newest release of everything that they
# admit, or "lowest", the lowest version of everything that pyproject.toml names itself.
#
#   .ci/install_ends.sh python3 newest .venv-newest .venv/bin/uv
set -euo pipefail

usage="usage: install_ends.sh PYTHON newest|lowest FOLDER UV"
python=${1:?$usage} end=${2:?$usage} folder=${3:?$usage} uv=${4:?$usage}
cd "$(dirname "$0")/.."
export UV_PYTHON_DOWNLOADS=never

"$python" -m venv --clear "$folder"
install=("$folder/bin/python" -m pip install --quiet --disable-pip-version-check)
case $end in
newest)
    torch=$(sed -nE 's/^ *"(torch[<>=][^"]*)",?$/\1/p' pyproject.toml)
    ;;
lowest)
    "$uv" pip compile --quiet --resolution lowest-direct --all-extras --python "$folder/bin/python" pyproject.toml \
        --output-file "$folder/versions.txt"
    torch=$(sed -nE 's/^(torch==[^ ;]+).*/\1/p' "$folder/versions.txt")
    install+=(--constraint "$folder/versions.txt")
    ;;
*)
    echo "$usage; got $end" >&2
    exit 2
    ;;
esac
.ci/install_torch.sh "$folder/bin/python" "$torch"
"${install[@]}" hatchling editables
"${install[@]}" --no-build-isolation --editable ".[dev]"
