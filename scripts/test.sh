#!/usr/bin/env bash
# Every check of the project: formatting, lint, types, import contracts, documentation, tests.
# Makes its own .venv. Arguments go to pytest: scripts/test.sh tests/test_rules.py -k position
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/environment.sh
selfe_environment dev,webdataset,tensorboard
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1

# The page is tested in a real browser. Without one those tests are skipped; CI=true needs it.
if ! command -v "${CHROMIUM:-chromium}" >/dev/null 2>&1; then
    if [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null 2>&1; then
        echo "environment: installing the package chromium for the tests of the page"
        { apt-get update -q && apt-get install -qy --no-install-recommends chromium; } >/dev/null 2>&1 ||
            echo "environment: chromium cannot be installed here"
    else
        echo "environment: no chromium here (apt-get install chromium): tests of the page are skipped"
    fi
fi

if [ "$#" -eq 0 ]; then
    # one command a line: of "a && b && c" only a failing c ends the script
    echo "== ruff"
    .venv/bin/ruff check .
    .venv/bin/ruff format --check .
    echo "== mypy"
    .venv/bin/mypy
    echo "== import contracts"
    .venv/bin/lint-imports
    echo "== documentation"
    # not --quiet: it drops the warnings before --strict can count them
    NO_MKDOCS_2_WARNING=1 .venv/bin/python -m mkdocs build --strict --site-dir build/site
fi
echo "== pytest"
workers="$(.venv/bin/python -c 'import os; print(min(8, os.cpu_count() or 1))')"
.venv/bin/python -m pytest -n "$workers" --dist worksteal --durations=15 "$@"
