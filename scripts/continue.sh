#!/usr/bin/env bash
# Train on from the released model, and keep the result if validation prefers it. For DVC it is then the output of the
# stage `train`, and dvc.lock must say so: else the next `dvc repro` would train from the start again.
set -euo pipefail
cd "$(dirname "$0")/.."

dvc status --json train | python -c '
import json, sys
entries = json.load(sys.stdin).get("train", [])
if any(not isinstance(entry, dict) or entry.keys() - {"changed outs"} for entry in entries):
    sys.exit("error: Data, code or configuration have changed since the last training. Train first: make train.")'
python -m training continue
if grep -qs '"kept": "from_champion"' build/continue/starts.json; then dvc commit --quiet --force train; fi
