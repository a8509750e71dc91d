"""Figures in, pictures out, in the colours of Okabe and Ito, which any colour vision distinguishes."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image, ImageOps

from common.files import atomic_file
from evaluation.figures.intervals import Floats, Ints, wilson
from evaluation.figures.metrics import expected_calibration_error, reliability

BLUE: Final = "#0072B2"
ORANGE: Final = "#D55E00"
GREY: Final = "#777777"
SERIES: Final = (BLUE, ORANGE, "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_SHORTEST_MS: Final = 0.01
_DPI: Final = 120
_PHASES: Final = ("head", "finetune")
_SIDES: Final = {"train": ORANGE, "val": BLUE}

mpl.rcParams["text.parse_math"] = False  # a dollar in the name of a class or photo is a dollar


def new_figure(width_inches: float = 5.0, height_inches: float = 4.2) -> Figure:
    """An empty figure, bound to no window and no global state."""
    figure = Figure(figsize=(width_inches, height_inches), dpi=_DPI, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save(figure: Figure, path: Path) -> Path:
    """Write a PNG, atomically; return its path."""
    with atomic_file(path) as partial:
        figure.savefig(partial, format="png")
    return path


def confusion_matrix(table: npt.NDArray[np.int64], labels: list[str], title: str) -> Figure:
    """Counts, shaded by share of the true class."""
    figure = new_figure()
    axes = figure.add_subplot()
    share = table / np.maximum(table.sum(1, keepdims=True), 1)
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    for (row, column), count in np.ndenumerate(table):
        colour = "white" if share[row, column] > 0.5 else "black"
        text = f"{count}\n{share[row, column]:.1%}"
        axes.text(column, row, text, ha="center", va="center", color=colour)
    axes.set_xticks(range(len(labels)), labels)
    axes.set_yticks(range(len(labels)), labels)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    axes.set_title(title)
    return figure


def reliability_diagram(probabilities: Floats, targets: Ints, title: str) -> Figure:
    """Accuracy against confidence with its 95 % interval, above the number of photos per bin."""
    figure = new_figure(5.0, 5.0)
    upper, lower = figure.subplots(2, 1, height_ratios=(3, 1), sharex=True)
    bins = reliability(probabilities, targets)
    upper.plot((0, 1), (0, 1), color=GREY, linestyle="--", label="perfectly calibrated")
    intervals = [wilson(round(b.accuracy * b.n), b.n) for b in bins]
    upper.errorbar(
        [b.confidence for b in bins],
        [b.accuracy for b in bins],
        yerr=np.abs(
            [(b.accuracy - i.low, i.high - b.accuracy) for b, i in zip(bins, intervals, strict=True)]
        ).T,
        fmt="o",
        capsize=3,
        color=BLUE,
        label="model, 95 % interval",
    )
    ece = expected_calibration_error(probabilities, targets)
    upper.set_ylabel("accuracy")
    upper.set_ylim(-0.02, 1.02)
    upper.set_title(f"{title}: ECE {ece:.2%}, n={len(targets)}")
    upper.legend(loc="lower right")
    lower.bar([b.confidence for b in bins], [b.n for b in bins], width=0.03, color=ORANGE)
    lower.set_yscale("log")
    lower.set_ylabel("photos")
    lower.set_xlabel("confidence (probability of the predicted class)")
    lower.set_xlim(1 / probabilities.shape[1] - 0.02, 1.02)
    return figure


def roc(probabilities: Floats, targets: Ints, labels: list[str], title: str) -> Figure:
    """One curve per class against the rest; a single curve for two classes."""
    from sklearn.metrics import roc_curve  # takes a second to import, and most commands draw no curve

    figure = new_figure()
    axes = figure.add_subplot()
    for number in [1] if len(labels) == 2 else range(len(labels)):
        false, true, _ = roc_curve(targets == number, probabilities[:, number])
        axes.plot(np.maximum(false, 1e-4), true, label=labels[number])
    axes.set_xscale("log")
    axes.set_xlabel("false positive rate (logarithmic)")
    axes.set_ylabel("true positive rate")
    axes.set_title(f"{title}, n={len(targets)}")
    axes.legend(title="positive class", loc="lower right")
    return figure


def curves(history: dict[str, list[tuple[int, float]]], title: str) -> Figure:
    """Loss and accuracy over steps, one phase after the other.

    Args:
        history: `(step, value)` by name; `{phase}_{train,val}_{loss,accuracy}` are drawn.
        title: Above both panels.
    """
    phases = [phase for phase in _PHASES if history.get(f"{phase}_train_loss")]
    figure = new_figure(9.0, 4.0)
    panels = dict(zip(("loss", "accuracy"), figure.subplots(1, 2), strict=True))
    offset = 0
    for number, phase in enumerate(phases):
        last = offset
        for side, colour in _SIDES.items():
            for kind, axes in panels.items():
                points = history.get(f"{phase}_{side}_{kind}", [])
                steps, values = [offset + step for step, _ in points], [value for _, value in points]
                axes.plot(steps, values, "o-", markersize=3, color=colour, label="" if number else side)
                last = max([last, *steps])
        for axes in panels.values():
            axes.axvline(last, color=GREY, linewidth=0.5)
            axes.annotate(phase, (last, 0.5), xycoords=("data", "axes fraction"), ha="right", rotation=90)
        offset = last
    for kind, axes in panels.items():
        axes.set_xlabel("optimiser step")
        axes.set_ylabel(f"{kind} (nats)" if kind == "loss" else kind)
        if phases:
            axes.legend()
    panels["loss"].set_yscale("log")
    figure.suptitle(title)
    return figure


def latency(client_ms: list[float], stages_ms: dict[str, list[float]]) -> Figure:
    """Share of photos served within a time: the client's whole request, and the service's stages."""
    figure = new_figure(6.0, 4.0)
    axes = figure.add_subplot()
    series = {"client, whole request": client_ms} | {f"service: {k}": v for k, v in stages_ms.items()}
    for (name, values), colour in zip(series.items(), SERIES, strict=False):
        ordered = np.maximum(np.sort(values), _SHORTEST_MS)
        axes.step(ordered, np.arange(1, len(ordered) + 1) / len(ordered), label=name, color=colour)
    axes.set_xscale("log")
    axes.set_xlabel("milliseconds (logarithmic)")
    axes.set_ylabel("share of photos within this time")
    axes.set_title(f"Latency, n={len(client_ms)}")
    axes.legend(loc="upper left")
    axes.grid(visible=True, alpha=0.3)
    return figure


def worst_mistakes(
    photos: list[Path], probabilities: Floats, targets: Ints, labels: list[str], most: int = 20
) -> Figure:
    """Thumbnails of the wrong predictions, most confident first."""
    wrong = np.flatnonzero(probabilities.argmax(1) != targets)
    order = wrong[np.argsort(-probabilities[wrong].max(1))][:most]
    answers = [f"{labels[int(probabilities[i].argmax())]} {probabilities[i].max():.1%}" for i in order]
    rows = [
        (photos[i], f"{answer}\nlabelled {labels[int(targets[i])]}")
        for i, answer in zip(order, answers, strict=True)
    ]
    return thumbnails(rows, f"Most confident mistakes: {len(order)} of {len(wrong)}, n={len(targets)}")


def thumbnails(photos: list[tuple[Path, str]], title: str) -> Figure:
    """Photos with their captions."""
    columns = 5
    rows = max(1, -(-len(photos) // columns))
    figure = new_figure(columns * 1.9, rows * 2.3 + 0.5)
    panels = np.atleast_1d(figure.subplots(rows, columns)).ravel()
    for axes in panels:
        axes.axis("off")
    for axes, (photo, caption) in zip(panels, photos, strict=False):
        axes.imshow(_thumbnail(photo))
        axes.set_title(f"{caption}\n{photo.parent.name}/{photo.name}", fontsize=7)
    figure.suptitle(title)
    return figure


def _thumbnail(path: Path) -> Any:
    with Image.open(io.BytesIO(path.read_bytes())) as image:
        return np.asarray(ImageOps.pad(ImageOps.exif_transpose(image).convert("RGB"), (160, 160)))
