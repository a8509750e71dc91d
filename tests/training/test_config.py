"""An error in the configuration names its key before anything runs."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from tests.tiny import ROOT, data_config, train_config
from training.__main__ import main


def test_the_files_are_valid_and_hold_every_value():
    """The tracked files parse; a missing value would be an error, since there are no defaults."""
    config = train_config()
    assert config.model.backbone == "compact"
    assert data_config().prepare.test_share == 0.1
    stored = yaml.safe_load((ROOT / "configs/train.yaml").read_text())
    assert stored.keys() == config.__dataclass_fields__.keys()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--finetune.ema_shar", "0.9"], ["finetune.ema_shar", "finetune.ema_share"]),
        (["--head.inverse_penalty", "-1"], ["head.inverse_penalty", "-1"]),
        (["--finetune.epochs_per_pass", "many"], ["finetune.epochs_per_pass", "many"]),
        (["--model.dropout", "1.5"], ["model.dropout", "1.5"]),
        (["--augment.crop_ratio_max", "0.5"], ["augment.crop_ratio_max", "0.5"]),
        (["--trainer.accelerator", "abacus"], ["trainer.accelerator", "abacus"]),
        (["--config", "none.yaml"], ["none.yaml"]),
    ],
)
@pytest.mark.usefixtures("workplace")
def test_a_bad_override_names_the_key(
    arguments: list[str], words: list[str], capsys: pytest.CaptureFixture[str]
):
    """Exit 2; the message has the key, the value, and the nearest known key."""
    with pytest.raises(SystemExit) as end:
        main(["fit", *arguments])
    assert end.value.code == 2
    error = capsys.readouterr().err
    for word in words:
        assert word in error


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("sead: 1\n", "sead"),
        ("model:\n  bacbone: x\n", "bacbone"),
        ("head:\n  enabled: [1, 2]\n", "enabled"),
        ("head: {enabled: true\n", "config"),
    ],
)
@pytest.mark.usefixtures("workplace")
def test_a_bad_file_names_the_key(text: str, word: str, capsys: pytest.CaptureFixture[str]):
    """Likewise for a file that overrides the default."""
    Path("mine.yaml").write_text(text)
    with pytest.raises(SystemExit) as end:
        main(["fit", "--config", "configs/train.yaml", "--config", "mine.yaml"])
    assert end.value.code == 2
    assert word in capsys.readouterr().err


@pytest.mark.usefixtures("workplace")
def test_a_missing_value_is_reported(capsys: pytest.CaptureFixture[str]):
    """No default in the code replaces it."""
    content = yaml.safe_load(Path("configs/train.yaml").read_text())
    del content["seed"]
    Path("short.yaml").write_text(yaml.safe_dump(content))
    Path("configs").unlink()
    Path("configs").mkdir()
    Path("short.yaml").rename("configs/train.yaml")
    with pytest.raises(SystemExit):
        main(["fit"])
    assert "seed" in capsys.readouterr().err


def test_an_unknown_command_lists_the_known(capsys: pytest.CaptureFixture[str]):
    """Exit 2 with the usage."""
    assert main(["trian"]) == 2
    assert "prepare" in capsys.readouterr().err


def test_configurations_are_plain_ascii():
    """They are read in the encoding of the system, whatever that is."""
    for path in (*ROOT.glob("configs/*.yaml"), ROOT / "dvc.yaml"):
        assert path.read_text(encoding="utf-8").isascii(), path
