"""The study's figures in, its picture out: five panels over the days, one style for each policy."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Picture
from matplotlib.ticker import PercentFormatter

from evaluation.figures import pictures
from evaluation.figures.intervals import Figure
from serving.contract.reference import ALARM_DISTANCE
from training.study.month.results import Line, Study
from training.study.month.seasons import DAYS, SEASONS
from training.study.month.simulation import POLICIES, Policy

_DAYS: Final = np.arange(1, DAYS + 1)
_SHADES: Final = ("#ffffff", "#eeeeee")
_LARGEST: Final = 70.0
"""Of a mark, if every month has it on that day."""


def draw(found: Study) -> Picture:
    """Accuracy, gain, drift distance, labels and releases by day, with the seasons behind them."""
    figure = pictures.new_figure(8.5, 10.0)
    panels = figure.subplots(5, 1, sharex=True, height_ratios=(4, 2.8, 2.2, 1.6, 1.8))
    accuracy, gained, distance, labels, releases = panels
    for line, policy in zip(found.lines, POLICIES, strict=True):
        style = _style(policy) | {"label": line.policy}
        _band(accuracy, line.accuracy_by_day, style)
        _band(gained, line.points_gained_by_day, style)
        _band(distance, line.distance_by_day, style)
        _band(labels, line.labels_by_day, style)
    accuracy.set_ylabel("accuracy")
    accuracy.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    accuracy.set_ylim(top=1.01)
    accuracy.legend(loc="lower left", bbox_to_anchor=(0.0, 0.07))
    figure.suptitle(f"A month of changing photos: mean of {found.seeds} simulated months; bands hold 95 %")
    gained.set_ylabel("points gained")
    distance.set_ylabel("drift distance")
    distance.axhline(ALARM_DISTANCE, color="black", linewidth=0.8, linestyle=":")
    distance.annotate("alarm above", (DAYS + 0.4, ALARM_DISTANCE), ha="right", va="bottom", fontsize=8)
    labels.set_ylabel("labels spent")
    for panel in (distance, labels):
        panel.set_ylim(bottom=0)
    _releases(releases, found.lines)
    for panel in panels:
        _seasons(panel)
    _names(accuracy)
    releases.set_xlabel("day")
    return figure


def _style(policy: Policy) -> dict[str, Any]:
    """Colour by what triggers a retraining, dashes for random photos."""
    if not (policy.every_days or policy.on_drift):
        return {"color": pictures.GREY, "linestyle": "-"}
    colour = pictures.ORANGE if policy.on_drift else pictures.BLUE
    return {"color": colour, "linestyle": "-" if policy.chosen else (0, (3, 1.5))}


def _band(axes: Axes, figures: list[Figure], style: dict[str, Any]) -> None:
    values, lows, highs = np.array([[one.value, one.low, one.high] for one in figures]).T
    axes.plot(_DAYS, values, linewidth=1.8, **style)
    axes.fill_between(_DAYS, lows, highs, color=style["color"], alpha=0.12, linewidth=0)


def _releases(axes: Axes, lines: list[Line]) -> None:
    """A row for each policy: dots for releases, crosses for refusals, as large as their share."""
    for row, (line, policy) in enumerate(zip(lines, POLICIES, strict=True)):
        colour = _style(policy)["color"]
        for shares, mark in ((line.released_by_day, "o"), (line.refused_by_day, "x")):
            axes.scatter(_DAYS, np.full(DAYS, row), s=np.array(shares) * _LARGEST, c=colour, marker=mark)
    axes.set_yticks(range(len(lines)), [line.policy for line in lines])
    for text, policy in zip(axes.get_yticklabels(), POLICIES, strict=True):
        text.set_color(_style(policy)["color"])
    axes.set_ylim(len(lines) - 0.5, -0.5)
    axes.set_title("releases (dots) and models that the gate refuses (crosses)", fontsize=9, loc="left")


def _seasons(axes: Axes) -> None:
    ends = [season.first for season in SEASONS[1:]] + [DAYS + 1]
    for place, (season, end) in enumerate(zip(SEASONS, ends, strict=True)):
        axes.axvspan(season.first - 0.5, end - 0.5, color=_SHADES[place % 2], zorder=-1)
    axes.set_xlim(0.5, DAYS + 0.5)


def _names(axes: Axes) -> None:
    """The seasons' names, at the lower edge."""
    ends = [season.first for season in SEASONS[1:]] + [DAYS + 1]
    for season, end in zip(SEASONS, ends, strict=True):
        middle = (season.first + end - 1) / 2
        axes.annotate(
            season.name, (middle, 0.02), xycoords=("data", "axes fraction"), ha="center", fontsize=8
        )
