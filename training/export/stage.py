"""`python -m training export`: calibrate the best checkpoint and write it as models/model.pt."""

from __future__ import annotations

from typing import Final

from training.config import TrainConfig
from training.options import parse
from training.place import Place

_USES: Final = ("export", "tracking")


def main(arguments: list[str]) -> int:
    """Export as configured."""
    place = Place()
    settings = parse(
        TrainConfig, place.train_config, arguments, command="export", about=__doc__ or "", uses=_USES
    )
    from training.export.artefact import export

    export(settings, place)
    return 0
