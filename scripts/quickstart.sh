#!/usr/bin/env bash
# The main job on the shapes world, from nothing to a table: makes .venv, trains Self-E, Flow
# Matching and IMM for the same number of iterations, scores them at 2, 4, 8 and 50 steps, renders
# Tables 1 and 2, and says what was found. Killed at any time, it goes on where it was.
# Arguments are training seeds: `scripts/quickstart.sh 0 1 2` trains every method three times, and
# the report says what holds over them. METHODS names others, for the same report:
#
#     METHODS="shortcut transition transition:no-loss-norm" scripts/quickstart.sh 0 1 2
#
# and SETTINGS changes what all of them are trained with:
#
#     SETTINGS="optim.lr=1.6e-2 optim.final_lr=1.6e-3" METHODS="fm selfe" scripts/quickstart.sh 0 1 2
set -euo pipefail
cd "$(dirname "$0")/.."
seeds=("${@:-0}")
for seed in "${seeds[@]}"; do
    [[ "$seed" =~ ^(0|[1-9][0-9]*)$ ]] || { echo "no training seed: '$seed'" >&2 && exit 2; }
done
read -ra methods <<<"${METHODS:-fm selfe imm}"
read -ra changed <<<"${SETTINGS:-}"
. scripts/environment.sh
selfe_environment dev,webdataset,tensorboard
export PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1
bench=.venv/bin/selfe-bench
runs=runs/quickstart
out=reports/quickstart
cores="$(.venv/bin/python -c 'import os; print(len(os.sched_getaffinity(0)))')"
half=$(((cores + 1) / 2))

run() { # METHOD or METHOD:VARIANT; the folder's name
    local name="shapes-quick-${1/:/-}"
    for setting in "${changed[@]}"; do name+="-${setting/=/}"; done
    echo "$name$([ "$seed" = 0 ] || echo "-seed$seed")"
}
train() { # METHOD or METHOD:VARIANT, threads; lines instead of bars, two of them share the terminal
    local options=()
    [[ "$1" != *:* ]] || options=(--variant "${1#*:}")
    for setting in "${changed[@]}"; do options+=(--set "$setting"); done
    OMP_NUM_THREADS="$2" $bench train --method "${1%%:*}" --recipe shapes-quick \
        --name "$(run "$1")" --runs-dir "$runs" --seed "$seed" --device cpu --auto-resume \
        "${options[@]}" 2>&1 | cat
}
score() { # the same
    OMP_NUM_THREADS="$2" $bench geneval --model "$runs/$(run "$1")" \
        --steps 2,4,8,50 --limit 12 --runs-dir "$runs" --device cpu 2>&1 | cat
}
each() { # train or score, methods: an odd one alone, on every core, the others in pairs, as small
    # networks gain more from two processes than from threads
    local task="$1" first
    shift
    if [ $(($# % 2)) = 1 ]; then
        "$task" "$1" "$cores"
        shift
    fi
    while [ $# -gt 0 ]; do
        "$task" "$1" "$half" &
        first=$!
        "$task" "$2" "$half" &
        wait "$first"
        wait $!
        shift 2
    done
}

started=$SECONDS
for seed in "${seeds[@]}"; do
    echo "== 1/3 training ${methods[*]}, seed $seed"
    each train "${methods[@]}"
    echo "== 2/3 scoring, seed $seed"
    each score "${methods[@]}"
done
echo "== 3/3 report"
$bench report --runs-dir "$runs" --out "$out"
echo
echo "done in $(((SECONDS - started) / 60)) minutes: look at $out/index.md"
