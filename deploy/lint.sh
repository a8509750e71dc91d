#!/usr/bin/env bash
# Lint the delivery files: Dockerfiles, workflows, Kubernetes manifests, compose, YAML and shell scripts.
set -euo pipefail
cd "$(dirname "$0")/.."

hadolint Dockerfile.serve Dockerfile.train
actionlint
zizmor --offline --quiet .github/workflows
check-jsonschema --quiet --builtin-schema vendor.github-workflows .github/workflows/*.yml
check-jsonschema --quiet --builtin-schema vendor.dependabot .github/dependabot.yml
check-jsonschema --quiet --builtin-schema vendor.github-issue-forms .github/ISSUE_TEMPLATE/{bug,feature}.yml
check-jsonschema --quiet --builtin-schema vendor.github-issue-config .github/ISSUE_TEMPLATE/config.yml
check-jsonschema --quiet --builtin-schema vendor.compose-spec compose.yaml deploy/compose.yml deploy/compose.staging.yml
yamllint --strict compose.yaml .github deploy configs dvc.yaml
git ls-files --cached --others --exclude-standard '*.sh' .ci/run | xargs shellcheck
kubernetes-validate --quiet --strict deploy/kubernetes/base/{serviceaccount,deployment,service,autoscaler,disruption,network}.yaml \
  deploy/kubernetes/components/ingress/ingress.yaml

# kubectl renders the overlays. Before 1.24 it does not report its kustomize version and cannot read ours.
renders() { [[ $(kubectl version --client 2>/dev/null) == *Kustomize* ]]; }
if ! type -P kubectl >/dev/null && [ "$(id -u)" = 0 ] && type -P apt-get >/dev/null; then
  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends kubernetes-client || true
fi
if ! renders; then
  unchecked="NOT CHECKED: deploy/kubernetes/overlays. Install kubectl 1.24 or later (Debian 13 has it, Debian 12 an older one)."
  [ -z "${CI:-}" ] || { echo "error: $unchecked" >&2; exit 1; }
  echo "delivery: no problems found. $unchecked"
  exit
fi
mkdir -p build
for overlay in staging production kserve; do
  kubectl kustomize "deploy/kubernetes/overlays/$overlay" >"build/$overlay.yaml"
  python deploy/rendered.py "build/$overlay.yaml" >"build/$overlay-known.yaml"
  kubernetes-validate --quiet --strict "build/$overlay-known.yaml"
done
kubectl kustomize deploy/monitoring >build/monitoring.yaml
echo "delivery: no problems found"
