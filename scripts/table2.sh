#!/usr/bin/env bash
# Prints, or with --run launches, the exact set of runs that make Table 2, Fig. 5 and Fig. 6, with
# their cost. --help lists the options: GPU kind and number, cache, recipe.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/environment.sh
selfe_environment dev,webdataset,tensorboard >&2
PATH="$PWD/.venv/bin:$PATH" exec .venv/bin/python -m scripts.table2 "$@"
