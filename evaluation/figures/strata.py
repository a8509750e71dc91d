"""Counts of answered and reviewed photos in, the accuracy of all answers out, with its interval.

The photos that people review are no fair sample of all: uncertain ones are all kept, of the rest a random
share. Each kind is a stratum with a random sample of its own, so the strata's figures, weighted by how many
photos were answered in each, give that of all without bias (stratified sampling: Cochran 1977, chapter 5).
Horvitz and Thompson (1952) would divide by the share that is drawn; here the sizes of the strata are counted,
which varies less. The plain mean over the reviewed photos would be far too low.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from evaluation.figures.intervals import Figure, weighted_mean, wilson


class Stratum(msgspec.Struct, frozen=True):
    """Counts of one kind of photo, as `GET /review/progress` has them of each model."""

    answered: int
    """All that were answered."""
    reviewed: int
    """A random sample of them that people have reviewed."""
    right: int
    """Those of the sample whose label is the prediction."""
    neither: int
    """Those of the sample that show none of the classes."""
    cannot_tell: int
    """Those of the sample of which the person could not tell."""


class Production(msgspec.Struct, frozen=True):
    """What the reviewed photos say of all that were answered."""

    accuracy: Figure
    """Share of right answers among the photos that show one of the classes, as on a test split."""
    neither: Figure
    """Share of photos that show none of the classes."""


def production(strata: Sequence[Stratum]) -> Production:
    """Estimate the figures of all answers.

    With `N` answered photos in a stratum, of whose sample `n` have a verdict and `c` show a class, `r` of
    these predicted right: accuracy = sum(N c/n * r/c) / sum(N c/n), and neither = sum(N (n - c)/n) / sum(N).
    Photos of which nobody can tell count as if they had not been drawn. Intervals are joined from those of
    the strata (`weighted_mean`); that of the accuracy takes the shares `c/n`, which are near 1, as known.

    Args:
        strata: Of one model; each answered photo is in one. A stratum without a reviewed photo makes the
            figures undefined.
    """
    told = [stratum.reviewed - stratum.cannot_tell for stratum in strata]
    shown = [n - stratum.neither for n, stratum in zip(told, strata, strict=True)]
    sizes = [float(stratum.answered) for stratum in strata]
    weights = [size * (c / n if n else 1.0) for size, c, n in zip(sizes, shown, told, strict=True)]
    rights = [wilson(stratum.right, c) for stratum, c in zip(strata, shown, strict=True)]
    others = [wilson(stratum.neither, n) for stratum, n in zip(strata, told, strict=True)]
    return Production(weighted_mean(rights, weights), weighted_mean(others, sizes))
