"""Labels of photos in, class numbers of a model out."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from common.errors import UserError
from evaluation.figures.intervals import Ints


class LabelError(UserError):
    """A photo's label is not a class of the model; the text names both and the next step."""


def targets(labels: Iterable[str], classes: list[str]) -> Ints:
    """`i64[N]`: the number of each label among the model's classes.

    Raises:
        LabelError: a label is not one of them.
    """
    number = {name: index for index, name in enumerate(classes)}
    try:
        return np.array([number[label] for label in labels])
    except KeyError as error:
        raise LabelError(
            f"A photo is labelled {error.args[0]!r}, but the model's classes are {', '.join(classes)}. "
            "Correct the label, or train on these photos: make train."
        ) from error
