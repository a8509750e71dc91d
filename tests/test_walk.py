"""The commands of README and how-to pages, typed as they stand in a fresh clone: `make test-walk`.

What differs from a person's walk: photos are drawn, training is that of `configs/smoke.yaml`, gates are a
drawing's, the port is a free one, and two machines are two processes of one. The environment is this one,
which is not on PATH, as it is not on a person's.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pandas as pd
import pytest

from tests import flowers
from tests.test_readme import ADDRESS, README, blocks
from tests.tiny import ROOT
from training.photos import drawn

pytestmark = [pytest.mark.walk, pytest.mark.timeout(600)]

HOW_TO = ("get-started", "train", "serve", "evaluate", "watch")
PAGES = "\n".join([README, *((ROOT / f"docs/{page}.md").read_text() for page in HOW_TO)])
ELSEWHERE = {
    "make demo": "CI",
    "make test": "CI",
    "make docs": "CI",
    "make train": "fetches 0.8 GB; tests/training/test_fetch.py",
    "make compose": "needs an engine; make rehearse-compose",
    "make data-pull": "make rehearse; tests/pipeline",
    "make rename NAME=my-flowers": "tests/test_rename.py",
    "make serve RUNTIME=onnx": "tests/serving/test_runtimes.py",
    "mkdir -p feedback": "for docker run",
    ".venv/bin/python -m training fit --loader.cache_limit 20 --loader.workers 14": "tests/training",
    "make shifts": "10 minutes; tests/evaluation/test_drift.py",
    "make tune TRIALS=30": "tests/training/test_tune.py",
    "make ablation": "tests/training/test_ablation.py",
    ".venv/bin/python -m training ablation --recipes --share 1": "tests/training/test_ablation.py",
    "make torchserve": "make test-torchserve",
    "make torchserve MODEL=models/release/model.onnx": "make test-torchserve",
    ". .venv/bin/activate && cd build/torchserve": "for torchserve",
}
"""Lines that are not typed here, and what does or would."""
KEY = {"X-API-Key": "walker"}
BEGINS: tuple[str | tuple[str, ...], ...] = (
    ("curl ", "URL=", "ID="),  # tests/test_readme.py, tests/serving
    (
        "mkdir -p build",
        "MODEL=",
        "until ",
        "cp models",
        "kill -",
    ),  # tests/serving/test_process.py
    ("SERVING_FEEDBACK=", "SERVING_API_KEY="),  # the settings of test_labels_come_back
    ".venv/bin/python -m evaluation compare",  # tests/evaluation/test_compare.py; make promote
    "docker ",  # make smoke-image
    "torchserve ",  # make test-torchserve
    "make image",  # make smoke-image, make rehearse
    "DVC_REMOTE_URL=",  # make rehearse; tests/pipeline pushes and pulls
)


def commands(text: str) -> list[str]:
    """Its lines, without remarks, a continued one as one."""
    lines = (re.sub(r"(?<!\S)#.*", "", line) for line in text.replace("\\\n", " ").splitlines())
    return [" ".join(line.split()) for line in lines if line.strip()]


def _lines() -> list[str]:
    """Every command: the lines of the pages' blocks, and what the README names in its text."""
    prose = re.sub(r"```.*?```", "", README, flags=re.DOTALL)
    spans = re.findall(r"`((?:[A-Z_]+=\S+ )*(?:make|\.venv/bin/\S+) [^`]*)`", prose)
    return commands("\n".join(blocks("sh", PAGES))) + [" ".join(span.split()) for span in spans]


@dataclass
class Clone:
    """A clone of the working tree, and what was typed in it."""

    folder: Path
    port: int
    typed: set[str] = field(default_factory=set)
    jobs: list[subprocess.Popen[str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.url = f"http://127.0.0.1:{self.port}"
        hidden = str(Path(sys.executable).parent)
        names = ("PYTHONPATH", "MODEL", "DATA", "MLFLOW_TRACKING_URI", "MAKEFLAGS", "VIRTUAL_ENV")
        self.environment = {k: v for k, v in os.environ.items() if k not in names} | {
            "PATH": os.pathsep.join(p for p in os.environ["PATH"].split(os.pathsep) if p != hidden),
            "PORT": str(self.port),
            "MLFLOW_PORT": str(self.port),
            "SERVING_DRAIN_GRACE_SECONDS": "0",
        }

    def line(self, begin: str) -> str:
        """The README's one line that begins so."""
        lines = list(dict.fromkeys(_lines()))
        found = [begin] if begin in lines else [line for line in lines if line.startswith(begin)]
        assert len(found) == 1, (begin, found)
        self.typed.add(found[0])
        return found[0].replace(ADDRESS, self.url)

    def start(self, command: str) -> subprocess.Popen[str]:
        """A shell's job, in a group of its own, which ends at the first command that fails."""
        print(f"$ {command}", flush=True)
        self.jobs.append(
            subprocess.Popen(
                ["bash", "-ec", command],
                cwd=self.folder,
                env=self.environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )
        )
        return self.jobs[-1]

    def stop(self) -> None:
        """Leave nothing that was started."""
        while self.jobs:
            with self.jobs.pop() as job, suppress(ProcessLookupError):
                os.killpg(job.pid, signal.SIGKILL)

    @staticmethod
    def finish(job: subprocess.Popen[str]) -> str:
        """What it prints to its end."""
        output = job.communicate()[0]
        assert job.returncode == 0, output
        assert "Traceback" not in output, output
        return output

    def type(self, begin: str, **instead: str) -> str:
        """Type the README's line that begins so, other words `instead` of some of it."""
        command = self.line(begin)
        for old, new in instead.items():
            assert old in command, (old, command)
            command = command.replace(old, new)
        return self.finish(self.start(command))

    def type_block(self, begin: str) -> str:
        """Type the lines of the README's one block that begins so in one shell."""
        (block,) = (block for block in blocks("sh", PAGES) if block.startswith(begin))
        return self.finish(self.start("\n".join(self.line(line) for line in commands(block))))

    @contextmanager
    def serving(self, begin: str, at: str = "/health/ready", url: str = "") -> Iterator[None]:
        """What the line starts, until Ctrl-C."""
        job = self.start(self.line(begin))
        wait_for((url or self.url) + at, job)
        yield
        os.killpg(job.pid, signal.SIGINT)
        output = job.communicate(timeout=60)[0]
        assert "Traceback" not in output, output

    def ask(self, photo: Path) -> dict[str, Any]:
        """The service's answer."""
        reply = httpx.post(f"{self.url}/predict", content=photo.read_bytes(), headers=KEY, timeout=30)
        answer: dict[str, Any] = reply.raise_for_status().json()
        return answer


def wait_for(url: str, job: subprocess.Popen[str]) -> None:
    """Until it answers 200."""
    for _ in range(600):
        with suppress(httpx.TransportError):
            if httpx.get(url, timeout=5).is_success:
                return
        assert job.poll() is None, job.communicate()[0]
        time.sleep(0.1)
    pytest.fail(f"{url} does not answer")


def draw(folder: Path, labels: dict[str, str], count: int, seed: int) -> None:
    """`count` drawn pictures for each label; a label's animal is `cat`, `dog`, or a dog upside down."""
    for number, (label, animal) in enumerate(labels.items()):
        (folder / label).mkdir(parents=True)
        for index in range(count):
            picture = drawn.draw(animal.removeprefix("-"), np.random.default_rng((seed, number, index)))
            if animal.startswith("-"):
                picture = picture.rotate(180)
            (folder / label / f"{index}.jpg").write_bytes(drawn.encode(picture, 90))


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Clone:
    """The tracked files as they are now, committed in a repository of their own, with drawn photos."""
    folder = tmp_path_factory.mktemp("clone")
    names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    for name in filter(None, names.stdout.split("\0")):
        if (ROOT / name).exists():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)  # with its time: the environment is as old as its files
    (folder / ".venv").symlink_to(Path(sys.executable).parent.parent)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        clone = Clone(folder, free.getsockname()[1])
    short = "-m training fit --config configs/train.yaml --config configs/smoke.yaml --print_config"
    config = subprocess.run(
        [sys.executable, *short.split()], cwd=folder, capture_output=True, text=True, check=True
    )
    (folder / "configs/train.yaml").write_text(config.stdout)
    gates = (folder / "configs/gates.yaml").read_text()
    for name, bound in {
        "accuracy_min": 0.6,
        "lowest_recall_min": 0.3,
        "ece_max": 0.5,
        "points_lost_max": 20,
        "difference_to_test_min": -0.9,
        "slow_share_max": 0.1,
    }.items():
        gates, count = re.subn(rf"{name}: \S+", f"{name}: {bound}", gates)
        assert count, name
    (folder / "configs/gates.yaml").write_text(gates)
    outside = folder / "path/to"
    draw(outside / "labelled", {"cat": "cat", "dog": "dog"}, 60, 1)
    draw(outside / "PetImages", {"Cat": "cat", "Dog": "dog"}, 60, 2)
    shutil.make_archive(str(outside / "cats-and-dogs"), "zip", outside, "PetImages")
    shutil.copytree(outside / "labelled", folder / "photos")
    draw(outside / "folder", {"Cat": "cat", "Dog": "dog", "bat": "-dog"}, 60, 3)
    for command in (
        "init --quiet",
        "config user.name walker",
        "config user.email walker@localhost",
        "add -A -- . :!path :!photos",
        "commit --quiet -m Clone",
    ):
        subprocess.run(["git", *command.split()], cwd=folder, check=True)
    return clone


@pytest.fixture
def clone(repository: Clone) -> Iterator[Clone]:
    """As the test before left it."""
    yield repository
    repository.stop()


def test_a_zip_is_trained_on(clone: Clone):
    """To the end; the experiments can then be looked at, compared and shown."""
    output = clone.type("make train DATA=path/to/folder", folder="cats-and-dogs.zip")
    assert "validation: accuracy" in output
    assert "accuracy" in clone.type(".venv/bin/dvc metrics diff")
    clone.type(".venv/bin/dvc plots show")
    assert clone.type("make evaluate").strip()
    with clone.serving("make mlflow", "/health"):
        pass


def test_the_trained_model_is_exported_released_and_promoted(clone: Clone):
    """Each with its gates."""
    clone.type("make slices MODEL=models/model.pt")
    subprocess.run(["make", "export", "evaluate"], cwd=clone.folder, env=clone.environment, check=True)
    clone.type("make release")
    assert "@champion" in clone.type("make promote LABELLED=path/to/labelled")


def test_the_labels_are_audited(clone: Clone):
    """A page of suspects."""
    clone.type("make audit")
    assert (clone.folder / "build/audit/suspects.html").exists()


def test_the_service_is_used_and_judged(clone: Clone):
    """By labelled photos; a shadow answers too."""
    with clone.serving("SERVING_SHADOW_MODEL=models/model.pt make serve"):
        output = clone.type("make evaluate-live URL=http://127.0.0.1:8000 LABELLED=path/to/labelled")
        assert "accuracy" in output
        assert "No drift" in clone.type("make drift URL=http://127.0.0.1:8000")
    assert "SERVING_QUEUE" in clone.type(".venv/bin/python -m serving --help")
    clone.type("make help")


def test_a_folder_is_answered(clone: Clone):
    """A row for each photo."""
    clone.type("make score IN=photos OUT=answers.parquet")
    assert len(pd.read_parquet(clone.folder / "answers.parquet")) == 120


def test_labels_come_back(clone: Clone, monkeypatch: pytest.MonkeyPatch):
    """An answer, what was right, and the export."""
    settings = {"FEEDBACK": "feedback.db", "FEEDBACK_PHOTOS": "true", "API_KEY": KEY["X-API-Key"]}
    for name, value in settings.items():
        monkeypatch.setitem(clone.environment, f"SERVING_{name}", value)
    with clone.serving("make serve MODEL=models/model.pt"):
        answer = clone.ask(clone.folder / "photos/cat/0.jpg")
        label = {"request_id": answer["request_id"], "label": "cat"}
        httpx.post(f"{clone.url}/feedback", json=label, headers=KEY).raise_for_status()
    clone.type(".venv/bin/python -m serving export-feedback feedback.db labelled")
    assert len(list((clone.folder / "labelled/cat").iterdir())) == 1


def test_a_grid_is_searched(clone: Clone):
    """Three runs, kept and compared."""
    subprocess.run(["git", "add", "-A", "--", ".", ":!path", ":!photos"], cwd=clone.folder, check=True)
    subprocess.run(["git", "commit", "-qm", "Trained"], cwd=clone.folder, check=True)
    table = clone.type_block(". .venv/bin/activate")
    assert all(rate in table for rate in ("0.0001", "0.0002", "0.0004")), table


def test_training_takes_other_values(clone: Clone):
    """From the command line, without DVC."""
    clone.type(".venv/bin/python -m training fit --finetune.learning_rate 3e-5")
    clone.type(".venv/bin/python -m training fit --class_balance 0.5")
    clone.type(".venv/bin/python -m training fit --config configs/train.yaml --config configs/fast.yaml")


def test_training_is_spread(clone: Clone):
    """Over two devices, and over two machines."""
    clone.type(".venv/bin/python -m training fit --trainer.devices 2")
    command = clone.line(".venv/bin/torchrun --nnodes 2")
    for old, new in {"HOST": "127.0.0.1", "--nproc-per-node 4": "--nproc-per-node 1"}.items():
        assert old in command
        command = command.replace(old, new)
    command = command.replace("--trainer.devices 4", "--trainer.devices 1")
    outputs = [clone.finish(job) for job in [clone.start(command) for _ in range(2)]]
    assert sum("validation: accuracy" in output for output in outputs) == 1, outputs


def test_three_classes_of_ones_own_work_to_the_end(clone: Clone):
    """Trained, served, and each answered as what it is."""
    clone.type("make train DATA=path/to/folder")
    with clone.serving("make serve MODEL=models/model.pt"):
        assert "bat" in httpx.get(clone.url).text
        draw(clone.folder / "own", {"cat": "cat", "dog": "dog", "bat": "-dog"}, 5, 4)
        right = 0
        for photo in (clone.folder / "own").rglob("*.jpg"):
            answer = clone.ask(photo)
            assert answer["probabilities"].keys() == {"bat", "cat", "dog"}
            right += answer["prediction"] == photo.parent.name
    assert right >= 12, right


def test_a_fresh_clone_serves(clone: Clone):
    """The first command, and on another port."""
    with clone.serving("make serve PORT=9000", url="http://127.0.0.1:9000"):
        pass
    with clone.serving("make serve"):
        pass


def test_no_command_of_the_readme_was_left_out(clone: Clone):
    """Typed here, or named with who types it."""
    left = [
        line
        for line in _lines()
        if line not in clone.typed and line not in ELSEWHERE and not any(map(line.startswith, BEGINS))
    ]
    assert left == []


def test_the_whole_way_of_a_stranger(clone: Clone):
    """Flowers in twelve uneven folders named by numbers, with what phones and computers leave among them."""
    outside = clone.folder / "path/to"
    flowers.write(outside / "flowers")
    output = clone.type("make train DATA=path/to/folder", folder="flowers")
    assert "left out: 2 system files" in output
    assert "HEIC photo, not supported" in output
    assert "validation: accuracy" in output
    wild = flowers.write(outside / "wild", seed=12)
    (wild / "04/IMG_9001.HEIC").unlink()
    (wild / "05/IMG_9002.JPG").unlink()
    with clone.serving("make serve MODEL=models/model.pt"):
        assert "11 or 12" in httpx.get(clone.url).text
        assert clone.ask(wild / "03/saved.webp")["probabilities"].keys() == {f"{k:02}" for k in range(1, 13)}
        heic = httpx.post(f"{clone.url}/predict", content=(outside / "flowers/04/IMG_9001.HEIC").read_bytes())
        assert "HEIC" in heic.json()["detail"]
        right = [p for p in sorted(wild.rglob("*.JPG")) if clone.ask(p)["prediction"] == p.parent.name]
        smoke = clone.folder / "build/smoke"
        smoke.mkdir(parents=True)
        for photo in {photo.parent.name: photo for photo in right}.values():
            shutil.copy(photo, smoke / f"{photo.parent.name}.jpg")
        validate = "python3 deploy/deploy.py validate --ready-seconds 5 --url"
        command = f"SMOKE={smoke} {validate} {clone.url}"
        assert "predicts correctly" in clone.finish(clone.start(command))
        judged = clone.type(
            "make evaluate-live URL=http://127.0.0.1:8000 LABELLED=path/to/labelled MODEL=models/model.pt",
            labelled="wild",
        )
        assert "recall of 12" in judged
        assert "No drift" in clone.type("make drift URL=http://127.0.0.1:8000")
