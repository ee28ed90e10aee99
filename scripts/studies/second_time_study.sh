#!/usr/bin/env bash
# Figs S.3 and S.4 of one trained run: where the step looks (s = next, midpoint or current time) at
# 2, 4, 8 and 50 steps, and one step without guidance with s at f = 0, 0.125 ... 1. Everything else
# stays as the run samples: --set sampling.s_fraction leaves guidance and eta of each number of steps
# alone. What is scored already is not drawn again; `report` then draws both figures.
#
#     scripts/studies/second_time_study.sh RUN [options of geneval]
#     scripts/studies/second_time_study.sh runs/reference/shapes-selfe@3000 --limit 12 --device cpu
#
# --limit N (at most N prompts per task) makes it cheap, and another protocol than the whole suite.
# With BENCH=selfe-bench it uses what is installed and makes no environment.
set -euo pipefail
if [ "$#" -eq 0 ]; then
    echo "which run? scripts/studies/second_time_study.sh RUN [options of geneval]" >&2
    exit 2
fi
if [ -z "${BENCH:-}" ]; then
    cd "$(dirname "$0")/../.."
    . scripts/environment.sh
    selfe_environment dev,webdataset,tensorboard
    BENCH=.venv/bin/selfe-bench
fi
export PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1
run="$1"
shift

score() { "$BENCH" geneval --model "$run" "$@"; }

echo "== Fig. S.3: policies of s"
score --steps 2,4,8,50 "$@" # s = next, as the run samples by itself
for fraction in 0.5 1; do
    score --steps 2,4,8,50 --set "sampling.s_fraction=$fraction" "$@"
done
echo "== Fig. S.4: one step without guidance"
for fraction in 0 0.125 0.25 0.375 0.5 0.625 0.75 0.875 1; do
    score --steps 1 --set sampling.guidance=none --set "sampling.s_fraction=$fraction" "$@"
done
