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

    summary = catalogue.prepare(settings.prepare, place)
    print(json.dumps(summary, indent=2))
    if summary["dropped"]:
        print(f"{place.dropped} names each file that was dropped, with the reason")
    if became := catalogue.of_last_batch(place):
        print(became)
    return 0
