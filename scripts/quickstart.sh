#!/usr/bin/env bash
# The main job on the shapes world, from nothing to a table: makes .venv, trains Self-E, Flow
# Matching and IMM for the same number of iterations, scores them at 2, 4, 8 and 50 steps, renders
# Tables 1 and 2, and says what was found. Killed at any time, it goes on where it was.
# Arguments are training seeds: `scripts/quickstart.sh 0 1 2` trains every method three times, and
# the report says what holds over them.
set -euo pipefail
cd "$(dirname "$0")/.."
seeds=("${@:-0}")
for seed in "${seeds[@]}"; do
    [[ "$seed" =~ ^(0|[1-9][0-9]*)$ ]] || { echo "no training seed: '$seed'" >&2 && exit 2; }
done
. scripts/environment.sh
selfe_environment dev,webdataset,tensorboard
export PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1
bench=.venv/bin/selfe-bench
runs=runs/quickstart
out=reports/quickstart
cores="$(.venv/bin/python -c 'import os; print(len(os.sched_getaffinity(0)))')"
half=$(((cores + 1) / 2))

train() { # method, threads; lines instead of bars, because two of them share the terminal
    OMP_NUM_THREADS="$2" $bench train --method "$1" --recipe shapes-quick --runs-dir "$runs" \
        --seed "$seed" --device cpu --auto-resume 2>&1 | cat
}
score() { # method, threads
    OMP_NUM_THREADS="$2" $bench geneval --model "$runs/shapes-quick-$1$suffix" --steps 2,4,8,50 \
        --limit 12 --runs-dir "$runs" --device cpu 2>&1 | cat
}
together() { # function, method, method: small networks gain more from two processes than threads
    "$1" "$2" "$half" &
    local first=$!
    "$1" "$3" "$half" &
    local second=$!
    wait "$first"
    wait "$second"
}

started=$SECONDS
for seed in "${seeds[@]}"; do
    suffix="$([ "$seed" = 0 ] || echo "-seed$seed")"
    echo "== 1/4 training Flow Matching, seed $seed"
    train fm "$cores"
    echo "== 2/4 training Self-E and IMM, seed $seed"
    together train selfe imm
    echo "== 3/4 scoring, seed $seed"
    together score selfe imm
    score fm "$cores"
done
echo "== 4/4 report"
$bench report --runs-dir "$runs" --out "$out"
echo
echo "done in $(((SECONDS - started) / 60)) minutes: look at $out/index.md"
