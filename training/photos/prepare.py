"""`python -m training prepare`: check, group and split the raw photos; write the manifest."""

from __future__ import annotations

import json

from training.config import DataConfig
from training.options import parse
from training.place import Place


def main(arguments: list[str]) -> int:
    """Prepare as configured; print the summary."""
    place = Place()
    settings = parse(
        DataConfig, place.data_config, arguments, command="prepare", about=__doc__ or "", uses=("prepare",)
    )
    from training.photos import catalogue

    print(json.dumps(catalogue.prepare(settings.prepare, place), indent=2))
    return 0
