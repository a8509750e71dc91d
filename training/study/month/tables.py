"""The study's figures in, its page out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from evaluation.figures.intervals import Figure
from training.study.month.photos import REPLAYED
from training.study.month.results import Contrast, Line, Study
from training.study.month.seasons import WORLDS
from training.study.month.simulation import FULL_DAYS, HELD_OUT, LABELS, PHOTOS_PER_DAY, WINDOW

_WORLDS: Final = "; ".join(f"{name}: {world}" for name, world in WORLDS.items())
_PAGE: Final = f"""\
{{model}}; {{seeds}} months of each policy, drawn from {{photos:,}} photos of validation. A figure is the
mean over the months; its brackets hold 95 % of them.

![Accuracy, gain, drift distance, labels spent and releases over a month](../images/month.png)

## What a label buys

{{policies}}

A point is a percentage point of accuracy over the whole month. Labels per point are worth no more than the
seasons, which are assumptions. **schedule**: retrain every seven days. **drift**: retrain when the
service's drift alarm would fire. **random**: label any of the latest photos. **chosen**: label first those
that the review queue keeps at sight, uncertain or unfamiliar ones.

## One thing changed at a time

{{contrasts}}

Months are compared in pairs: the same photos on the same days.

## Accuracy by season

{{seasons}}

## How it is simulated, and what that leaves out

- **Seasons.** Corruptions with their strengths: {_WORLDS}. They come in over three days and mix. They are
  of a kind from which a head on frozen features can recover a little: with noise, pixelation and
  compression instead, no policy gained anything (three months, by hand, each head trained from the
  start), since such features have lost what a head needs.
- **Photos.** {PHOTOS_PER_DAY} arrive a day; one may arrive on several days. All are of validation, on
  which the released model was calibrated and its checkpoint chosen. The test split is not used.
- **Parts.** Each month draws a quarter of the photos as the old world, for the gate, the calibration and
  the first drift reference, three eighths to measure on, and three eighths to label. No measured photo is
  ever labelled, or labelling the hard ones would make the rest look easy.
- **Model.** The head of the present model is trained further on the frozen features of all labelled
  photos so far and {REPLAYED:,} old training photos, which count a tenth each, and held near where it was
  by a penalty. That is not the fine-tuning of the whole network, which may gain more and forget more.
  Weight and penalty were chosen by eye on two other months, among ten settings that differ little.
- **Labels.** {LABELS} per retraining, of the {WINDOW:,} latest photos, right and at once. {HELD_OUT} of
  them are drawn at random, judge each new model and train none.
- **Drift.** The service's rule on the service's quantities, at the end of each day. A release makes the
  latest photos the reference, and the next alarm counts {FULL_DAYS} days later, when the window is of the
  new model.
- **Gate.** A new model is refused if McNemar's test, one-sided at 5 %, finds it worse on the old world or
  on the held-out new photos. It answers from the next day on.
- **Intervals.** Mean plus and minus 1.96 standard deviations over the months. Each month measures on
  another part of the photos, so they cover the choice of photos as well as that of labels (as
  half-samples do, McCarthy 1969). A standard error over the months would not, since all of them share one
  set of photos.
"""


def as_markdown(found: Study) -> str:
    """The page: what was found, and how it was simulated."""
    heads = "policy", "accuracy", "points above no loop", "labels", "labels per point", "releases", "refused"
    names = [line.policy for line in found.lines]
    return _PAGE.format(
        model=found.model,
        seeds=found.seeds,
        photos=found.photos,
        policies=_table(heads, [_policy(line) for line in found.lines]),
        contrasts=_table(
            ("policy", "instead of", "points", "labels", "accuracy"),
            [_contrast(one) for one in found.contrasts],
        ),
        seasons=_table(
            ("season", *names),
            [
                (season, *(f"{line.accuracy_by_season[season].value:.1%}" for line in found.lines))
                for season in found.lines[0].accuracy_by_season
            ],
        ),
    )


def _table(header: Sequence[str], rows: list[tuple[str, ...]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in (header, ["---"] * len(header), *rows))


def _policy(line: Line) -> tuple[str, ...]:
    spent = line.labels.value > 0
    return (
        line.policy,
        f"{line.accuracy.value:.2%} [{line.accuracy.low:.2%}, {line.accuracy.high:.2%}]",
        _show(line.points_gained, 2) if spent else "",
        _show(line.labels, 0),
        cost(line.points_per_100_labels) if spent else "",
        f"{line.releases.value:.1f}",
        f"{line.refusals.value:.1f}",
    )


def cost(per_100: Figure) -> str:
    """Labels per point, from the points per 100 labels; no number where a gain is not shown."""
    if not per_100.low > 0:
        return "no gain shown"
    most, value, least = (100 / points for points in (per_100.low, per_100.value, per_100.high))
    return f"{value:.0f} [{least:.0f}, {most:.0f}]"


def _contrast(one: Contrast) -> tuple[str, ...]:
    verdict = "no difference shown"
    if one.points.low > 0:
        verdict = "better"
    elif one.points.high < 0:
        verdict = "worse"
    return one.first, one.second, _show(one.points, 2, "+"), _show(one.labels, 0, "+"), verdict


def _show(figure: Figure, digits: int, sign: str = "") -> str:
    form = f"{sign}.{digits}f"
    return f"{figure.value:{form}} [{figure.low:{form}}, {figure.high:{form}}]"
