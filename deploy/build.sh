#!/usr/bin/env bash
# Build an image and label it with its revision; the service image also with its model.
# Usage: [IMAGE=NAME:TAG] [MODEL=models/release/model.pt] deploy/build.sh serve|train|labels
# A MODEL that ends in .onnx makes an image with ONNX Runtime instead of torch, tagged `latest-onnx`.
# OTEL=1 makes one that can send traces.
# `labels` builds nothing; it prints the build arguments as the output of a CI step.
# On a network without internet access: BUILD_ARGS="--network host --build-arg PYTHON_IMAGE=… --secret id=pipconf,src=… …"
set -euo pipefail
cd "$(dirname "$0")/.."

kind=${1:?name the image: serve or train}
project=$(sed -n 's/^name = "\(.*\)"$/\1/p' pyproject.toml)
revision=$(git rev-parse HEAD 2>/dev/null || echo unknown)
[ -z "$(git status --porcelain --untracked-files=no 2>/dev/null)" ] || revision+=-dirty
options=(--build-arg "REVISION=$revision")
case $kind in
  serve | labels)
    model=${MODEL:-models/release/model.pt}
    case $model in
      *.onnx) runtime=onnx image=${IMAGE:-$project-api:latest-onnx} ;;
      *) runtime=torch image=${IMAGE:-$project-api:latest} ;;
    esac
    [ -f "$model" ] || { echo "error: no model at $model: run 'make train', or name another with MODEL=…" >&2; exit 2; }
    version=$(python3 - "$model" <<'CARD'
import json, pathlib, sys, zipfile
sys.path.insert(0, ".")
from serving.contract import onnx  # of the standard library alone
if zipfile.is_zipfile(sys.argv[1]):
    with zipfile.ZipFile(sys.argv[1]) as archive:
        card = archive.read(next(name for name in archive.namelist() if name.endswith("extra/card.json")))
else:
    card = onnx.split(pathlib.Path(sys.argv[1]).read_bytes())[1]["card.json"]
print(json.loads(card)["version"])
CARD
    )
    labels=("RUNTIME=$runtime" "MODEL=$model" "MODEL_VERSION=$version" "MODEL_SHA256=$(sha256sum "$model" | cut -d ' ' -f 1)")
    [ -z "${OTEL:-}" ] || labels+=("OTEL=$OTEL")
    [ ! -f "${model%.*}.reference.json" ] || labels+=("REFERENCE=${model%.*}.reference.json")
    if [ "$kind" = labels ]; then
      printf 'arguments<<END\n%s\nEND\n' "$(printf '%s\n' "${labels[@]}")"
      exit
    fi
    options+=("${labels[@]/#/--build-arg=}")
    ;;
  train) image=${IMAGE:-$project-train:latest} ;;
  *) echo "error: unknown image '$kind': use serve or train" >&2; exit 2 ;;
esac
# BUILD_ARGS is a list of options: splitting it is intended.
# shellcheck disable=SC2086
DOCKER_BUILDKIT=1 docker build ${BUILD_ARGS:-} "${options[@]}" --file "Dockerfile.$kind" --tag "$image" .
docker image inspect --format '{{index .RepoTags 0}}: {{.Size}} bytes' "$image"
