"""The peers, their environments, and the processor they run on."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import psutil
import pytest

from bench import installed, machine, peer, services
from tests.test_requirements import LOCKS, pins
from tests.tiny import ROOT

PEERS = ROOT / "bench/peers"
CPUINFO = """processor\t: 0
cpu family\t: 25
model\t\t: 17
model name\t: AMD EPYC
flags\t\t: fpu avx avx2 avx512f avx512_vnni

processor\t: 1
model name\t: another
flags\t\t: fpu
"""


@pytest.mark.parametrize("name", peer.PEERS)
def test_every_peer_has_its_application_and_its_requirements(name: str):
    """In the folder that the table names."""
    for file in ("app.py", "requirements.in"):
        assert (PEERS / peer.PEERS[name].folder / file).is_file()


@pytest.mark.parametrize("path", sorted(PEERS.glob("*/requirements.in")), ids=lambda path: path.parent.name)
def test_a_peer_runs_the_versions_that_ours_runs(path: Path):
    """Of torch and of ONNX Runtime: the comparison is of services."""
    ours = pins(LOCKS["torch"]) | pins(LOCKS["serve-onnx"])
    for package, version in pins(path).items():
        assert ours.get(package, version) == version


def test_a_peer_that_does_not_exist_is_named_with_those_that_do(tmp_path: Path):
    """The message is the help."""
    with pytest.raises(services.ServiceError, match=r"flask is not a peer\. Known: fastapi_threads, "):
        peer.peer("flask", tmp_path, {})


def test_a_peer_without_its_artefact_is_not_installed(tmp_path: Path):
    """A model that was exported long ago has no ONNX file."""
    with pytest.raises(services.ServiceError, match="none lies next to"):
        peer.peer("openvino", tmp_path, {})
    assert not [*tmp_path.iterdir()]


def test_the_size_of_an_environment_is_that_of_the_packages_asked_for():
    """ONNX Runtime alone is smaller than with NumPy; a package that is left out counts for nothing."""
    one = installed.contents(["onnxruntime"], [])
    assert list(one["versions"]) == ["onnxruntime"]
    both = installed.contents(["onnxruntime", "numpy"], [])
    assert 10 < one["megabytes"] < both["megabytes"]
    assert installed.contents(["onnxruntime", "numpy"], ["numpy"]) == one
    assert installed.contents(None, [])["megabytes"] > both["megabytes"]


def test_the_service_with_onnx_runtime_needs_no_torch():
    """Its size is that of the smaller lock file; neither counts CUDA."""
    ours, onnx = (services.contents(spec) for spec in (services.ours(), services.ours_with("onnx", Path())))
    assert "torch" in ours["versions"]
    assert "torch" not in onnx["versions"]
    assert onnx["megabytes"] < ours["megabytes"] < 1500


def test_the_processor_is_named_with_its_instructions(tmp_path: Path):
    """Those of the first core, of which the name alone does not say the generation."""
    path = tmp_path / "cpuinfo"
    path.write_text(CPUINFO)
    assert machine.processor(path) == "AMD EPYC (family 25, model 17)"
    assert machine.instructions(path) == "avx2, avx512f, avx512_vnni"


def test_a_processor_of_another_system_is_unknown(tmp_path: Path):
    """There is no /proc everywhere."""
    assert machine.processor(tmp_path / "none")
    assert machine.instructions(tmp_path / "none") == "unknown instructions"


class Cat(BaseHTTPRequestHandler):
    """Answers that everything is the first class."""

    def do_POST(self):
        """Read the photo and answer."""
        self.rfile.read(int(self.headers["content-length"]))
        body = json.dumps({"probabilities": {"cat": 0.9, "dog": 0.1}}).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002
        """Print nothing."""


@pytest.fixture
def cat() -> Iterator[services.Running]:
    """A service that sees cats everywhere."""
    with HTTPServer(("127.0.0.1", 0), Cat) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield services.Running(f"http://127.0.0.1:{server.server_port}/predict", 0.0, psutil.Process())
        server.shutdown()
        thread.join()


def test_a_service_that_does_not_recognise_what_ours_does_is_refused(cat: services.Running):
    """Speed counts for nothing if the answers are wrong."""
    photos = [ROOT / f"deploy/smoke/{name}.jpg" for name in ("cat", "dog")]
    cat.check_labels({photos[0]: 0})
    with pytest.raises(services.ServiceError, match=r"for dog\.jpg: another label than ours"):
        cat.check_labels(dict(zip(photos, (0, 1), strict=True)))
