#!/usr/bin/env bash
# Trains under SLURM, one task a GPU:
#
#     sbatch --nodes 4 --gpus-per-node 8 --ntasks-per-node 8 scripts/launch_slurm.sh \
#         --method selfe --recipe 2b
#
# Arguments go to `selfe-bench train`. Five minutes before the time limit every task is told to stop:
# it finishes its iteration, saves, and the job goes back into the queue. It also does when a node
# fails (--requeue), and when a process dies the group starts again, up to RESTARTS times. Submit
# from the repository; runs/ must be on a shared file system.
#SBATCH --job-name=selfe-bench
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:TERM@300
set -uo pipefail
MASTER_ADDR="$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)"
MASTER_PORT=$((20000 + SLURM_JOB_ID % 20000))
export MASTER_ADDR MASTER_PORT

stopping=
stop() { # the shell alone was told: pass it on to the tasks of the step, which end by themselves
    stopping=1
    scancel --signal=TERM "$SLURM_JOB_ID.$attempt"
}
trap stop TERM

for attempt in $(seq 0 "${RESTARTS:-3}"); do
    # shellcheck disable=SC2016 # the variables are those of each task
    srun --kill-on-bad-exit=1 bash -c '
        export RANK=$SLURM_PROCID LOCAL_RANK=$SLURM_LOCALID
        export WORLD_SIZE=$SLURM_NTASKS LOCAL_WORLD_SIZE=${SLURM_NTASKS_PER_NODE:-$SLURM_NTASKS}
        exec .venv/bin/selfe-bench train --auto-resume "$@"' train "$@" &
    step=$!
    status=0
    wait "$step" || status=$?
    if [ -n "$stopping" ]; then
        wait "$step" # the first wait ended with the signal, the tasks go on until they have saved
        exec scontrol requeue "$SLURM_JOB_ID"
    fi
    [ "$status" -eq 0 ] && exit 0
    [ "$status" -eq 2 ] && exit 2 # bad input does not get better
    echo "attempt $attempt ended with status $status" >&2
done
exit "$status"
