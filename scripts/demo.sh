#!/usr/bin/env bash
# The whole pipeline on drawn pictures, in build/demo, as dvc.yaml has it: fetch, prepare, train, export,
# evaluate; then the same again, which does nothing; then a live service. Touches no tracked file.
set -euo pipefail

PYTHON=${PYTHON:-python}
here=$PWD
work=build/demo
began=$SECONDS

step() { printf '\n\033[1m== %s\033[0m\n' "$*"; }

rm -rf "$work"
mkdir -p "$work"
cp -R common training serving evaluation configs requirements dvc.yaml .dvcignore "$work"
"$PYTHON" -m training fit --config configs/train.yaml --config configs/smoke.yaml --print_config \
  >"$work/configs/train.yaml"
cd "$work"
export DATA=sample
unset MLFLOW_TRACKING_URI
dvc init --quiet --no-scm

step "Draw pictures, split, train, export and evaluate them (dvc repro)"
dvc repro
step "The same pipeline again: nothing has changed, so nothing runs"
dvc repro

step "Serve models/model.pt, ask it about one drawn dog, evaluate it live on the test split"
cat >walk.sh <<'WALK'
set -euo pipefail
photos=(labelled/dog/*.jpg) photo=${photos[0]}
echo "\$ curl -F \"file=@$photo\" $URL/predict"
curl --fail-with-body --silent --show-error -F "file=@$photo" "$URL/predict"
echo
python -m evaluation live --url "$URL" --labelled labelled --gates gates.yaml
echo "\$ curl $URL/metrics"
curl --fail --silent "$URL/metrics" | grep -E '^classifier_(requests_total|predictions_total|ready|model_info)'
WALK
# The test split alone: pictures that the model has not seen.
"$PYTHON" - <<'COPY'
import csv, pathlib, shutil
for row in csv.DictReader(open("data/prepared/manifest.csv")):
    if row["split"] == "test":
        to = pathlib.Path("labelled", row["path"])
        to.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(pathlib.Path("data/raw", row["path"]), to)
COPY
# A model of drawings in a minute is not held to the limits of a release.
printf 'live:\n  accuracy_min: 0.9\n  failed_share_max: 0.0\n' >gates.yaml
MODEL=models/model.pt bash "$here/scripts/with_service.sh" bash walk.sh

step "Done in $((SECONDS - began)) s. Everything is in $work: reports/ has the pictures."
echo "See the experiment:  cd $work && ../../.venv/bin/mlflow ui --backend-store-uri sqlite:///mlflow.db"
echo "Serve the real model of this repository:  make serve"
