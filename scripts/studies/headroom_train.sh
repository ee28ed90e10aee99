#!/usr/bin/env bash
# Trainings of the study of headroom (reports/studies/headroom/README.md): the quickstart's recipe
# in worlds whose latents are multiplied by b, one run a core, one thread each. Goes on where it was.
#
#     scripts/studies/headroom_train.sh "1 0.5 0.35 0.25 0.18 0.12" "fm" "0"
#     scripts/studies/headroom_train.sh "0.25" "fm selfe imm" "0 1 2"
#
# With bf16 instructions a run of Flow Matching takes about 4 minutes on one core, of Self-E 6, of
# IMM, in fp32, 9. BENCH names the command line, PROCESSES how many run at once.
set -euo pipefail
cd "$(dirname "$0")/../.."
[ $# -eq 3 ] || { echo "usage: $0 FACTORS METHODS SEEDS" >&2 && exit 2; }
export PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1
export BENCH="${BENCH:-.venv/bin/selfe-bench}" RUNS="${RUNS:-runs/headroom}"
mkdir -p "$RUNS"
for seed in $3; do
    for method in $2; do
        for b in $1; do echo "$b $method $seed"; done
    done
done | xargs -P "${PROCESSES:-2}" -n 3 bash -euo pipefail -c '
    name="b$1-$2-seed$3"
    [ ! -e "$RUNS/$name/done" ] || exit 0
    $BENCH train --method "$2" --recipe shapes-quick --seed "$3" --name "$name" \
        --runs-dir "$RUNS" --device cpu --workers 1 --auto-resume \
        --set data.signal="$1" --set train.sample_every=null >"$RUNS/$name.log" 2>&1
    touch "$RUNS/$name/done"
    echo "trained $name"' one-run
