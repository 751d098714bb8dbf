#!/usr/bin/env bash
# Installs torch for the given Python interpreter, in the range that pyproject.toml names, before anything else asks
# for it: the ordinary wheel where there is an NVIDIA GPU, the much smaller CPU build elsewhere.
#
#   .ci/install_torch.sh .venv/bin/python
set -euo pipefail

python=${1:?usage: install_torch.sh PYTHON}
pyproject="$(dirname "$0")/../pyproject.toml"
requirement=$(sed -nE 's/^ *"(torch[<>=][^"]*)",?$/\1/p' "$pyproject")
cpu_index=https://download.pytorch.org/whl/cpu
fallback=torch==2.13.0

install() { "$python" -m pip install --quiet --disable-pip-version-check "$@"; }

has_gpu() { [[ "$(nvidia-smi -L 2>/dev/null)" == *GPU* ]]; }

cpu_index_answers() {
    "$python" -c 'import sys, urllib.request; urllib.request.urlopen(sys.argv[1], timeout=10)' "$cpu_index/torch/" 2>/dev/null
}

if has_gpu; then
    echo "torch: NVIDIA GPU found, using the ordinary wheel"
    install "$requirement"
elif install --no-index --no-deps "$requirement" 2>/dev/null; then
    # Installed already, or served by a local wheel folder (pip's find-links); what torch itself needs comes next.
    echo "torch: found without asking a package index"
    install "$requirement"
elif cpu_index_answers; then
    echo "torch: no NVIDIA GPU, using the CPU build from $cpu_index"
    install --index-url "$cpu_index" "$requirement"
else
    echo "torch: $cpu_index does not answer, using $fallback from pip's own index (may be the larger CUDA build)"
    install "$fallback"
fi
"$python" -c 'from importlib.metadata import version; print("torch:", version("torch"))'
