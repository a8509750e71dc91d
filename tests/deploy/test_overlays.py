"""The overlays of deploy/kubernetes as kubectl renders them, and what `make lint-delivery` checks of them."""

from __future__ import annotations

import shutil
import subprocess
import sys
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.rendered import SCALING
from serving.http.inference.routes import PREFIX
from serving.settings import Settings
from tests.tiny import ROOT

KUBERNETES = ROOT / "deploy/kubernetes"
DIGEST = "sha256:" + "0" * 64
SHARED = ["ServiceAccount", "PodDisruptionBudget", "NetworkPolicy"]


def renders() -> bool:
    """Whether there is a kubectl whose kustomize reads the overlays."""
    if shutil.which("kubectl") is None:
        return False
    version = subprocess.run(
        ["kubectl", "version", "--client"], capture_output=True, text=True, check=False
    ).stdout
    return "Kustomize" in version


needs_kubectl = pytest.mark.skipif(not renders(), reason="kubectl 1.24 or later is not installed")


def rendered(overlay: Path) -> list[dict[str, Any]]:
    """The manifests of an overlay."""
    text = subprocess.run(
        ["kubectl", "kustomize", str(overlay)], capture_output=True, text=True, check=True
    ).stdout
    return list(yaml.safe_load_all(text))


def of_kind(manifests: list[dict[str, Any]], kind: str) -> dict[str, Any]:
    """The one manifest of this kind."""
    (found,) = (manifest for manifest in manifests if manifest["kind"] == kind)
    return found


@pytest.fixture(scope="module")
def production() -> list[dict[str, Any]]:
    """The overlay for production."""
    return rendered(KUBERNETES / "overlays/production")


@pytest.fixture(scope="module")
def kserve() -> list[dict[str, Any]]:
    """The overlay for KServe."""
    return rendered(KUBERNETES / "overlays/kserve")


@needs_kubectl
def test_kserve_runs_the_pod_of_production(production: list[dict[str, Any]], kserve: list[dict[str, Any]]):
    """Image, variables, resources, probes, hooks and rights; KServe asks for the name and for PROTOCOL."""
    deployment = of_kind(production, "Deployment")["spec"]
    pod = deepcopy(deployment["template"]["spec"])
    pod["containers"][0]["name"] = "kserve-container"
    pod["containers"][0]["env"].append({"name": "PROTOCOL", "value": PREFIX.strip("/")})
    predictor = of_kind(kserve, "InferenceService")["spec"]["predictor"]
    assert pod.items() <= predictor.items()
    assert predictor["deploymentStrategy"] == deployment["strategy"]


@needs_kubectl
def test_kserve_scales_as_the_autoscaler_of_production(
    production: list[dict[str, Any]], kserve: list[dict[str, Any]]
):
    """From and to as many replicas, at the same utilisation of the CPU."""
    scaler = of_kind(production, "HorizontalPodAutoscaler")["spec"]
    (metric,) = scaler["metrics"]
    assert (metric["type"], metric["resource"]["target"]["type"]) == ("Resource", "Utilization")
    predictor = of_kind(kserve, "InferenceService")["spec"]["predictor"]
    assert {field: predictor[field] for field in SCALING} == {
        "minReplicas": scaler["minReplicas"],
        "maxReplicas": scaler["maxReplicas"],
        "scaleMetric": metric["resource"]["name"],
        "scaleTarget": metric["resource"]["target"]["averageUtilization"],
    }


@needs_kubectl
def test_kserve_keeps_what_selects_the_pods_by_their_label(kserve: list[dict[str, Any]]):
    """KServe hands the labels of an InferenceService to its pods and to their Service."""
    service = of_kind(kserve, "InferenceService")
    labels = service["metadata"]["labels"].items()
    assert of_kind(kserve, "NetworkPolicy")["spec"]["podSelector"]["matchLabels"].items() <= labels
    assert of_kind(kserve, "PodDisruptionBudget")["spec"]["selector"]["matchLabels"].items() <= labels
    monitor = yaml.safe_load((ROOT / "deploy/monitoring/kubernetes/service-monitor.yaml").read_text())["spec"]
    assert monitor["selector"]["matchLabels"].items() <= labels
    assert service["metadata"]["namespace"] in monitor["namespaceSelector"]["matchNames"]
    (port,) = service["spec"]["predictor"]["containers"][0]["ports"]
    assert port["name"] == monitor["endpoints"][0]["port"]


@needs_kubectl
def test_kserve_replaces_whatever_production_has_for_its_deployment(tmp_path: Path):
    """Also an ingress, a route and a canary: their Service and their Deployment are gone."""
    copy = tmp_path / "kubernetes"
    shutil.copytree(KUBERNETES, copy)
    components = [f"../../components/{name}" for name in ("ingress", "gateway", "rollout")]
    with (copy / "overlays/production/kustomization.yaml").open("a") as file:
        file.write(f"components: {components}\n")
    production, kserve = (rendered(copy / "overlays" / name) for name in ("production", "kserve"))
    assert len(production) == 6 + 4
    assert [manifest["kind"] for manifest in kserve] == [*SHARED, "InferenceService"]
    size = "nginx.ingress.kubernetes.io/proxy-body-size"
    limits = {
        of_kind(*where)["metadata"]["annotations"][size]
        for where in ((production, "Ingress"), (kserve, "InferenceService"))
    }
    assert limits == {f"{Settings().max_body_bytes // 1024**2}m"}


def test_the_service_of_kserve_has_the_name_of_the_model():
    """Callers find it in the address, and KServe's graphs take one for the other."""
    service = yaml.safe_load((KUBERNETES / "overlays/kserve/inference-service.yaml").read_text())
    training = yaml.safe_load((ROOT / "configs/train.yaml").read_text())
    assert service["metadata"]["name"] == training["model"]["name"]


def overlay(tmp_path: Path, kind: str, **container: object) -> subprocess.CompletedProcess[str]:
    """Check an overlay with one workload, whose container has these fields."""
    pod = {"containers": [{"name": "api", "env": [{"name": "DEPLOYMENT", "value": DIGEST}], **container}]}
    spec = (
        {"predictor": {**pod, "minReplicas": 1, "deploymentStrategy": {"type": "Recreate"}}}
        if kind == "InferenceService"
        else {"template": {"spec": pod}}
    )
    path = tmp_path / "overlay.yaml"
    path.write_text(yaml.safe_dump({"kind": kind, "metadata": {"name": "x", "labels": {}}, "spec": spec}))
    return subprocess.run(
        [sys.executable, str(ROOT / "deploy/rendered.py"), str(path)],
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("kind", ["Deployment", "InferenceService"])
def test_an_overlay_that_reports_another_digest_than_its_image_is_an_error(tmp_path: Path, kind: str):
    """/health would name an image that does not run."""
    assert overlay(tmp_path, kind, image=f"api@{DIGEST}").returncode == 0
    for image in ("api:latest", "api@sha256:" + "1" * 64):
        done = overlay(tmp_path, kind, image=image)
        assert done.returncode == 1
        assert done.stderr.endswith(
            f"DEPLOYMENT is ['{DIGEST}'], which is not the digest of the image '{image}'\n"
        )


def test_an_overlay_without_a_workload_is_an_error(tmp_path: Path):
    """A patch or a replacement may have removed it."""
    done = overlay(tmp_path, "Service", image=f"api@{DIGEST}")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.endswith("it has 0 containers instead of one\n")


def test_an_inference_service_is_checked_as_the_deployment_that_kserve_makes(tmp_path: Path):
    """Nothing of its pod is left out, so that a field that Kubernetes does not know is found."""
    (manifest,) = yaml.safe_load_all(
        overlay(tmp_path, "InferenceService", image=f"api@{DIGEST}", misspelt=1).stdout
    )
    assert (manifest["kind"], manifest["spec"]["strategy"]) == ("Deployment", {"type": "Recreate"})
    assert manifest["spec"]["template"]["spec"]["containers"][0]["misspelt"] == 1
    assert "minReplicas" not in manifest["spec"]["template"]["spec"]
