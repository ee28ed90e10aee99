#!/usr/bin/env bash
# The main job on the shapes world, from nothing to a table: makes .venv, trains Self-E, Flow
# Matching and IMM for the same number of iterations, scores them at 2, 4, 8 and 50 steps, renders
# Tables 1 and 2, and says what was found. Killed at any time, it goes on where it was.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/environment.sh
selfe_environment dev,webdataset,tensorboard
export PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1
bench=.venv/bin/selfe-bench
out=reports/quickstart
runs=runs/quickstart

for method in selfe fm imm; do
    resume=()
    [ -f "$runs/shapes-quick-$method/config.json" ] && resume=(--resume)
    echo "== training $method"
    $bench train --method "$method" --recipe shapes-quick --runs-dir "$runs" "${resume[@]}"
done
echo "== scoring"
$bench geneval --steps 2,4,8,50 --limit 12 --runs-dir "$runs"
echo "== report"
$bench report --runs-dir "$runs" --out "$out"
