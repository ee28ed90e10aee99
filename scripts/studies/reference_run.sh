#!/usr/bin/env bash
# The reference run committed under reports/shapes: three methods and both ablations on the shapes
# world, two at a time with one thread each, about 75 minutes of training and 20 of scoring on two
# idle cores. Goes on where it was. The protocol is reports/shapes/protocol.md.
#
#     scripts/studies/reference_run.sh            all that follows, in order
#     scripts/studies/reference_run.sh train      the five runs
#     scripts/studies/reference_run.sh search     sampling settings on validation prompts; what is found is
#                                         written into selfe/config/recipes.py by hand, before scoring
#     scripts/studies/reference_run.sh score      held-out prompts: milestones, and the study of s
#     scripts/studies/reference_run.sh report     tables and figures into reports/shapes
set -euo pipefail
cd "$(dirname "$0")/../.."
. scripts/environment.sh
selfe_environment dev,webdataset,tensorboard
export PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1
bench=.venv/bin/selfe-bench
runs=runs/reference
mkdir -p "$runs"

train() { # method, name, further options
    local method="$1" name="$2"
    shift 2
    $bench train --method "$method" --recipe shapes --name "$name" --runs-dir "$runs" \
        --device cpu --auto-resume --set train.precision=fp32 "$@" 2>&1 | sed -u "s/^/$name: /"
}
# A third of the length under the schedule of the whole, so that they compare with its milestone.
third=(--set train.iterations=1000 --set optim.decay_horizon=3000)

settings() { # method: what the recipe now says, whatever a run had when its training began
    .venv/bin/python - "$1" <<'PYTHON'
import json, sys
from selfe.config import StepSampling
from selfe.recipes import resolve

sampling = resolve("shapes", sys.argv[1]).sampling
by_steps = {n: sampling.at(n).model_dump(include=set(StepSampling.model_fields)) for n in (2, 4, 8, 50)}
print("sampling.by_steps=" + json.dumps(by_steps))
PYTHON
}
score() { # method, RUN or RUN@ITERATION ...
    local found run
    found=$(settings "$1")
    shift
    for run in "$@"; do
        $bench geneval --model "$runs/$run" --steps 2,4,8,50 --runs-dir "$runs" --device cpu \
            --set "$found" 2>&1 | sed -u "s/^/$run: /"
    done
}

together() { # two functions at once; fails if either does
    "$1" &
    local first=$!
    "$2" &
    local second=$!
    wait "$first"
    wait "$second"
}
train_first() {
    train selfe shapes-selfe
    train fm shapes-fm
}
train_second() {
    train imm shapes-imm
    train selfe shapes-selfe-no-target-norm --variant no-target-norm "${third[@]}"
    train selfe shapes-selfe-aux --variant aux "${third[@]}"
}
score_first() {
    score selfe shapes-selfe{@1000,@2000,} shapes-selfe-no-target-norm shapes-selfe-aux
    BENCH="$bench" scripts/studies/second_time_study.sh "$runs/shapes-selfe" --runs-dir "$runs" \
        --device cpu --set "$(settings selfe)" 2>&1 | sed -u "s/^/study of s: /"
}
score_second() {
    score fm shapes-fm{@1000,@2000,}
    score imm shapes-imm{@1000,@2000,}
}

for phase in "${@:-train search score report}"; do
    for each in $phase; do
        echo "== $each"
        case "$each" in
        train) together train_first train_second ;;
        search)
            OMP_NUM_THREADS=$(nproc) .venv/bin/python -m scripts.studies.search_sampling \
                --runs-dir "$runs" --per-task 8
            ;;
        score) together score_first score_second ;;
        report) $bench report --runs-dir "$runs" --out reports/shapes ;;
        *)
            echo "unknown phase $each (known: train, search, score, report)" >&2
            exit 2
            ;;
        esac
    done
done
