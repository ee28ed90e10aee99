#!/usr/bin/env bash
# Every check of the project: formatting, lint, types, import contracts, tests.
# Makes its own .venv. Arguments go to pytest: scripts/test.sh tests/test_rules.py -k position
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/environment.sh
selfe_environment dev,webdataset,tensorboard
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1

if [ "$#" -eq 0 ]; then
    echo "== ruff" && .venv/bin/ruff check . && .venv/bin/ruff format --check .
    echo "== mypy" && .venv/bin/mypy
    echo "== import contracts" && .venv/bin/lint-imports
fi
echo "== pytest"
workers="$(.venv/bin/python -c 'import os; print(min(8, os.cpu_count() or 1))')"
.venv/bin/python -m pytest -n "$workers" --dist worksteal --durations=15 "$@"
