#!/usr/bin/env bash
# Trains on all GPUs of this machine, or of several that each run this script:
#
#     scripts/launch_torchrun.sh --method selfe --recipe 0.5b
#     NODES=4 HEAD=node0:29400 scripts/launch_torchrun.sh --method selfe --recipe 2b   # on each node
#
# Arguments go to `selfe-bench train`. When a process dies the whole group starts again, up to
# RESTARTS times, and continues from the newest valid checkpoint. SIGTERM to torchrun ends the run
# after the iteration in flight and its checkpoint, if they take no longer than GRACE seconds.
# PROCESSES is the number a machine (default: one a GPU); runs/ must be on a shared file system.
set -euo pipefail
cd "$(dirname "$0")/.."
exec .venv/bin/torchrun \
    --nnodes "${NODES:-1}" --nproc-per-node "${PROCESSES:-gpu}" \
    --rdzv-backend c10d --rdzv-endpoint "${HEAD:-localhost:0}" --rdzv-id "${JOB:-selfe-bench}" \
    --max-restarts "${RESTARTS:-3}" --shutdown-timeout "${GRACE:-120}" \
    --no-python .venv/bin/selfe-bench train --auto-resume "$@"
