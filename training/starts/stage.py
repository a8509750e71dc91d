"""`python -m training continue`: train on from the released model; keep the result if validation prefers it.

The recipe is configs/train.yaml, overridden by configs/continue.yaml. `make train` has trained from the
start; the network with the lower loss on validation after calibration becomes models/checkpoint.ckpt, with
its run and report. An interrupted training resumes, and a second call changes nothing. The figures of both
are in build/continue/starts.json.
"""

from __future__ import annotations

from training.config import TrainConfig
from training.options import parse
from training.place import Place


def main(arguments: list[str]) -> int:
    """Train from the released model, and keep the better network."""
    place = Place()
    settings = parse(
        TrainConfig,
        place.train_config,
        ["--config", str(place.continue_config), *arguments],
        command="continue",
        about=__doc__ or "",
    )
    from training.starts.choose import choose

    choose(settings, place)
    return 0
