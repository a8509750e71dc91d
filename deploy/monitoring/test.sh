#!/usr/bin/env bash
# Check configuration, rules and routes with promtool and amtool, from PATH or else from their images.
set -euo pipefail
cd "$(dirname "$0")"

promtool() {
  if type -P promtool >/dev/null; then command promtool "$@"
  else docker run --rm --volume "$PWD:/rules:ro" --workdir /rules --entrypoint promtool prom/prometheus:v3.5.0 "$@"; fi
}
amtool() {
  if type -P amtool >/dev/null; then command amtool "$@"
  else docker run --rm --volume "$PWD:/rules:ro" --workdir /rules --entrypoint amtool prom/alertmanager:v0.28.1 "$@"; fi
}
if ! type -P promtool >/dev/null && ! type -P docker >/dev/null; then
  echo "error: neither promtool nor docker is installed. On Debian: apt install prometheus prometheus-alertmanager" >&2
  exit 2
fi
promtool check config prometheus.yml
promtool test rules rules_test.yml
amtool check-config alertmanager.yml
[ "$(amtool config routes test --config.file=alertmanager.yml severity=page)" = pager ]
[ "$(amtool config routes test --config.file=alertmanager.yml severity=ticket)" = tickets ]
[ "$(amtool config routes test --config.file=alertmanager.yml severity=page environment=staging)" = tickets ]
[ "$(amtool config routes test --config.file=alertmanager.yml severity=none alertname=ClassifierWatchdog)" = deadman ]
echo "routes: pages to pager, tickets and staging to tickets, the watchdog to deadman"
