"""Two artefacts and labelled photos in, a `Comparison` out.

Both predict each photo, one right after the other, so that the photo's difficulty and the machine's load
cancel out. `evaluation.artefact.compare` judges the result.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
import pandas as pd

from common.cores import map_on_cores
from common.errors import UserError
from evaluation.artefact.properties import LEAST, properties, slices_of
from evaluation.artefact.results import ComparedSlice, Comparison, Differing, Side, lost
from evaluation.artefact.targets import targets
from evaluation.figures import intervals, metrics
from serving.runtime.handler import ImageClassifierHandler, load_handler

LEVEL: Final = 0.05
"""Of the tests."""
_NEARLY_ALL: Final = 0.9
"""Share of the photos above which a slice says what the whole says."""


class CompareError(UserError):
    """The two artefacts cannot be compared; the text names the cause and the next step."""


@dataclass(frozen=True, slots=True)
class _Answers:
    """Predictions of candidate and champion, in this order."""

    probabilities: intervals.Floats
    """`f64[N,2,K]`."""
    seconds: intervals.Floats
    """`f64[N,2]`: decoding and inference."""
    kinds: pd.DataFrame
    """One row per photo, one column for each of `properties.EDGES`."""


def compare(candidate: Path, champion: Path, photos: list[tuple[Path, str]]) -> Comparison:
    """Figures of both artefacts and of their difference.

    Raises:
        CompareError: the classes differ, or a photo is refused.
        LabelError: a photo's label is not a class.
        ArtifactError: an artefact cannot be loaded.
    """
    handlers = [load_handler(candidate), load_handler(champion)]
    labels = _common_labels(handlers)
    truth = targets((label for _, label in photos), labels)
    answers = _ask(handlers, [path for path, _ in photos])
    best = answers.probabilities.argmax(2)  # [N,2]
    right = best == truth[:, None]
    new, old = right.T
    sides = [
        Side(
            **msgspec.structs.asdict(metrics.evaluate(answers.probabilities[:, side], truth, labels)),
            name=handler.artifact.card.name,
            version=handler.artifact.card.version,
            sha256=handler.artifact.sha256,
            bytes=path.stat().st_size,
        )
        for side, (handler, path) in enumerate(zip(handlers, (candidate, champion), strict=True))
    ]
    difference = intervals.paired_difference(new, old)
    p_value = intervals.mcnemar(new, old)
    new_losses, old_losses = (metrics.losses(answers.probabilities[:, side], truth) for side in (0, 1))
    slices = compared_slices(answers.kinds, right)
    times = answers.seconds[:, 0] / answers.seconds[:, 1]

    def differing(which: intervals.Flags, wrong: int) -> list[Differing]:
        """These photos, with the answer of the side that is wrong."""
        return [
            Differing(
                path=str(photos[i][0]),
                label=photos[i][1],
                answer=labels[int(best[i, wrong])],
                probability=float(answers.probabilities[i, wrong].max()),
            )
            for i in np.flatnonzero(which)
        ]

    return Comparison(
        candidate=sides[0],
        champion=sides[1],
        photos=len(photos),
        only_candidate_right=int((new & ~old).sum()),
        only_champion_right=int((~new & old).sum()),
        other_predictions=int((best[:, 0] != best[:, 1]).sum()),
        largest_change=float(np.abs(answers.probabilities[:, 0] - answers.probabilities[:, 1]).max()),
        accuracy_difference=difference,
        detectable_points=100 * intervals.detectable(new, old),
        mcnemar_p=p_value,
        significantly_worse=float(p_value < LEVEL and difference.value < 0),
        slices=slices,
        slices_worse=sum(one.worse for one in slices),
        log_loss_times=intervals.ratio_of_means(new_losses, old_losses),
        latency_times=intervals.median(times),
        bytes_times=sides[0].bytes / sides[1].bytes,
        lost=differing(~new & old, 0),
        gained=differing(new & ~old, 1),
    )


def _common_labels(handlers: list[ImageClassifierHandler]) -> list[str]:
    labels, others = (handler.artifact.card.labels for handler in handlers)
    if others != labels:
        raise CompareError(
            f"The candidate's classes are {', '.join(labels)}, the champion's {', '.join(others)}: "
            "they cannot be compared. To replace the champion all the same, run make release."
        )
    return labels


def _ask(handlers: list[ImageClassifierHandler], photos: list[Path]) -> _Answers:
    """Send every photo's bytes through both handlers."""

    def both(path: Path) -> tuple[list[list[float]], list[float], dict[str, float]]:
        data = path.read_bytes()
        rows, seconds = [], []
        kind: dict[str, float] = {}
        for handler in handlers:
            began = time.perf_counter()
            batch = handler.preprocess([{"body": data}])
            if not len(batch.inputs):
                raise CompareError(f"The handler refuses {path}. Remove or replace this photo.")
            rows.append(handler.inference(batch).probabilities[0].tolist())
            seconds.append(time.perf_counter() - began)
            kind = kind or properties(data, batch.inputs[0])
        return rows, seconds, kind

    seen = map_on_cores(both, photos, "compare")
    return _Answers(
        np.array([rows for rows, _, _ in seen]),
        np.array([seconds for _, seconds, _ in seen]),
        pd.DataFrame([kind for _, _, kind in seen]),
    )


def compared_slices(kinds: pd.DataFrame, right: intervals.Flags) -> list[ComparedSlice]:
    """Both models on each slice with enough photos, and which of them the candidate is worse on.

    Args:
        kinds: One row per photo.
        right: `b[N,2]`: candidate and champion.
    """
    judged = [
        (name, text, inside.to_numpy())
        for name, text, inside in slices_of(kinds)
        if LEAST <= inside.sum() <= _NEARLY_ALL * len(kinds)
    ]
    p_values = [intervals.mcnemar(*right[inside].T, worse=True) for _, _, inside in judged]
    worse = intervals.holm(p_values, LEVEL)
    return [
        ComparedSlice(
            property=name,
            slice=text,
            n=int(inside.sum()),
            candidate=float(right[inside, 0].mean()),
            champion=float(right[inside, 1].mean()),
            points_lost=lost(intervals.paired_difference(*right[inside].T)),
            p=p_value,
            worse=is_worse,
        )
        for (name, text, inside), p_value, is_worse in zip(judged, p_values, worse, strict=True)
    ]
