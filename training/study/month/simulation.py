"""One month under one policy: photos arrive, are answered and measured; labels are bought, models released.

A seed divides the photos into three parts, the same for each policy. Those of the old world judge each new
model, as taken, and make the first drift reference. The others arrive: on one part the accuracy is measured,
from the rest photos are labelled. So no measured photo was ever labelled, and labelling the hard ones does
not make the rest look easy.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt

from evaluation.figures import intervals, metrics
from evaluation.figures.intervals import Flags, Floats, Ints
from serving.contract import reference
from serving.contract.reference import CONFIDENCE, PREDICTION
from training.study.month.head import Head
from training.study.month.photos import Photos
from training.study.month.seasons import DAYS, shares

PHOTOS_PER_DAY: Final = 400
WINDOW: Final = 1000
"""Latest photos that are compared with the reference, as `SERVING_DRIFT_WINDOW` has it."""
LABELS: Final = 80
"""Labels per retraining."""
HELD_OUT: Final = 20
"""Those of them that are drawn at random, judge each new model and train none."""
_OLD_WEIGHT: Final = 0.1
"""What an old training photo counts, next to a labelled one."""
LEVEL: Final = 0.05
"""Of each test of the gate, one-sided."""
_OLD: Final = 0.25
_MEASURED: Final = 0.375
"""Shares of the photos; the rest may be labelled."""
FULL_DAYS: Final = -(-WINDOW // PHOTOS_PER_DAY)
"""Until the photos of a window are all new."""

At = tuple[Ints, Ints]
"""Photos: for each, the number of its world and its own."""


@dataclass(frozen=True, slots=True)
class Policy:
    """When a model is retrained, and on which photos."""

    name: str
    every_days: int = 0
    """Days between two retrainings; 0 for no schedule."""
    on_drift: bool = False
    """Retrain at the end of a day on which a quantity has drifted, if the window is of one model."""
    chosen: bool = False
    """Label uncertain and unfamiliar photos first, as the review queue keeps them; else any."""


NO_LOOP: Final = Policy("no loop")
POLICIES: Final = (
    NO_LOOP,
    Policy("schedule, random", every_days=7),
    Policy("schedule, chosen", every_days=7, chosen=True),
    Policy("drift, random", on_drift=True),
    Policy("drift, chosen", on_drift=True, chosen=True),
)


@dataclass(frozen=True, slots=True)
class Chance:
    """What a seed decides, the same for each policy."""

    seed: int
    old: Ints
    """Numbers of the photos of the old world."""
    measured: Ints
    """Numbers of the photos on which the accuracy is measured."""
    labelling: Flags
    """`b[N]`: which photos may be labelled."""
    worlds: Ints
    """`i[days,P]`: the world of each photo that arrives, from `FULL_DAYS` days before the first."""
    numbers: Ints
    """`i[days,P]`: its number."""

    @classmethod
    def draw(cls, photos: int, seed: int) -> Chance:
        """Divide `photos` photos into parts, and let them arrive."""
        random = np.random.default_rng(seed)
        ends = [round(_OLD * photos), round((_OLD + _MEASURED) * photos)]
        old, measured, rest = np.split(random.permutation(photos), ends)
        arriving = np.concatenate([measured, rest])
        size = min(PHOTOS_PER_DAY, len(arriving))
        mixtures = [shares(day) for day in range(1 - FULL_DAYS, DAYS + 1)]
        return cls(
            seed=seed,
            old=old,
            measured=measured,
            labelling=np.isin(np.arange(photos), rest),
            worlds=np.stack([random.choice(len(mixture), size, p=mixture) for mixture in mixtures]),
            numbers=np.stack([random.choice(arriving, size, replace=False) for _ in mixtures]),
        )

    def window(self, day: int) -> At:
        """The latest photos at the end of a day."""
        until = FULL_DAYS + day
        return self.worlds[:until].ravel()[-WINDOW:], self.numbers[:until].ravel()[-WINDOW:]


@dataclass(slots=True)
class Month:
    """What happened, day by day."""

    accuracy: list[float] = field(default_factory=list)
    """Of the day's answers."""
    distance: list[float] = field(default_factory=list)
    """Largest drift distance of a quantity at the end of the day."""
    labels: list[int] = field(default_factory=list)
    """Labels spent by the end of the day."""
    released: list[int] = field(default_factory=list)
    """Days that end with a new model."""
    refused: list[int] = field(default_factory=list)
    """Days that end with one that the gate refuses."""


class Loop:
    """The model that answers, what its photos are compared with, and the labels so far."""

    def __init__(self, photos: Photos, chance: Chance) -> None:
        """Start with the released model on the photos of the month and the chance of a seed."""
        self._photos, self._chance, self._head = photos, chance, photos.released
        self._random = np.random.default_rng((chance.seed, 1))
        self._held_out = self._training = np.empty((0, 3), int)  # world, number and label of each photo
        self._old = np.zeros_like(chance.old), chance.old
        self.answers = self._head.probabilities(photos.features)  # [W,N,K]
        self._take_as_reference(self._old)

    @property
    def labelled(self) -> Ints:
        """Numbers of the photos that have a label."""
        return np.concatenate([self._held_out, self._training])[:, 1]

    def _take_as_reference(self, normal: At) -> None:
        columns = self._quantities(normal)
        rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        self._reference = reference.make_reference(rows, self.answers.shape[2])

    def _quantities(self, at: At) -> dict[str, npt.NDArray[np.float64]]:
        """`f64[N]` by name: what the service measures of these photos and of its answers."""
        answers = self.answers[at]
        own = {CONFIDENCE: answers.max(1).astype(float), PREDICTION: answers.argmax(1).astype(float)}
        return {name: values[at] for name, values in self._photos.quantities.items()} | own

    def accuracy(self, day: int) -> float:
        """Share of right answers to the measured photos, in the mixture of worlds of the day."""
        measured = self._chance.measured
        right = self.answers[:, measured].argmax(2) == self._photos.targets[measured]
        return float(shares(day) @ right.mean(1))

    def drifts(self, day: int) -> list[reference.Drift]:
        """Distance and test of each quantity at the end of a day."""
        return list(reference.drifts(self._reference, self._quantities(self._chance.window(day))).values())

    def photos_to_label(self, day: int, *, chosen: bool) -> At:
        """Some of the latest photos that have no label: `HELD_OUT` of them at random, then the others."""
        worlds, numbers = self._chance.window(day)
        waiting = np.flatnonzero(self._chance.labelling[numbers] & ~np.isin(numbers, self.labelled))
        once = waiting[np.unique(numbers[waiting], return_index=True)[1]]
        order = self._random.permutation(once)
        if chosen:
            at = worlds[order], numbers[order]
            kept = self.answers[at].max(1) < self._photos.uncertain_below
            kept |= self._photos.quantities["feature_distance"][at] > self._photos.unfamiliar_above
            kept[:HELD_OUT] = True
            order = order[np.argsort(~kept, kind="stable")]
        return worlds[order[:LABELS]], numbers[order[:LABELS]]

    def retrain(self, day: int, at: At, labels: Ints) -> bool:
        """Train a head on old photos and all labels so far; release it if the gate holds.

        Args:
            day: At whose end this happens.
            at: The photos that were labelled, in the order of `photos_to_label`.
            labels: `i[N]`, what people say of them.

        Returns:
            Whether it is released.
        """
        told = np.stack([*at, labels], 1)
        self._held_out = np.concatenate([self._held_out, told[:HELD_OUT]])
        self._training = np.concatenate([self._training, told[HELD_OUT:]])
        head = self._fitted()
        answers = head.probabilities(self._photos.features)
        if not self._holds(answers):
            return False
        self._head, self.answers = head, answers
        self._take_as_reference(self._chance.window(day))
        return True

    def _fitted(self) -> Head:
        """The present head retrained, and calibrated on the old world's photos."""
        photos = self._photos
        worlds, numbers, labels = self._training.T
        head = self._head.retrained(
            np.concatenate([photos.replay, photos.features[worlds, numbers]]),
            np.concatenate([photos.replay_targets, labels]),
            np.concatenate([np.full(len(photos.replay), _OLD_WEIGHT), np.ones(len(labels))]),
        )
        logits = head.logits(photos.features[self._old])
        return head.divided(metrics.fit_temperature(logits, photos.targets[self._old[1]]))

    def _holds(self, answers: Floats) -> bool:
        """Whether a new model is not worse, on the old world's photos and on the held-out new ones."""
        for worlds, numbers, labels in (
            (*self._old, self._photos.targets[self._old[1]]),
            self._held_out.T,
        ):
            new, now = (found[worlds, numbers].argmax(1) == labels for found in (answers, self.answers))
            if intervals.mcnemar(new, now, worse=True) < LEVEL:
                return False
        return True


def simulate(photos: Photos, policy: Policy, chance: Chance) -> Month:
    """Live through the month."""
    loop, month, spent, judged_from = Loop(photos, chance), Month(), 0, 1
    for day in range(1, DAYS + 1):
        month.accuracy.append(loop.accuracy(day))
        drifts = loop.drifts(day)
        month.distance.append(max(drift.distance for drift in drifts))
        drifted = day >= judged_from and any(reference.alarms(drift.distance, drift.z) for drift in drifts)
        scheduled = policy.every_days and day % policy.every_days == 0
        if scheduled or (policy.on_drift and drifted):
            judged_from = day + FULL_DAYS
            at = loop.photos_to_label(day, chosen=policy.chosen)
            spent += len(at[1])
            released = loop.retrain(day, at, photos.targets[at[1]])
            (month.released if released else month.refused).append(day)
        month.labels.append(spent)
    return month
