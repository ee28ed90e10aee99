#!/usr/bin/env bash
# The main job on the shapes world, from nothing to a table: makes .venv, trains Self-E, Flow
# Matching and IMM for the same number of iterations, scores them at 2, 4, 8 and 50 steps, renders
# Tables 1 and 2, and says what was found. Stopped or killed at any time, the same command continues.
# Arguments are training seeds: `scripts/quickstart.sh 0 1 2` trains every method three times, and
# the report says what holds over them. METHODS names others, for the same report:
#
#     METHODS="shortcut transition transition:no-loss-norm" scripts/quickstart.sh 0 1 2
#
# and SETTINGS changes what all of them are trained with:
#
#     SETTINGS="optim.lr=1.6e-2" METHODS="fm selfe" scripts/quickstart.sh 0 1 2
#
# All of it is `selfe-bench study quickstart`, whose --help lists more.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/environment.sh
selfe_environment dev,webdataset,tensorboard
seeds=("${@:-0}")
options=(--seeds "${seeds[*]}" --methods "${METHODS:-fm selfe imm}" --device cpu)
for setting in ${SETTINGS:-}; do options+=(--set "$setting"); done
HF_HUB_OFFLINE=1 exec .venv/bin/selfe-bench study quickstart "${options[@]}"
