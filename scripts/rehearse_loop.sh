#!/usr/bin/env bash
# Rehearse the loop (deploy/rehearse_loop.py) in a copy of the checkout, build/rehearse-loop/checkout. Changes no tracked
# file. In the copy alone: the demo's short recipe, larger shares of validation and test, gates that some hundred drawn
# pictures can pass, and ten pictures for the release's figures under corruption, which would take minutes.
# Usage: VENV=.venv scripts/rehearse_loop.sh
set -euo pipefail

venv=$(realpath "${VENV:-.venv}")
work=build/rehearse-loop
copy=$work/checkout
rm -rf "$work"
mkdir -p "$copy"
cp -a common training serving evaluation loop configs requirements deploy scripts Makefile Dockerfile.serve .dockerignore \
  pyproject.toml dvc.yaml .dvcignore "$copy"
ln -s "$venv" "$copy/.venv"
unset MLFLOW_TRACKING_URI DATA ADD
"$venv/bin/python" -m training fit --config configs/train.yaml --config configs/smoke.yaml --print_config \
  >"$copy/configs/train.yaml"
sed -i -e 's/validation_share: .*/validation_share: 0.15/' -e 's/test_share: .*/test_share: 0.3/' "$copy/configs/data.yaml"
grep -q '^PHOTOS: Final = ' "$copy/evaluation/arguments.py"
sed -i 's/^PHOTOS: Final = .*/PHOTOS: Final = 10/' "$copy/evaluation/arguments.py"
cat >"$copy/configs/gates.yaml" <<'GATES'
offline:
  accuracy_min: 0.9
promotion:
  points_lost_max: 5
  significantly_worse_max: 0
  slices_worse_max: 0
  bytes_times_max: 1.5
GATES
status=0
(cd "$copy" && dvc init --quiet --no-scm && PYTHONPATH=. python deploy/rehearse_loop.py) || status=$?
for file in "$copy"/build/rehearsal/*.md "$copy"/build/rehearsal/*.png; do
  [ ! -e "$file" ] || cp "$file" "$work"
done
echo "$work/transcript.md has the checks; the logs are in $copy/build/rehearsal."
exit "$status"
