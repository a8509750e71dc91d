#!/usr/bin/env bash
# Ask the API server of KUBECONFIG whether it would admit every manifest, without keeping any (--dry-run=server).
# What belongs to an extension that the cluster lacks (Prometheus operator, Gateway API, Argo Rollouts, KServe) is
# named and left out. Needs kubectl 1.24 or later. Usage: deploy/kubernetes/admit.sh
set -euo pipefail
cd "$(dirname "$0")"

work=$(mktemp -d)
made=() # namespaces, for the dry run alone
cleanup() {
  rm -rf "$work"
  [ ${#made[@]} = 0 ] || kubectl delete namespace --wait=false "${made[@]}" >/dev/null
}
trap cleanup EXIT
has() { kubectl get customresourcedefinition "$1" >/dev/null 2>&1 || { echo "left out: the cluster has no $1"; false; }; }
admit() { # folder, namespace
  if ! kubectl get namespace "$2" >/dev/null 2>&1; then
    kubectl create namespace "$2" >/dev/null
    made+=("$2")
  fi
  kubectl apply --dry-run=server --kustomize "$1"
}

kubectl get --raw /readyz >/dev/null || { echo "error: the API server of KUBECONFIG is not ready" >&2; exit 1; }
cp -r ../kubernetes ../monitoring "$work"
components=("../../components/ingress" "../../components/traces")
if has httproutes.gateway.networking.k8s.io; then components+=("../../components/gateway"); fi
if has rollouts.argoproj.io; then components+=("../../components/rollout"); fi
printf 'components: [%s]\n' "$(IFS=,; echo "${components[*]}")" >>"$work/kubernetes/overlays/production/kustomization.yaml"
admit "$work/kubernetes/overlays/staging" cats-dogs-staging
admit "$work/kubernetes/overlays/production" cats-dogs-production
if has inferenceservices.serving.kserve.io; then admit "$work/kubernetes/overlays/kserve" cats-dogs-production; fi
if has prometheusrules.monitoring.coreos.com; then admit "$work/monitoring" monitoring; fi
