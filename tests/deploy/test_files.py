"""What images, labels and workflows claim about the project is true."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys

import pytest
import yaml

from serving.contract import artifact
from serving.runtime.context import LocalContext
from serving.runtime.handler import ImageClassifierHandler
from serving.settings import Settings
from tests.tiny import ROOT

DEPLOY = ROOT / "deploy"


@pytest.mark.parametrize("name", ["model.pt", "model.onnx", "model-int8.onnx"])
def test_released_models_predict_the_smoke_photos_correctly(name: str):
    """With a margin that the rounding of no processor can use up."""
    handler = ImageClassifierHandler()
    handler.initialize(LocalContext.for_file(ROOT / "models/release" / name))
    for photo in (DEPLOY / "smoke").iterdir():
        answer = handler.handle([{"body": photo.read_bytes()}], None)[0]
        assert answer.prediction == photo.stem
        assert answer.probability > 0.9


def test_the_image_holds_the_versions_that_are_tested():
    """A closed network may build with another torch, but the default is the tested one."""
    pinned = dict(
        re.findall(r"^(torch\w*)==(\S+)$", (ROOT / "requirements/torch.txt").read_text(), re.MULTILINE)
    )
    for name in ("Dockerfile.serve", "Dockerfile.train"):
        text = (ROOT / name).read_text()
        assert f"TORCH_VERSION={pinned['torch']}\n" in text
    assert f"TORCHVISION_VERSION={pinned['torchvision']}\n" in text


def test_both_images_have_the_same_base():
    """It is named by digest."""
    bases = {
        re.search(r"^ARG PYTHON_IMAGE=(\S+@sha256:[0-9a-f]{64})$", (ROOT / name).read_text(), re.MULTILINE)[1]
        for name in ("Dockerfile.serve", "Dockerfile.train")
    }
    assert len(bases) == 1


def test_the_build_labels_name_the_model_in_the_image():
    """deploy.py compares them with the served model."""
    text = subprocess.run(
        ["bash", "deploy/build.sh", "labels"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    loaded = artifact.read(ROOT / "models/release/model.pt")
    assert f"MODEL_SHA256={loaded.sha256}" in text
    assert f"MODEL_VERSION={loaded.card.version}" in text


def test_no_data_reaches_an_image():
    """The build context is an allowlist."""
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    assert "*" in lines
    assert not any(line.startswith(("!data", "!reports", "!.dvc", "!mlruns", "!.git")) for line in lines)


def test_every_action_is_pinned_by_commit_next_to_its_version():
    """In all workflows."""
    for path in (ROOT / ".github/workflows").glob("*.yml"):
        for line in re.findall(r"^\s*-? *uses: (.+)$", path.read_text(), re.MULTILINE):
            assert line.startswith("./") or re.fullmatch(r"[\w./-]+@[0-9a-f]{40} # v\d\S*", line), line


def _seconds(text: str) -> float:
    """A duration of compose, such as 40s."""
    return float(text.removesuffix("s"))


def test_the_orchestrators_wait_longer_than_a_stop_takes():
    """Otherwise they would kill the service while it still answers; Kubernetes waits for its preStop too."""
    longest = Settings().drain_timeout_seconds
    compose = yaml.safe_load((DEPLOY / "compose.yml").read_text())["services"]["api"]
    assert _seconds(compose["stop_grace_period"]) >= longest + 5
    pod = yaml.safe_load((DEPLOY / "kubernetes/base/deployment.yaml").read_text())["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    (pause,) = re.findall(r"sleep\((\d+)\)", container["lifecycle"]["preStop"]["exec"]["command"][-1])
    assert pod["terminationGracePeriodSeconds"] >= int(pause) + longest + 5


def test_no_variable_of_another_service_reaches_the_pod():
    """Kubernetes would set some that look like settings."""
    deployment = yaml.safe_load((DEPLOY / "kubernetes/base/deployment.yaml").read_text())
    assert deployment["spec"]["template"]["spec"]["enableServiceLinks"] is False


def test_the_health_check_of_the_image_runs_by_itself():
    """With what the image calls it by: neither site-packages nor the project on the path."""
    line = re.search(r"^HEALTHCHECK .* CMD (\[.*\])$", (ROOT / "Dockerfile.serve").read_text(), re.MULTILINE)
    command = [part.replace("/app/", f"{ROOT}/") for part in json.loads(line[1])]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
        done = subprocess.run(
            [sys.executable, *command[1:]], env={"PORT": port}, capture_output=True, text=True, check=False
        )
    assert done.returncode == 1
    assert done.stderr.startswith(f"port {port} does not answer")
