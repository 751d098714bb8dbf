#!/usr/bin/env bash
# Builds the wheel and the source distribution in dist/, checks them, installs the wheel into a fresh environment and
# runs the README's ten lines there, outside the clone.
#
#   .ci/package.sh python3 .venv/bin/python
set -euo pipefail

usage="usage: package.sh PYTHON PYTHON_WITH_BUILD_TOOLS"
python=${1:?$usage} tools=${2:?$usage}
cd "$(dirname "$0")/.."

rm -rf dist
"$tools" -m build --no-isolation --outdir dist .
"$tools" -m twine check --strict dist/*

fresh=$(mktemp -d)
trap 'rm -rf "$fresh"' EXIT
"$python" -m venv "$fresh/env"
.ci/install_torch.sh "$fresh/env/bin/python"
"$fresh/env/bin/python" -m pip install --quiet --disable-pip-version-check --constraint requirements/lock.txt dist/*.whl
"$tools" .ci/ten_lines.py >"$fresh/ten_lines.py"
cd "$fresh"
HF_HUB_OFFLINE=1 env/bin/python -I ten_lines.py
env/bin/hf-eddpm --help >/dev/null
