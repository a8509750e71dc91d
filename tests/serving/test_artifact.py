"""A model file is complete and verified, or it does not serve."""

from __future__ import annotations

import zipfile
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch

from serving.contract import artifact
from serving.contract.errors import ArtifactError, NotReady
from serving.runtime import torchscript
from serving.runtime.context import LocalContext
from serving.runtime.handler import ImageClassifierHandler
from tests import tiny
from tests.pictures import encode, scene


def initialise(path: Path) -> ImageClassifierHandler:
    """A handler with the artefact at `path`."""
    handler = ImageClassifierHandler()
    handler.initialize(LocalContext.for_file(path))
    return handler


def repacked(source: Path, target: Path, **members: object) -> Path:
    """A copy of an artefact with JSON members changed by `{name: function}`."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for info in old.infolist():
            data = old.read(info)
            name = Path(info.filename).stem
            if info.filename.endswith(".json") and name in members:
                content = msgspec.json.decode(data)
                data = msgspec.json.encode(members[name](content))
            new.writestr(info, data)
    return target


def test_what_was_saved_is_loaded(model: Path):
    """Card, probe and the network's own answers come back."""
    network, loaded = torchscript.load(model)
    assert loaded.card == tiny.card()
    assert len(loaded.probe) >= 6
    assert {"large.jpg", "turned.jpg", "rgba.png", "cmyk.jpg", "grey.png", "sixteen-bit.png"} == {
        image.name for image in loaded.probe
    }
    probabilities = network(torch.zeros((5, 3, tiny.SIDE, tiny.SIDE), dtype=torch.uint8))
    assert probabilities.shape == (5, 2)
    assert torch.allclose(probabilities.sum(1), torch.ones(5))


def test_the_probe_is_reproduced_within_the_tolerance(model: Path):
    """The eager model's answers, by the fused one, on every kind of picture."""
    handler = initialise(model)
    for image in handler.artifact.probe:
        answer = handler.handle([{"body": image.data}])[0]
        got = list(answer.probabilities.values())
        assert np.abs(np.array(got) - image.probabilities).max() < 1e-4


@pytest.mark.parametrize("name", ["model.pt", "model.onnx", "model-int8.onnx"])
def test_the_released_artefacts_reproduce_their_probes_on_this_machine(name: str):
    """Whatever instructions its processor has."""
    ImageClassifierHandler().initialize(LocalContext.for_file(tiny.ROOT / "models/release" / name))


def test_a_missing_file_says_how_to_get_one(tmp_path: Path):
    """The message names the path and the next step."""
    with pytest.raises(ArtifactError, match=r"no model at .*make train"):
        artifact.read(tmp_path / "model.pt")


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.999])
def test_a_truncated_file_is_refused(model: Path, tmp_path: Path, share: float):
    """Cut anywhere, it is not loaded."""
    data = model.read_bytes()
    (tmp_path / "cut.pt").write_bytes(data[: int(len(data) * share)])
    with pytest.raises(ArtifactError, match="damaged"):
        initialise(tmp_path / "cut.pt")


@pytest.mark.parametrize("where", [0.2, 0.4, 0.6, 0.8])
def test_a_flipped_bit_is_found(model: Path, tmp_path: Path, where: float):
    """One bit of the weights or the probe is enough, though the archive still opens."""
    data = bytearray(model.read_bytes())
    data[int(len(data) * where)] ^= 1
    (tmp_path / "flipped.pt").write_bytes(data)
    with pytest.raises(ArtifactError):
        initialise(tmp_path / "flipped.pt")


def test_a_model_with_other_answers_than_its_probe_is_refused(model: Path, tmp_path: Path):
    """An artificial training/serving skew."""

    def skew(probe: list[dict[str, object]]) -> list[dict[str, object]]:
        return [image | {"probabilities": image["probabilities"][::-1]} for image in probe]

    path = repacked(model, tmp_path / "skewed.pt", probe=skew)
    with pytest.raises(ArtifactError, match="does not reproduce its probe"):
        initialise(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"card": lambda c: c | {"schema_version": 99}}, "schema 99"),
        ({"card": lambda c: c | {"resize_rule": "crop"}}, "resize rule"),
        ({"card": lambda c: {k: v for k, v in c.items() if k != "labels"}}, "no valid card"),
        ({"card": lambda c: c | {"surprise": 1}}, "no valid card"),
        ({"probe": lambda _: []}, "empty probe"),
        ({"probe": lambda p: [p[0] | {"probabilities": []}]}, "does not reproduce"),
        ({"probe": lambda p: [p[0] | {"probabilities": [float("nan")] * 2}]}, "no valid probe"),
        ({"probe": lambda p: [p[0] | {"data": "AAAA"}]}, "is refused"),
    ],
)
def test_a_file_that_promises_something_else_is_refused(
    model: Path, tmp_path: Path, change: dict[str, object], message: str
):
    """Each promise of the card and the probe is checked."""
    with pytest.raises(ArtifactError, match=message):
        initialise(repacked(model, tmp_path / "changed.pt", **change))


def test_a_torchscript_file_of_another_kind_is_refused(tmp_path: Path):
    """No card, no service."""
    with torchscript.deprecation_silenced():
        torch.jit.save(torch.jit.script(torch.nn.ReLU()), tmp_path / "other.pt")
    with pytest.raises(ArtifactError, match=r"no valid card\.json"):
        artifact.read(tmp_path / "other.pt")


def test_saving_that_fails_leaves_what_was_there(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """If the disk fills up halfway, the old file stays, and nothing of the new one."""
    path = tmp_path / "model.pt"
    path.write_bytes(b"old")

    def full(_module: object, name: str, **_: object) -> None:
        Path(name).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch.jit, "save", full)
    network, loaded = torchscript.load(model)
    with pytest.raises(OSError, match="No space left"):
        torchscript.save(path, network, loaded.card, loaded.probe)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_one_bad_item_fails_alone(model: Path):
    """A batch of three with a broken one in the middle: two answers and a refusal, in order."""
    handler = initialise(model)
    good = encode(scene())
    answers = handler.handle([{"body": good}, {"body": b"no image"}, {"body": encode(scene(), "PNG")}])
    assert len(answers) == 3
    assert answers[1].error == "unsupported-image"
    for answer in (answers[0], answers[2]):
        assert answer.prediction in ("cat", "dog")
        assert answer.probability == max(answer.probabilities.values())
        assert sum(answer.probabilities.values()) == pytest.approx(1, abs=1e-5)
        assert answer.uncertain == (answer.probability < 0.8)


@pytest.mark.parametrize("max_batch", [1, 2, 4, 6])
def test_passes_of_fixed_sizes_change_no_answer(model: Path, max_batch: int):
    """Seven photos in passes of at most `max_batch`, the last one padded: as one by one."""
    photos = [{"body": encode(scene(100 + 10 * n, 80), "PNG")} for n in range(7)]
    handler = ImageClassifierHandler(max_batch=max_batch)
    handler.initialize(LocalContext.for_file(model))
    alone = [handler.handle([photo])[0] for photo in photos]
    for one, other in zip(alone, handler.handle(photos), strict=True):
        assert list(one.probabilities.values()) == pytest.approx(list(other.probabilities.values()), abs=1e-5)


def test_an_empty_batch_is_an_empty_list(model: Path):
    """A handler without a model raises an error."""
    assert initialise(model).handle([]) == []
    with pytest.raises(NotReady):
        ImageClassifierHandler().handle([{"body": b"x"}])


def test_the_description_names_what_is_served(model: Path):
    """TorchServe's describe call."""
    described = initialise(model).describe_handle()
    assert described["labels"] == ["cat", "dog"]
    assert described["name"] == "tiny"
    assert len(described["sha256"]) == 64


def test_loading_runs_no_code_of_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """A pickle that would run a command is not a TorchScript archive, and is never unpickled."""

    class Bomb:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return print, ("executed",)

    torch.save(Bomb(), tmp_path / "bomb.pt")
    with pytest.raises(ArtifactError):
        torchscript.load(tmp_path / "bomb.pt")
    assert "executed" not in capsys.readouterr().out
