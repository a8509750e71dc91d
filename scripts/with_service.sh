#!/usr/bin/env bash
# Serve MODEL on a free port, run a command with URL set, stop the service; exit with the command's status.
# Usage: MODEL=models/model.pt scripts/with_service.sh COMMAND [ARGUMENT...]
set -euo pipefail

log=$(mktemp)
HOST=127.0.0.1 PORT=0 python -m serving >"$log" 2>&1 &
service=$!

# shellcheck disable=SC2329 # called by the trap
stop() {
  status=$?
  trap - EXIT INT TERM
  if kill -TERM "$service" 2>/dev/null; then
    wait "$service" || { echo "error: the service did not stop cleanly; the end of its log:" >&2; tail -n 20 "$log" >&2; status=1; }
  fi
  rm -f "$log"
  exit "$status"
}
trap stop EXIT INT TERM

for _ in $(seq 300); do
  URL=$(sed -n 's/.*"address": "\(http[^"]*\)".*/\1/p' "$log" | head -n 1)
  if [ -n "$URL" ] && curl --fail --silent --output /dev/null "$URL/health/ready"; then
    export URL
    "$@"
    exit
  fi
  kill -0 "$service" 2>/dev/null || break
  sleep 0.2
done
echo "error: the service did not become ready; its log:" >&2
cat "$log" >&2
exit 1
