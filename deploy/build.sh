#!/usr/bin/env bash
# Build an image and label it with its revision; the service image also with its model.
# Usage: [IMAGE=NAME:TAG] [MODEL=models/release/model.pt] deploy/build.sh serve|train|labels
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
    image=${IMAGE:-$project-api:latest}
    model=${MODEL:-models/release/model.pt}
    [ -f "$model" ] || { echo "error: no model at $model: run 'make train', or name another with MODEL=…" >&2; exit 2; }
    version=$(python3 - "$model" <<'CARD'
import json, sys, zipfile
with zipfile.ZipFile(sys.argv[1]) as archive:
    card = next(name for name in archive.namelist() if name.endswith("extra/card.json"))
    print(json.loads(archive.read(card))["version"])
CARD
    )
    labels=("MODEL=$model" "MODEL_VERSION=$version" "MODEL_SHA256=$(sha256sum "$model" | cut -d ' ' -f 1)")
    [ ! -f "${model%.pt}.reference.json" ] || labels+=("REFERENCE=${model%.pt}.reference.json")
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
