"""`python -m evaluation rates`: how often do right and wrong models pass the gates, by the number of photos?

The model and wrong versions of it predict each photo of validation once. Sets of photos are then drawn, and
each set is judged by the gates of `configs/gates.yaml` as a live evaluation or a comparison would.
"""

from __future__ import annotations

import argparse
import copy
import io
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import pandas as pd
import torch
from PIL import Image, ImageOps

from common.cores import map_on_cores
from common.errors import UserError
from common.files import write_json, write_text
from common.manifest import labelled, read_split
from evaluation.artefact.comparison import LEVEL, compared_slices
from evaluation.artefact.properties import properties
from evaluation.artefact.results import Comparison, GateRate, GateRates, lost, worst_slice
from evaluation.artefact.targets import targets
from evaluation.figures import gates, intervals
from evaluation.figures.intervals import Figure, Floats, Ints
from evaluation.ledger import Model
from evaluation.service.results import Consistency, Live
from serving.contract.artifact import PROBE_TOLERANCE
from serving.contract.preprocess import DecodedImage
from serving.runtime import torchscript
from serving.runtime.handler import ImageClassifierHandler, load_handler
from serving.runtime.torchscript import one_thread

SIZES: Final = (50, 125, 200, 500, 1000)
"""Photos in a set."""
_NOISE: Final = 0.1
"""Standard deviation of the noise in the weights, relative to that of each tensor's weights."""
_RIGHT: Final = "the model itself"
_KINDS: Final = ("live", "live, compared with the artefact", "promotion")


class RatesError(UserError):
    """The study cannot be run; the text names the cause and the next step."""


@dataclass(frozen=True, slots=True)
class _Live:
    """The numbers of a live evaluation that a model decides; speed and refusals do not depend on it."""

    accuracy: Figure
    difference_to_test: Figure
    same_model: float
    times_allowed: float
    other_answers: int


@dataclass(frozen=True, slots=True)
class _Promotion:
    """The numbers of a comparison that predictions decide, but for log loss and calibration."""

    points_lost: Figure
    significantly_worse: float
    slices_worse: int
    slice_points_lost: Figure


@dataclass(frozen=True, slots=True)
class _Gates:
    """The gates that predictions decide."""

    live: gates.Gates[Any]
    consistency: gates.Gates[Any]
    promotion: gates.Gates[Any]

    @classmethod
    def read(cls, path: Path) -> _Gates:
        """From the file, without those of speed, refusals, size, log loss and calibration."""
        return cls(
            _limits("live", Live, _Live, path),
            _limits("consistency", Consistency, _Live, path),
            _limits("promotion", Comparison, _Promotion, path),
        )


@dataclass(frozen=True, slots=True)
class _Predicted:
    """One model's predictions of all photos, next to those of the model that is right."""

    name: str
    right: intervals.Flags
    """`b[N,2]`: this model and the right one."""
    times_allowed: Floats
    """`f64[N]`: largest difference of a probability, relative to the one allowed."""
    other_answer: intervals.Flags
    """`b[N]`."""

    def judge(self, chosen: Ints, kinds: pd.DataFrame, test: Figure, limits: _Gates) -> list[gates.Outcome]:
        """Outcomes of the live gates, of these with the comparison, and of the promotion gates."""
        new, old = self.right[chosen].T
        accuracy = intervals.wilson(int(new.sum()), len(chosen))
        live = _Live(
            accuracy,
            intervals.difference(accuracy, test),
            float(self.name == _RIGHT),
            float(self.times_allowed[chosen].max()),
            int(self.other_answer[chosen].sum()),
        )
        difference = intervals.paired_difference(new, old)
        slices = compared_slices(kinds.iloc[chosen], self.right[chosen])
        promotion = _Promotion(
            lost(difference),
            float(intervals.mcnemar(new, old) < LEVEL and difference.value < 0),
            sum(kind.worse for kind in slices),
            worst_slice(slices),
        )
        alone = limits.live.judge(live)
        verdicts = (alone, [*alone, *limits.consistency.judge(live)], limits.promotion.judge(promotion))
        return [gates.overall(some) for some in verdicts]


def _limits(section: str, result: type, numbers: type, path: Path) -> gates.Gates[Any]:
    """The limits of a section that are on numbers of the simulation."""
    limits = gates.read_gates(section, result, path).limits
    simulated = set(numbers.__annotations__)
    return gates.Gates(
        {gate: limit for gate, limit in limits.items() if gate.rpartition("_")[0] in simulated}
    )


def _wrong_models(
    handler: ImageClassifierHandler, path: Path, data: list[bytes], right: Floats
) -> dict[str, Floats]:
    """`f64[N,K]` of each wrong version of the model, by name."""
    size = handler.artifact.card.input_size
    module, _ = torchscript.load(path)

    def resized(content: bytes) -> list[float]:
        with Image.open(io.BytesIO(content)) as image:
            small = ImageOps.exif_transpose(image).convert("RGB")
            side = min(small.size)
            square = ImageOps.fit(small, (side, side), Image.Resampling.NEAREST)
            pixels = np.asarray(square.resize((size, size), Image.Resampling.NEAREST))
        return _predict(module, pixels.transpose(2, 0, 1).copy())

    noisy = copy.deepcopy(module)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weights in noisy.parameters():
            if weights.ndim > 1:
                noise = torch.randn(weights.shape, generator=generator)
                weights.add_(_NOISE * weights.std() * noise)

    def with_noise(content: bytes) -> list[float]:
        image = handler.preprocess([{"body": content}]).images[0]
        if not isinstance(image, DecodedImage):
            raise image
        return _predict(noisy, image.pixels)

    return {
        "swapped labels": np.roll(right, 1, axis=1),
        "another resize (centre crop, nearest neighbour)": _ask(resized, data, "another resize"),
        "noise in the weights": _ask(with_noise, data, "noise in the weights"),
    }


def _predict(module: torch.jit.ScriptModule, pixels: np.ndarray) -> list[float]:
    with torch.inference_mode():
        found: list[float] = module(torch.from_numpy(pixels)[None])[0].tolist()
    return found


def _ask(predict: Callable[[bytes], list[float]], data: list[bytes], title: str) -> Floats:
    return np.array(map_on_cores(predict, data, title, initializer=one_thread))


def _of_handler(handler: ImageClassifierHandler) -> Callable[[bytes], list[float]]:
    def predict(content: bytes) -> list[float]:
        batch = handler.preprocess([{"body": content}])
        found: list[float] = handler.inference(batch).probabilities[0].tolist()
        return found

    return predict


def study(
    model: Path, others: list[Path], photos: list[tuple[Path, str]], draws: int, path: Path
) -> GateRates:
    """Judge `draws` sets of each size, for each model.

    Args:
        model: The artefact that is right.
        others: Other artefacts to judge, such as an older release.
        photos: Labelled photos to draw from.
        draws: Sets of each size.
        path: The gates.

    Raises:
        RatesError: there are too few photos, or another artefact has other classes.
    """
    if len(photos) < SIZES[0]:
        raise RatesError(f"{len(photos)} photos are too few to draw {SIZES[0]} from. Add photos: make data.")
    limits = _Gates.read(path)  # first: a wrong file is an error at once
    handler = load_handler(model)
    card = handler.artifact.card
    truth = targets((label for _, label in photos), card.labels)
    data = [photo.read_bytes() for photo, _ in photos]
    right = _ask(_of_handler(handler), data, _RIGHT)
    models = {_RIGHT: right} | _wrong_models(handler, model, data, right)
    for other in others:
        loaded = load_handler(other)
        if loaded.artifact.card.labels != card.labels:
            raise RatesError(f"{other} has other classes than {model}. Leave it out.")
        models[f"{loaded.artifact.card.name} {loaded.artifact.card.version}"] = _ask(
            _of_handler(loaded), data, str(other)
        )
    pixels = [handler.preprocess([{"body": content}]).inputs[0] for content in data]
    kinds = pd.DataFrame([properties(content, one) for content, one in zip(data, pixels, strict=True)])
    test = Figure(**msgspec.structs.asdict(card.metrics["accuracy"]))
    rows: list[GateRate] = []
    for name, probabilities in models.items():
        predicted = _Predicted(
            name,
            np.stack([probabilities.argmax(1) == truth, right.argmax(1) == truth], 1),
            np.abs(probabilities - right).max(1) / PROBE_TOLERANCE[card.precision],
            probabilities.argmax(1) != right.argmax(1),
        )
        for size in (one for one in SIZES if one <= len(photos)):
            draw = partial(_draw, predicted, kinds, test, limits, size)
            outcomes = np.array(map_on_cores(draw, range(draws), f"{name}, n={size}"))
            rows += [
                GateRate(
                    model=name,
                    accuracy=_share(predicted.right[:, 0]),
                    gates=kind,
                    n=size,
                    passes=_share(outcomes[:, k] == gates.Outcome.PASS),
                    fails=_share(outcomes[:, k] == gates.Outcome.FAIL),
                )
                for k, kind in enumerate(_KINDS)
            ]
    return GateRates(Model.of(handler.artifact), draws, len(photos), rows)


def _draw(
    predicted: _Predicted, kinds: pd.DataFrame, test: Figure, limits: _Gates, size: int, seed: int
) -> list[gates.Outcome]:
    chosen = np.random.default_rng((size, seed)).choice(len(predicted.right), size, replace=False)
    return predicted.judge(chosen, kinds, test, limits)


def _share(flags: intervals.Flags) -> Figure:
    return intervals.wilson(int(flags.sum()), len(flags))


def as_markdown(found: GateRates) -> str:
    """A table for each kind of gates: passes and failures, in per cent, by number of photos."""
    about = (
        f"{found.model.name} {found.model.version}; {found.draws:,} draws a cell from {found.photos:,} "
        f"validation photos. Each cell: passes / fails, in per cent of the draws; in the rest, too few "
        f"photos to tell."
    )
    lines = [about]
    sizes = sorted({row.n for row in found.rows})
    for kind in dict.fromkeys(row.gates for row in found.rows):
        header = " | ".join(f"n = {size:,}" for size in sizes)
        lines += ["", f"## Gates: {kind}", "", f"| model | accuracy | {header} |"]
        lines.append("| --- " * (2 + len(sizes)) + "|")
        for name in dict.fromkeys(row.model for row in found.rows):
            own = [row for row in found.rows if row.model == name and row.gates == kind]
            cells = [f"{100 * row.passes.value:.1f} / {100 * row.fails.value:.1f}" for row in own]
            lines.append(f"| {name} | {own[0].accuracy.value:.2%} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main(options: argparse.Namespace) -> int:
    """Run the study and write it; return 0."""
    photos = labelled(read_split(options.manifest, "validation"), options.raw)
    found = study(options.model, options.other, photos, options.draws, options.gates)
    text = as_markdown(found)
    write_json(options.out / "rates.json", msgspec.to_builtins(found))
    write_text(options.out / "table.md", text + "\n")
    print(text)
    return 0
