"""Check a rendered overlay of deploy/kubernetes, and print it in kinds that kubernetes-validate knows.

Comes in: the file that `kubectl kustomize` wrote. Goes out: its manifests, with KServe's InferenceService as
the Deployment that KServe makes of it. deploy/lint.sh calls this.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Final

import yaml

Manifest = dict[str, Any]
SCALING: Final = ("minReplicas", "maxReplicas", "scaleMetric", "scaleTarget")
"""Fields of a predictor that go to KServe's autoscaler."""


class WrongOverlay(Exception):
    """The overlay would deploy something else than it should."""


def deployment_of(service: Manifest) -> Manifest:
    """The Deployment that KServe makes of an InferenceService in its mode Standard."""
    labels = service["metadata"]["labels"]
    pod = {field: value for field, value in service["spec"]["predictor"].items() if field not in SCALING}
    strategy = pod.pop("deploymentStrategy")
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": f"{service['metadata']['name']}-predictor"},
        "spec": {
            "selector": {"matchLabels": labels},
            "strategy": strategy,
            "template": {"metadata": {"labels": labels}, "spec": pod},
        },
    }


def checked(manifests: list[Manifest]) -> list[Manifest]:
    """The manifests of an overlay, of Kubernetes' own kinds.

    Raises:
        WrongOverlay: it has not exactly one container, or /health would not report the digest of the image.
    """
    known = [deployment_of(each) if each["kind"] == "InferenceService" else each for each in manifests]
    pods = [each["spec"]["template"]["spec"] for each in known if each["kind"] == "Deployment"]
    containers = [container for pod in pods for container in pod["containers"]]
    if len(containers) != 1:
        raise WrongOverlay(f"it has {len(containers)} containers instead of one")
    image, variables = containers[0]["image"], containers[0]["env"]
    reported = [variable["value"] for variable in variables if variable["name"] == "DEPLOYMENT"]
    if [image.partition("@")[2]] != reported:
        raise WrongOverlay(f"DEPLOYMENT is {reported}, which is not the digest of the image {image!r}")
    return known


def main() -> None:
    """Read the file that the command line names."""
    path = Path(sys.argv[1])
    try:
        print(yaml.safe_dump_all(checked(list(yaml.safe_load_all(path.read_text())))), end="")
    except WrongOverlay as error:
        sys.exit(f"error: {path}: {error}")


if __name__ == "__main__":
    main()
