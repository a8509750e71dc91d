#!/usr/bin/env bash
# Train again if what dvc.lock names has changed, compare the candidate with the released model, and release it in
# this checkout if the comparison allows it. Writes build/retrain.md; in CI also the outputs `trained` and `released`.
# Usage: [FORCE=1] [LABELLED=folder] scripts/retrain.sh
#   FORCE=1 trains although nothing has changed; LABELLED holds photos to decide by instead of the test split
set -euo pipefail
cd "$(dirname "$0")/.."

mkdir -p build
report=build/retrain.md
output() { [ -z "${GITHUB_OUTPUT:-}" ] || echo "$1" >>"$GITHUB_OUTPUT"; }
changes() { # what of each stage differs from dvc.lock; an output that is merely absent is no change
  # shellcheck disable=SC2016 # the backquotes are Markdown's
  dvc status --json train export evaluate | python -c '
import json, sys
for stage, entries in json.load(sys.stdin).items():
    for entry in entries:
        for what, names in (entry if isinstance(entry, dict) else {entry: {}}).items():
            if what != "changed outs":
                print(f"- `{stage}`: {what}:", *names)'
}

changed=$(changes)
if [ -z "$changed" ] && [ -z "${FORCE:-}" ]; then
  echo "Data, code and configuration are those of the last training (dvc.lock): nothing was trained." | tee "$report"
  exit
fi
released=$(sha256sum models/release/model.pt | cut -c 1-12)
{ echo "## What has changed since the last training"; echo; echo "${changed:-nothing; the training was forced}"; echo; } >"$report"
if [ -n "${FORCE:-}" ]; then dvc repro --force --downstream train; else dvc repro; fi
output trained=true
status=0
photos=(--split test) # counted in data/test-ledger.csv
[ -z "${LABELLED:-}" ] || photos=(--labelled "$LABELLED")
python -m evaluation compare --candidate models/model.pt --champion models/release/model.pt "${photos[@]}" || status=$?
[ ! -f reports/compare/summary.md ] || cat reports/compare/summary.md >>"$report"
if [ "$status" != 0 ]; then
  echo "error: the candidate may not replace the released model $released; $report says why. models/release is unchanged." >&2
  exit "$status"
fi
python -m evaluation release
python -m training promote models/release/model.pt
output released=true
