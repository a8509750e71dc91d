#!/usr/bin/env bash
# Start IMAGE in a container as restricted as a deployed one, run the checks of a deploy, and stop it.
# NETWORK=host for an engine without a bridge network.
set -euo pipefail
cd "$(dirname "$0")/.."

project=$(sed -n 's/^name = "\(.*\)"$/\1/p' pyproject.toml)
image=${IMAGE:-$project-api:latest}
port=${SMOKE_PORT:-18000}
name=$project-smoke-$$
where=(--publish "127.0.0.1:$port:8000")
[ "${NETWORK:-}" != host ] || where=(--network host --env "PORT=$port" --env HOST=127.0.0.1)
trap 'docker rm --force "$name" >/dev/null' EXIT
docker run --detach --name "$name" --read-only --cap-drop ALL --security-opt no-new-privileges --pids-limit 256 \
  --memory 2g "${where[@]}" "$image" >/dev/null
if ! python3 deploy/deploy.py validate --url "http://127.0.0.1:$port" --ready-seconds "${READY_SECONDS:-60}"; then
  docker logs "$name"
  exit 1
fi
docker stop --time 40 "$name" >/dev/null
code=$(docker inspect --format '{{.State.ExitCode}}' "$name")
if [ "$code" != 0 ]; then
  docker logs --tail 20 "$name"
  echo "error: on SIGTERM $image exited with $code, not 0; the end of its log is above" >&2
  exit 1
fi
echo "$image: ready, predicts correctly, stops cleanly."
