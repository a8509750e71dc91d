"""`python -m training promote`: register a released artefact and move the alias @champion to it."""

from __future__ import annotations

import argparse
from pathlib import Path

from training.config import TrainConfig
from training.options import description, parse
from training.place import Place


def main(arguments: list[str]) -> int:
    """Promote the artefact."""
    parser = argparse.ArgumentParser(prog="python -m training promote", description=description(__doc__))
    parser.add_argument("model", type=Path, help="the artefact, such as models/release/model.pt")
    path = parser.parse_args(arguments).model
    settings = parse(TrainConfig, Place().train_config, [], command="promote", about="")
    from serving.contract import artifact
    from training import tracking

    loaded = artifact.read(path)
    card = loaded.card
    alias = "champion" if card.precision == "fp32" else f"champion-{card.precision}"
    version = tracking.promote(settings.tracking, path, card, loaded.sha256, alias)
    print(f"{card.name} version {version} is now @{alias}")
    return 0
