"""`python -m training audit`: rank probable wrong labels, judged by the other photos, for a person to review.

Review them with `make review-suspects`, or write your decisions into `configs/labels.csv` yourself
(`sha256,label,note`; an empty label leaves the photo out).
"""

from __future__ import annotations

from training.config import TrainConfig
from training.options import parse
from training.place import Place


def main(arguments: list[str]) -> int:
    """Audit the photos of the manifest."""
    place = Place()
    settings = parse(TrainConfig, place.train_config, arguments, command="audit", about=__doc__ or "")
    from training.study.suspects import audit

    audit(settings, place)
    return 0
