"""The archive that `make torchserve` makes, in TorchServe's own loader and, with Java, in its server."""

from __future__ import annotations

import base64
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import httpx
import pytest

from tests.tiny import ROOT

pytestmark = pytest.mark.torchserve

CAT, DOG = ((ROOT / f"deploy/smoke/{name}.jpg").read_bytes() for name in ("cat", "dog"))
SECONDS = 60


@pytest.fixture(scope="module", params=["model.pt", "model.onnx"])
def archive(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The archive of a released model, as `make torchserve` makes it."""
    folder = tmp_path_factory.mktemp("archive")
    command = [sys.executable, ROOT / "scripts/archive.py", ROOT / "models/release" / request.param]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    return folder / done.stdout.strip()


def request(headers: dict[str, str] | None = None, **fields: bytes) -> dict[str, dict[str, str]]:
    """A request, as `torchserve_loader.py` reads it."""
    encoded = {name: base64.b64encode(value).decode() for name, value in fields.items()}
    return {"fields": encoded, "headers": headers or {}}


def test_the_packages_own_loader_answers_a_batch(archive: Path, tmp_path: Path):
    """`Service.predict` on an archive, where nothing else of this project can be imported."""
    with zipfile.ZipFile(archive) as packed:
        packed.extractall(tmp_path / "model")
    batch = [
        request(body=CAT),
        request(data=DOG),
        request(data=DOG[:-400]),
        request(left=CAT, right=DOG),
        request({"describe": "True"}),
        request({"explain": "True"}, photo=CAT),
    ]
    done = subprocess.run(
        [sys.executable, ROOT / "tests/serving/torchserve_loader.py", tmp_path / "model"],
        input=json.dumps(batch),
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(tmp_path / "model")},  # as TorchServe sets it
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["files"]
    assert all(Path(file).is_relative_to(tmp_path / "model") for file in result["files"])
    answers = result["answers"]
    assert [answer["status"] for answer in answers] == [200, 200, 422, 400, 200, 200]
    assert {answer["type"] for answer in answers} == {"application/json"}
    bodies = [answer["body"] for answer in answers]
    assert [body["prediction"] for body in bodies[:2]] == ["cat", "dog"]
    assert [body["error"] for body in bodies[2:4]] == ["broken-image", "missing-file"]
    assert bodies[4]["labels"] == ["cat", "dog"]
    assert bodies[5].keys() == {"cat", "dog"}


def free_ports(count: int) -> list[int]:
    """Ports of the loopback address that nothing listens on."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [taken.getsockname()[1] for taken in sockets]
    for taken in sockets:
        taken.close()
    return ports


@pytest.fixture(scope="module")
def server(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """The addresses of inference and management of a TorchServe with one worker and batches of four."""
    if shutil.which("java") is None:
        pytest.skip("java is not installed")
    folder = tmp_path_factory.mktemp("server")
    *ports, inference, management, metrics = free_ports(5)
    with zipfile.ZipFile(archive) as packed:
        version = json.loads(packed.read("MAR-INF/MANIFEST.json"))["model"]["modelVersion"]
    batches = {
        "marName": archive.name,
        "minWorkers": 1,
        "maxWorkers": 1,
        "batchSize": 4,
        "maxBatchDelay": 500,
    }
    lines = [
        *(
            f"inference_address=http://127.0.0.1:{inference}",
            f"management_address=http://127.0.0.1:{management}",
        ),
        *(f"metrics_address=http://127.0.0.1:{metrics}", f"load_models={archive.name}"),
        *(f"grpc_inference_port={ports[0]}", f"grpc_management_port={ports[1]}"),
        f"models={json.dumps({archive.stem: {version: batches | {'defaultVersion': True}}})}",
    ]
    (folder / "config.properties").write_text("\n".join(lines))
    command = [Path(sys.executable).with_name("torchserve"), "--start", "--foreground", "--ncs"]
    command += ["--disable-token-auth", "--ts-config", "config.properties", "--model-store", archive.parent]
    places = {"TMPDIR": str(folder), "TEMP": str(folder)}  # of its process id, sockets and unpacked archives
    with (
        (folder / "output").open("w") as output,
        subprocess.Popen(
            command, cwd=folder, env=os.environ | places, stdout=output, stderr=output, start_new_session=True
        ) as process,
    ):
        try:
            wait_until_ready(f"http://127.0.0.1:{management}/models/{archive.stem}", folder / "output")
            yield f"http://127.0.0.1:{inference}", f"http://127.0.0.1:{management}"
        finally:
            os.killpg(process.pid, signal.SIGTERM)  # the launcher passes no signal on to the server


def wait_until_ready(model: str, output: Path) -> None:
    """Return once the model's worker has loaded it."""
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        with suppress(httpx.TransportError):
            described = httpx.get(model)
            if described.is_success and described.json()[0]["workers"][0]["status"] == "READY":
                return
        time.sleep(0.1)
    pytest.fail(output.read_text(errors="replace")[-5000:])


def test_torchserve_answers_what_people_send(server: tuple[str, str], archive: Path):
    """A raw body, forms with fields of several names, JSON; problems have their statuses."""
    address = f"{server[0]}/predictions/{archive.stem}"
    answers = [
        httpx.put(address, content=CAT),
        httpx.post(address, files={"data": CAT}),
        httpx.post(address, files={"body": CAT}),
        httpx.post(address, files={"photo": CAT}),
        httpx.post(address, json={"data": base64.b64encode(CAT).decode()}),
    ]
    assert [answer.json().get("prediction") for answer in answers] == ["cat"] * len(answers)
    assert all(answer.headers["content-type"] == "application/json" for answer in answers)
    problems = [
        httpx.post(address, files={"data": CAT[:-400]}),
        httpx.post(address),
        httpx.post(address, files={"left": CAT, "right": DOG}),
        httpx.post(address, content=b"no photo"),
    ]
    assert [problem.status_code for problem in problems] == [422, 422, 400, 415]
    assert [problem.json()["error"] for problem in problems] == [
        *("broken-image", "empty", "missing-file", "unsupported-image")
    ]


def test_torchserve_describes_and_explains(server: tuple[str, str], archive: Path):
    """`?customized=true` has the model's own description, `/explanations` a map for each label."""
    inference, management = server
    described = httpx.get(f"{management}/models/{archive.stem}", params={"customized": "true"}).json()
    assert described[0]["customizedMetadata"]["labels"] == ["cat", "dog"]
    maps = httpx.post(f"{inference}/explanations/{archive.stem}", files={"data": CAT}).json()
    assert maps.keys() == {"cat", "dog"}


def test_concurrent_callers_share_a_batch_and_nothing_else(server: tuple[str, str], archive: Path):
    """Four at once, one of them with half a photo and one that asks for a description as TorchServe does."""
    address = f"{server[0]}/predictions/{archive.stem}"

    def send(photo: bytes, name: str, headers: dict[str, str] | None = None) -> httpx.Response:
        return httpx.post(address, files={name: photo}, headers=headers)

    with ThreadPoolExecutor(4) as callers:
        for _ in range(3):
            sent = [
                callers.submit(send, CAT, "data"),
                callers.submit(send, CAT[:-400], "data"),
                callers.submit(send, DOG, "data", {"describe": "True"}),
                callers.submit(send, DOG, "photo"),
            ]
            cat, broken, described, dog = [answer.result() for answer in sent]
            assert (cat.json()["prediction"], dog.json()["prediction"]) == ("cat", "dog")
            assert (broken.status_code, described.json()["labels"]) == (422, ["cat", "dog"])
