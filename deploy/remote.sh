#!/usr/bin/env bash
# Run deploy.py on DEPLOY_HOST (user@host) over ssh, with this checkout's deploy/ folder.
# In CI, SSH_KEY and SSH_KNOWN_HOSTS hold the private key and the host's key as text; otherwise ssh uses its own.
# A deploy takes the service's settings from the local file ENV_FILE, or, in CI, from the text SERVICE_ENV; without
# either the release keeps those that it has.
# Usage: DEPLOY_HOST=user@host deploy/remote.sh deploy IMAGE@DIGEST | rollback | status
set -euo pipefail
smoke=$(realpath "${SMOKE:-$(dirname "$0")/smoke}") # its photos become the folder that deploy.py looks into there
settings=${SERVICE_ENV:-}
[ -z "${ENV_FILE:-}" ] || settings=$(cat "$ENV_FILE")
cd "$(dirname "$0")"

host=${DEPLOY_HOST:?name the host, DEPLOY_HOST=user@host}
options=(-o BatchMode=yes -o StrictHostKeyChecking=yes)
if [ -n "${SSH_KEY:-}" ]; then
  secrets=$(mktemp -d)
  trap 'rm -rf "$secrets"' EXIT
  (umask 077; printf '%s\n' "$SSH_KEY" >"$secrets/key"; printf '%s\n' "${SSH_KNOWN_HOSTS:?SSH_KEY is set, so set this to the host key too (ssh-keyscan)}" >"$secrets/known_hosts")
  options+=(-i "$secrets/key" -o "UserKnownHostsFile=$secrets/known_hosts")
fi
tar -c --exclude=__pycache__ --transform 's,^\./,smoke/,' deploy.py host proxy -C "$smoke" ./ | ssh "${options[@]}" "$host" 'mkdir -p cats-dogs-deploy && rm -rf cats-dogs-deploy/smoke && tar -x -C cats-dogs-deploy'
if [ "${1:-}" = deploy ] && [ -n "${ENV_FILE:-}$settings" ]; then
  printf '%s\n' "$settings" | ssh "${options[@]}" "$host" 'umask 077; cat > cats-dogs-deploy/service.env'
  set -- "$@" --env-file cats-dogs-deploy/service.env
fi
# The remote shell parses one command line, so the arguments are quoted here. The host keeps the settings elsewhere.
# shellcheck disable=SC2029
ssh "${options[@]}" "$host" "python3 cats-dogs-deploy/deploy.py $(printf '%q ' "$@"); status=\$?; rm -f cats-dogs-deploy/service.env; exit \$status"
