"""Photos with known splits in, production and test apart from what could spoil them out."""

from __future__ import annotations

from typing import Final

import pandas as pd

from common.production import PRODUCTION
from training.photos.near_duplicates import near_one_of

NEAR_TEST: Final = "near-duplicate of a test photo"
"""Why a photo of production, or one that a service has collected, is dropped."""


def isolated(
    kept: pd.DataFrame, known: pd.Series, collected: pd.Series, bits: int
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Drop what would put near-duplicates into production and another split, or change the test split.

    A photo of production, or one that a service has collected, is dropped if it is near one of test: whoever
    sends a photo of the test set with a wrong label would else have both dropped. All other photos that are
    near one of production are dropped themselves.

    Args:
        kept: Columns path, label, bytes, phash and thumbnail.
        known: Split of each photo that has one already; NaN for new photos.
        collected: Whether a service has collected the photo.
        bits: Most bits in which the hashes of near-duplicates differ.

    Returns:
        The rows kept, and the rows dropped with their reason.
    """
    dropped = []
    for reason, mine, theirs in (
        (NEAR_TEST, (known == PRODUCTION) | collected, known == "test"),
        ("near-duplicate of a production photo", known != PRODUCTION, known == PRODUCTION),
    ):
        photos = kept[mine[kept.index]]
        out = photos[near_one_of(photos, kept[theirs[kept.index]], bits)]
        dropped.append(out[["path", "label", "bytes"]].assign(reason=reason))
        kept = kept.drop(out.index)
    return kept, pd.concat(dropped)
