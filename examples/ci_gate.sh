#!/usr/bin/env bash
# Fails a CI job when a model got worse: its Fréchet distance above a limit, or its CLIP score below one.
#
#     examples/ci_gate.sh --max-fid 15 --min-clip-score 30 [further options of ratlip evaluate]
#
# The table goes to the job's log and the numbers to $REPORT (evaluation.json), to be kept with the job. Keep the data
# folder (data/, or $RATLIP_DATA) between jobs: it has the prepared images and the features of the real ones.
# Exits with 0 where the model passes, with 3 where it does not, and with another code where it could not be scored.
set -euo pipefail

case " $*" in
    *" --max-fid"* | *" --min-clip-score"*) ;;
    *) echo "ci_gate.sh: give a limit: --max-fid X, --min-clip-score Y, or both" >&2; exit 2 ;;
esac
report="${REPORT:-evaluation.json}"

rm -f "$report"
# In the background, so that a signal to this script alone can be passed on; a program there ignores SIGINT.
code=0
ratlip evaluate --fid --clip-score --out "$report" "$@" &
ratlip=$!
trap 'kill -TERM "$ratlip" || true' INT TERM
trap 'kill -HUP "$ratlip" || true' HUP
wait "$ratlip" || code=$?
while kill -0 "$ratlip" 2>/dev/null; do # a signal ended the waiting, but not yet ratlip
    code=0
    wait "$ratlip" || code=$?
done

case "$code" in
    0) echo "gate: passed" ;;
    3) echo "gate: failed, a score is worse than allowed" ;;
    *) echo "gate: no verdict, the model could not be scored" ;;
esac
exit "$code"
