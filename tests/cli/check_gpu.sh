#!/bin/bash
# check_gpu.sh ROOT BUILD GPU_REPORT: scripts/gpu-check --dry-run passes on the emulated device, and its report has
# every part.
set -euo pipefail
report=$(mktemp)
trap 'rm -f "$report"' EXIT
KIN_BUILD=$2 "$1/scripts/gpu-check" --dry-run -o "$report"
"$3" "$report"
# a report whose bar is gone is found
sed 's/"work": "Wan/"work": "Von/' "$report" >"$report.cut"
if "$3" "$report.cut" 2>/dev/null; then
    rm -f "$report.cut"
    echo "check_gpu: a missing bar passed" >&2
    exit 1
fi
rm -f "$report.cut"
