"""`python -m training fit`: train a head on frozen features, then the whole network; track it in MLflow."""

from __future__ import annotations

from training.config import TrainConfig
from training.options import parse
from training.place import Place


def main(arguments: list[str]) -> int:
    """Train as configured."""
    place = Place()
    settings = parse(TrainConfig, place.train_config, arguments, command="fit", about=__doc__ or "")
    from training.fit.job import Job  # loads torch: only after the options are valid
    from training.fit.phases import fit
    from training.photos.manifest import read_manifest

    fit(Job.plan(settings, read_manifest(place), place))
    return 0
