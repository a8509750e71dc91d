#!/usr/bin/env bash
# Lint what delivers: Dockerfiles, workflows, Kubernetes manifests, compose, YAML and shell scripts.
set -euo pipefail
cd "$(dirname "$0")/.."

hadolint Dockerfile.serve Dockerfile.train
actionlint
zizmor --offline --quiet .github/workflows
check-jsonschema --quiet --builtin-schema vendor.github-workflows .github/workflows/*.yml
check-jsonschema --quiet --builtin-schema vendor.dependabot .github/dependabot.yml
check-jsonschema --quiet --builtin-schema vendor.compose-spec deploy/compose.yml deploy/compose.staging.yml
yamllint --strict .github deploy configs dvc.yaml
git ls-files --cached --others --exclude-standard '*.sh' .ci/run | xargs shellcheck
kubernetes-validate --quiet --strict deploy/kubernetes/base/{serviceaccount,deployment,service,autoscaler,disruption,network}.yaml
if type -P kubectl >/dev/null; then
  mkdir -p build
  for overlay in staging production; do
    kubectl kustomize "deploy/kubernetes/overlays/$overlay" >"build/$overlay.yaml"
    # The ServiceMonitor is Prometheus operator's, of which there is no schema here.
    python - "build/$overlay.yaml" <<'BUILTIN'
import pathlib, sys, yaml
path = pathlib.Path(sys.argv[1])
documents = [d for d in yaml.safe_load_all(path.read_text()) if d["kind"] != "ServiceMonitor"]
assert len(documents) == 6, [d["kind"] for d in documents]
path.write_text(yaml.safe_dump_all(documents))
BUILTIN
    kubernetes-validate --quiet --strict "build/$overlay.yaml"
  done
fi
echo "delivery: no fault found"
