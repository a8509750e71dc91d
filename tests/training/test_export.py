"""The artefact predicts like the checkpoint, calibrated, and is registered in MLflow."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from mlflow.tracking import MlflowClient
from PIL import Image, ImageOps

from common.errors import PipelineError
from common.files import sha256
from evaluation.figures import metrics
from serving.contract.preprocess import preprocess
from serving.runtime import torchscript
from serving.runtime.handler import ImageClassifierHandler, load_handler
from tests.pictures import encode
from tests.tiny import HEAD_ALONE, ROOT, SIDE, data_config, train_config
from tests.training.marks import LIBRARIES_WARNINGS_IGNORED
from training.__main__ import main
from training.export import artefact
from training.export.artefact import export
from training.export.graph import OPSET
from training.fit import checkpoint
from training.fit.job import Job
from training.fit.phases import fit
from training.photos.catalogue import prepare
from training.photos.drawn import draw
from training.photos.manifest import read_manifest
from training.photos.sources import fetch
from training.place import Place

pytestmark = LIBRARIES_WARNINGS_IGNORED

NAME, ALIAS = train_config().model.name, train_config().tracking.alias
IMAGES = torch.randint(
    0, 256, (4, 3, SIDE, SIDE), dtype=torch.uint8, generator=torch.Generator().manual_seed(1)
)


def client_of(place: Place) -> MlflowClient:
    """The MLflow client of a folder."""
    return MlflowClient(f"sqlite:///{place.root}/mlflow.db")


def served(path: Path) -> ImageClassifierHandler:
    """The artefact, loaded and checked by its probe as in the service."""
    return load_handler(path)


def accuracy_on_validation(handler: ImageClassifierHandler, place: Place) -> float:
    """Accuracy of the handler on the bytes of the validation split."""
    manifest = read_manifest(place)
    answers = handler.handle([{"body": p.read_bytes()} for p in manifest.splits["validation"].paths])
    right = [
        answer.prediction == manifest.labels[target]
        for answer, target in zip(answers, manifest.splits["validation"].targets, strict=True)
    ]
    return float(np.mean(right))


def test_an_export_is_calibrated_proven_and_registered(trained: Place, capsys: pytest.CaptureFixture[str]):
    """The artefact predicts like the checkpoint at its temperature; MLflow has the file and the alias."""
    export(train_config(), trained)
    assert re.search(rf"registered in MLflow as {NAME} version \d+, alias @{ALIAS}", capsys.readouterr().out)
    traced, loaded = torchscript.load(trained.model)
    network = checkpoint.read(trained.checkpoint).network()
    with torch.inference_mode():
        expected = torch.softmax(network(IMAGES) / loaded.card.temperature, 1)
        assert torch.allclose(traced(IMAGES), expected, atol=1e-5)
    client = client_of(trained)
    version = client.get_model_version_by_alias(NAME, ALIAS)
    assert version.tags["sha256"] == loaded.sha256
    run = client.get_run(loaded.card.lineage.mlflow_run_id)
    assert run.data.params["model.backbone"] == "compact"
    assert run.data.params["finetune.learning_rate"] == "0.01"
    assert run.data.params["seed"] == "17"
    assert run.data.tags.keys() >= {"git_commit", "data.manifest_sha256", "model.sha256", "best_phase"}
    assert run.data.metrics.keys() >= {
        "validation_accuracy",
        "validation_log_loss",
        "head_val_loss",
        "temperature",
    }
    files = {f.path for folder in ("", "validation") for f in client.list_artifacts(run.info.run_id, folder)}
    assert files >= {"curves.png", "validation/confusion_matrix.png", "validation/worst_mistakes.png"}


def test_an_enlarging_export_measures_the_network_that_enlarges(trained: Place):
    """From the same checkpoint: the graph enlarges its input, and the card has that network's figures."""
    export(train_config("--export.read_size", "96"), trained)
    network = checkpoint.read(trained.checkpoint).network()
    handler = served(trained.model)
    card = handler.artifact.card
    assert (card.input_size, card.read_size) == (SIDE, 96)
    assert card.version.endswith("-96px")
    with torch.inference_mode():
        enlarged = torch.nn.functional.interpolate(IMAGES.float(), (96, 96), mode="bilinear")
        expected = torch.softmax(network(enlarged) / card.temperature, 1)
        model, _ = torchscript.load(trained.model)
        assert torch.allclose(model(IMAGES), expected, atol=1e-5)
        assert model.explain(IMAGES).shape == (len(IMAGES), 2, 3, 3), "a map's side is a 32nd of what is read"
    assert card.metrics["accuracy"].value == pytest.approx(accuracy_on_validation(handler, trained))


def test_the_onnx_files_answer_like_the_torchscript_file(trained: Place):
    """The ONNX file has the same card and answers; the int8 file its own, measured on what it answers."""
    export(train_config("--export.calibration_photos", "20"), trained)
    whole, same, small = (served(path) for path in (trained.model, trained.onnx, trained.int8))
    assert same.artifact.card == whole.artifact.card
    assert same.artifact.probe == whole.artifact.probe
    photos = [{"body": p.read_bytes()} for p in read_manifest(trained).splits["validation"].paths]
    for one, other, quantised in zip(*(h.handle(photos) for h in (whole, same, small)), strict=True):
        assert other.probability == pytest.approx(one.probability, abs=1e-4)
        assert other.feature_distance == pytest.approx(one.feature_distance, abs=1e-4)
        assert abs(quantised.probability - one.probability) < 0.2
    pixels = preprocess(photos[0]["body"], SIDE)
    for label, heat in whole.explain(pixels).items():
        assert np.allclose(same.explain(pixels)[label], heat, atol=1e-3)
    card = small.artifact.card
    assert (card.precision, card.version.endswith("-int8")) == ("int8", True)
    assert card.metrics["accuracy"].value == pytest.approx(accuracy_on_validation(small, trained))
    assert card.reference.photos == len(photos)


def test_an_export_without_the_cache_writes_the_same_files(trained: Place):
    """Prototypes, int8 ranges and figures come from the same pixels."""
    written = []
    for limit in ("100", "0"):
        config = train_config("--loader.cache_limit", limit, "--export.calibration_photos", "8")
        export(config, trained)
        written.append([path.read_bytes() for path in (trained.onnx, trained.int8)])
        shutil.rmtree(trained.decoded)
    assert written[0] == written[1]


def test_every_export_of_a_run_keeps_its_files(trained: Place):
    """Two versions in MLflow, each with the files of all runtimes."""
    client, versions = client_of(trained), []
    for size in ("96", "0"):
        export(train_config("--export.read_size", size, "--export.calibration_photos", "8"), trained)
        versions.append(client.get_model_version_by_alias(NAME, ALIAS))
    assert versions[0].version != versions[1].version
    for version in versions:
        stored = Path(version.source.removeprefix("file://"))
        assert sha256(stored / "model.pt") == version.tags["sha256"]
        assert {path.name for path in stored.iterdir()} == {"model.pt", "model.onnx", "model-int8.onnx"}


def test_exporter_and_operator_set_of_the_onnx_file_are_pinned(trained: Place):
    """A newer exporter may write what older runtimes cannot read: a change is made on purpose."""
    export(train_config("--export.calibration_photos", "8"), trained)
    model = onnx.load(trained.onnx)
    assert [(one.domain, one.version) for one in model.opset_import] == [("", OPSET)]
    assert (model.ir_version, model.producer_name) == (10, "pytorch")
    assert [one.name for one in model.graph.output] == ["probabilities", "distance", "activation"]
    assert str(ROOT).encode() not in trained.onnx.read_bytes(), "the exporter notes paths of this machine"


def test_three_classes_work_from_end_to_end(tracked: Path):
    """From three folders named for animals to an artefact with three labels and probabilities."""
    place = Place(tracked)
    for label in ("Cat", "Dog", "Parrot"):
        (tracked / "pets" / label).mkdir(parents=True)
        for number in range(14):
            picture = draw("cat" if label == "Cat" else "dog", np.random.default_rng((len(label), number)))
            picture = ImageOps.invert(picture) if label == "Parrot" else picture
            (tracked / "pets" / label / f"{number}.jpg").write_bytes(encode(picture))
    fetch(data_config("--fetch.source", "pets").fetch, place)
    prepare(data_config().prepare, place)
    fit(Job.plan(train_config(*HEAD_ALONE), read_manifest(place), place))
    export(train_config(), place)
    answer = served(place.model).handle([{"body": (tracked / "pets/Dog/0.jpg").read_bytes()}])[0]
    assert list(answer.probabilities) == ["cat", "dog", "parrot"]
    assert sum(answer.probabilities.values()) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(
    ("least", "folder", "photos", "source"),
    [
        (8, "", 8, "8 photos drawn at random from production"),
        (9, "", 8, "validation"),
        (8, "street", 2, "2 photos of street"),
    ],
)
def test_enough_photos_of_production_are_the_drift_reference(
    with_production: Place, monkeypatch: pytest.MonkeyPatch, least: int, folder: str, photos: int, source: str
):
    """Of both precisions, unless the owner names a folder."""
    monkeypatch.setattr(artefact, "LEAST_PHOTOS", least)
    (with_production.root / "street").mkdir()
    for path in read_manifest(with_production).splits["validation"].paths[:2]:
        shutil.copy(path, with_production.root / "street")
    options = ("--export.reference", folder) if folder else ()
    export(train_config("--export.calibration_photos", "8", *options), with_production)
    for path in (with_production.model, with_production.int8):
        reference = served(path).artifact.card.reference
        assert (reference.photos, reference.source) == (photos, source)


def test_another_manifest_than_the_checkpoints_is_refused(trained: Place):
    """Otherwise its figures could include photos that the network was trained on."""
    data = trained.root / "data"
    data.unlink()
    place = Place(trained.root)
    fetch(data_config("--fetch.source", "sample", "--fetch.sample_per_class", "12").fetch, place)
    prepare(data_config().prepare, place)
    with pytest.raises(PipelineError, match="another manifest"):
        export(train_config(), place)


def test_ctrl_c_while_exporting_leaves_the_earlier_artefact(
    trained: Place, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """Exit 130; the old file is complete, and nothing of the new one is left."""
    trained.model.write_bytes(b"earlier")

    def interrupted(_: object, name: str, **__: object) -> None:
        Path(name).write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch.jit, "save", interrupted)
    assert main(["export"]) == 130
    assert "interrupted" in capsys.readouterr().err
    assert trained.model.read_bytes() == b"earlier"
    names = sorted(path.name for path in trained.model.parent.iterdir())
    assert names == ["checkpoint.ckpt", "model.pt", "run.json"]


def test_the_temperature_is_found():
    """The fit recovers the factor by which logits were sharpened."""
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn((20_000, 2), generator=generator, dtype=torch.float64) * 2
    targets = torch.multinomial(torch.softmax(logits, 1), 1, generator=generator)[:, 0]
    log_probabilities = torch.log_softmax(logits * 3, 1)
    assert metrics.fit_temperature(log_probabilities.numpy(), targets.numpy()) == pytest.approx(3, rel=0.05)


def test_classes_of_any_name_come_through_the_whole_line(tracked: Path):
    """Names that look like numbers, truth values or markup reach the artefact as they are."""
    labels, random = ["0", "001", "1e3", "nan", "null", "target", "true", "$x$"], np.random.default_rng(1)
    for label in labels:
        (tracked / "mine" / label).mkdir(parents=True)
        for number in range(12):
            picture = Image.fromarray(random.integers(0, 256, (SIDE, SIDE, 3), np.uint8))
            (tracked / "mine" / label / f"$$$${number}.jpg").write_bytes(encode(picture))
    place = Place(tracked)
    fetch(data_config("--fetch.source", str(tracked / "mine")).fetch, place)
    prepare(data_config().prepare, place)
    fit(Job.plan(train_config(*HEAD_ALONE), read_manifest(place), place))
    export(train_config(*HEAD_ALONE), place)
    assert served(place.model).artifact.card.labels == sorted(labels)


def test_an_option_that_the_export_does_not_use_is_refused(tracked: Path, capsys: pytest.CaptureFixture[str]):
    """The network is that of the checkpoint, whatever backbone the command line names."""
    with pytest.raises(SystemExit):
        main(["export", "--model.backbone", "resnet18"])
    assert "export does not use model.backbone, only export, tracking" in capsys.readouterr().err


def test_another_folder_is_named_instead_of_every_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """A command that is started elsewhere finds no configuration."""
    monkeypatch.chdir(tmp_path)
    assert main(["fit"]) == 2
    assert f"There is no configs/train.yaml in {tmp_path}" in capsys.readouterr().err
