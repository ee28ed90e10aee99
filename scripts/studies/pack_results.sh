#!/usr/bin/env bash
# Keeps the results of a report and the history of its trainings beside it, without images and
# weights:
#
#     scripts/studies/pack_results.sh runs/quickstart reports/quickstart
#
# writes reports/quickstart/results.tar.xz. Unpacked anywhere, `selfe-bench report --runs-dir
# runs/quickstart` and `selfe-bench compare` work on them as on the runs themselves.
set -euo pipefail
[ $# = 2 ] || { echo "usage: $0 RUNS_DIR REPORT" >&2 && exit 2; }
find "$1" -name result.json -o -name images.jsonl -o -name detections.jsonl -o -name metrics.jsonl |
    LC_ALL=C sort |
    tar --create --xz --file "$2/results.tar.xz" --files-from - \
        --mtime "2000-01-01 00:00 UTC" --owner 0 --group 0 --numeric-owner
echo "wrote $2/results.tar.xz"
