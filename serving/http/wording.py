"""Answers and models in words: `Prediction`, `Problem` and `Card` in, text for the pages out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from serving.contract.card import Card
from serving.http.classify import Prediction
from serving.http.problems import TYPE_PREFIX, Problem

MOST_LISTED: Final = 5
"""Labels of an answer with their probability."""
GENERAL: Final = "What does the photo show?"
"""The question of a model with long or many names."""
_MOST_SURE: Final = 0.9999
_MOST_NAMED: Final = 12  # labels in a sentence
_LONGEST_QUESTION: Final = 30  # letters of the labels in it
_FEW_WRONG: Final = 0.2  # below it, one wrong answer in so many; above it, so many in ten


@dataclass(frozen=True, slots=True)
class Failed:
    """A problem as the page shows it."""

    problem: Problem

    @property
    def code(self) -> str:
        """The code, for the address of the page that describes it."""
        return self.problem.type.removeprefix(TYPE_PREFIX)


@dataclass(frozen=True, slots=True)
class Answered:
    """A prediction as the page shows it."""

    prediction: str
    """The most probable label."""
    labels: Sequence[str]
    """Of the model."""
    uncertain: bool
    unfamiliar: bool
    meaning: str
    """One or two sentences: what the probability says."""
    rows: Sequence[tuple[str, float, str]]
    """Label, probability and its text, the most probable first."""
    time: str
    """How long it took, by stage."""
    problem: None = None


def answered(prediction: Prediction, seconds: Mapping[str, float], card: Card) -> Answered:
    """Put a prediction of the model with this card into words; `seconds` is the duration of each stage."""
    listed = sorted(prediction.probabilities.items(), key=lambda item: -item[1])
    stages = ", ".join(f"{stage} {1000 * value:.1f} ms" for stage, value in seconds.items())
    return Answered(
        prediction.prediction,
        card.labels,
        prediction.uncertain,
        bool(prediction.unfamiliar),
        _meaning(prediction, card),
        [(label, probability, percent(probability)) for label, probability in listed],
        f"{prediction.latency_ms:.1f} ms in the service ({stages})",
    )


def _meaning(prediction: Prediction, card: Card) -> str:
    if prediction.unfamiliar:
        return (
            "The photo looks unlike those the model learned from. It always picks one of its classes, so its "
            "probability means little here."
        )
    says = odds(prediction.probability)
    if prediction.uncertain:
        return (
            f"The probability is below {share(card.abstain_threshold)}, where this model becomes sure. {says}"
        )
    return says


def odds(probability: float) -> str:
    """What a calibrated probability says, as a count of wrong answers."""
    if probability > _MOST_SURE:
        return "Of 10,000 answers as probable as this one, fewer than one should be wrong."
    wrong = 1 - probability
    if wrong >= _FEW_WRONG:
        return f"Of ten answers as probable as this one, about {round(10 * wrong)} should be wrong."
    digits = 1 - math.floor(math.log10(1 / wrong))  # two of them count
    return f"Of {round(1 / wrong, digits):,.0f} answers as probable as this one, about one should be wrong."


def percent(probability: float) -> str:
    """A probability as text: never 0.00 % or 100.00 %, since no model is that sure."""
    if probability > _MOST_SURE:
        return "> 99.99\N{NO-BREAK SPACE}%"
    if probability < 1 - _MOST_SURE:
        return "< 0.01\N{NO-BREAK SPACE}%"
    return share(probability)


def share(value: float) -> str:
    """A share of photos as text, on one line."""
    return f"{100 * value:.2f}\N{NO-BREAK SPACE}%"


def listed(labels: Sequence[str], word: str) -> str:
    """The classes of a model in a sentence, the last one after `word`; of many, a few."""
    few = len(labels) <= _MOST_NAMED
    *others, last = (_isolated(label) for label in (labels if few else [*labels[:2], labels[-1]]))
    return f"{'' if few else f'{len(labels):,} classes, such as '}{', '.join(others)} {word} {last}"


def _isolated(label: str) -> str:
    """A label that may be written from right to left, so that it does not turn the words around it."""
    return label if label.isascii() else f"\N{FIRST STRONG ISOLATE}{label}\N{POP DIRECTIONAL ISOLATE}"


def question(labels: Sequence[str]) -> str:
    """The page's heading: the question that the model answers, if it is short."""
    asked = listed([labels[0][:1].upper() + labels[0][1:], *labels[1:]], "or")
    return f"{asked}?" if len(asked) <= _LONGEST_QUESTION else GENERAL
