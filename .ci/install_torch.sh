#!/usr/bin/env bash
# Installs torch for the given Python interpreter before anything else asks for it: the ordinary wheel where there is
# an NVIDIA GPU, the much smaller CPU build elsewhere.
#
#   .ci/install_torch.sh .venv/bin/python                  the version of requirements/lock.txt
#   .ci/install_torch.sh .venv/bin/python 'torch>=2.6,<3'  the newest of a range
set -euo pipefail

python=${1:?usage: install_torch.sh PYTHON [REQUIREMENT]}
lock="$(dirname "$0")/../requirements/lock.txt"
locked=$(sed -nE 's/^(torch==[^ ;]+).*/\1/p' "$lock")
requirement=${2:-$locked}
cpu_index=https://download.pytorch.org/whl/cpu

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
    echo "torch: $cpu_index does not answer, asking pip's own index (its wheel may be the larger CUDA build)"
    install "$requirement"
fi
"$python" -c 'from importlib.metadata import version; print("torch:", version("torch"))'
