#!/usr/bin/env bash
# The reference run committed under reports/shapes: three methods and both ablations on the shapes
# world, two at a time with one thread each. Goes on where it was. The protocol is
# reports/shapes/protocol.md; the search of sampling settings is scripts/search_sampling.py.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/environment.sh
selfe_environment dev,webdataset,tensorboard
export PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1
bench=.venv/bin/selfe-bench
runs=runs/reference
mkdir -p "$runs"

train() { # method, further options
    local method="$1" name="$2"
    shift 2
    local resume=()
    [ -f "$runs/$name/config.json" ] && resume=(--resume)
    $bench train --method "$method" --recipe shapes --name "$name" --runs-dir "$runs" \
        "${resume[@]}" "$@" >>"$runs/$name.log" 2>&1
    echo "finished: $name"
}

# A third of the length under the schedule of the whole, so that they compare with its milestone.
third=(--set train.iterations=1000 --set optim.decay_horizon=3000)

first() {
    train selfe shapes-selfe
    train selfe shapes-selfe-no-target-norm --variant no-target-norm "${third[@]}"
}
second() {
    train fm shapes-fm
    train selfe shapes-selfe-aux --variant aux "${third[@]}"
}
case "${1:-all}" in
first) first ;;
second) second ;;
third) train imm shapes-imm ;;
all)
    first & second & wait
    train imm shapes-imm
    ;;
esac
