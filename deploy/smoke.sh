#!/usr/bin/env bash
# Start IMAGE as a container, as strictly as a deploy does, and ask it what a deploy asks; stop it.
# NETWORK=host where the engine has no bridge.
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
[ "$code" = 0 ] || { echo "error: on SIGTERM it ended with $code, not 0" >&2; exit 1; }
echo "$image: ready, answers rightly, stops cleanly."
