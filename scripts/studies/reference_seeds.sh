#!/usr/bin/env bash
# The shapes recipe as it stands (3,000 iterations), trained by every method with several training
# seeds and scored on all held-out prompts, every 500 iterations at 2, 4 and 8 steps and the last at
# 50 as well, so that the report can say what holds over trainings. The ablations of Self-E take a
# third of the length under the schedule of the whole, as in scripts/studies/reference_run.sh, and compare
# with Self-E's milestone of 1,000.
# One run a core, one thread each: with bf16 instructions about 19 minutes for Self-E and 13 for Flow
# Matching, 29 for IMM in fp32, 6 to 12 for an ablation, and some five minutes of scoring.
# Goes on where it was; runs begin seed by seed.
#
#     scripts/studies/reference_seeds.sh 0 1 2 3              every method and both ablations
#     METHODS="selfe fm" scripts/studies/reference_seeds.sh 4 only these
#     METHODS="selfe:aux" scripts/studies/reference_seeds.sh 4 only this ablation
#
# SETTINGS changes what all of them are trained with, as in scripts/quickstart.sh:
#
#     SETTINGS="optim.lr=8e-3" METHODS="selfe fm" scripts/studies/reference_seeds.sh 0 1
set -euo pipefail
cd "$(dirname "$0")/../.."
[ $# -gt 0 ] || { echo "usage: $0 SEED ..." >&2 && exit 2; }
for seed in "$@"; do
    [[ "$seed" =~ ^(0|[1-9][0-9]*)$ ]] || { echo "no training seed: '$seed'" >&2 && exit 2; }
done
. scripts/environment.sh
selfe_environment dev,webdataset,tensorboard
export PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1
bench=.venv/bin/selfe-bench
runs=runs/reference-seeds
cores="$(.venv/bin/python -c 'import os; print(len(os.sched_getaffinity(0)))')"

# xargs gives each free core the next run; where one fails the others go on, and there is no report
for seed in "$@"; do
    for method in ${METHODS:-selfe fm imm selfe:no-target-norm selfe:aux}; do echo "$method $seed"; done
done | xargs -P "$cores" -n 2 bash -euo pipefail -c '
    bench="$1" runs="$2" method="${4%%:*}" seed="$5"
    read -ra changed <<<"$3"
    name="shapes-${4/:/-}" options=()
    for setting in "${changed[@]}"; do
        name+="-${setting/=/}"
        options+=(--set "$setting")
    done
    name+="-seed$seed"
    whole=("$name")
    if [ "$4" != "$method" ]; then
        options+=(--variant "${4#*:}" --set train.iterations=1000 --set optim.decay_horizon=3000)
    elif [ "$method" = selfe ]; then
        whole+=("$name@1000")
    fi
    {
        "$bench" train --method "$method" --recipe shapes --seed "$seed" --name "$name" \
            --runs-dir "$runs" --device cpu --auto-resume "${options[@]}"
        for model in "${whole[@]}"; do
            "$bench" geneval --model "$runs/$model" --steps 50 --runs-dir "$runs" --device cpu
        done
        "$bench" geneval --model "$runs/$name" --steps 2,4,8 --milestones --runs-dir "$runs" \
            --device cpu
    } 2>&1 | sed -u "s/^/$name: /"' one-run "$bench" "$runs" "${SETTINGS:-}"
$bench report --runs-dir "$runs" --out reports/shapes-seeds
