#!/usr/bin/env bash
# Fails a CI job when a model got worse: its Fréchet distance above MAX_FID, or its CLIP score below MIN_CLIP_SCORE.
#
#     MAX_FID=15 MIN_CLIP_SCORE=30 examples/ci_gate.sh [options of ratlip evaluate]
#
# The table goes to the job's log and the numbers to REPORT (evaluation.json), to be kept with the job.
# Exits with 0 where the model passes, with 3 where it does not, and with another code where it could not be scored.
set -euo pipefail

: "${MAX_FID:?set it to the largest Fréchet distance that passes}"
: "${MIN_CLIP_SCORE:?set it to the smallest CLIP score that passes}"
report="${REPORT:-evaluation.json}"

rm -f "$report"
code=0
ratlip evaluate --fid --clip-score --max-fid "$MAX_FID" --min-clip-score "$MIN_CLIP_SCORE" --out "$report" "$@" || code=$?

case "$code" in
    0) echo "gate: passed" ;;
    3) echo "gate: failed, a score is worse than allowed" ;;
    *) echo "gate: no verdict, the model could not be scored" ;;
esac
exit "$code"
