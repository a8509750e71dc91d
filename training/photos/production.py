"""Photos with known splits in, production apart from all others out: nothing near it is trained on."""

from __future__ import annotations

import pandas as pd

from common.production import PRODUCTION
from training.photos.near_duplicates import near_one_of


def isolated(kept: pd.DataFrame, known: pd.Series, bits: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Drop what would put near-duplicates into production and another split.

    The test split does not change, so a photo of production that is near one of test is dropped. All other
    photos that are near one of production are dropped themselves.

    Args:
        kept: Columns path, label, bytes, phash and thumbnail.
        known: Split of each photo that has one already; NaN for new photos.
        bits: Most bits in which the hashes of near-duplicates differ.

    Returns:
        The rows kept, and the rows dropped with their reason.
    """
    dropped = []
    for reason, mine, theirs in (
        ("near-duplicate of a test photo", known == PRODUCTION, known == "test"),
        ("near-duplicate of a production photo", known != PRODUCTION, known == PRODUCTION),
    ):
        photos = kept[mine[kept.index]]
        out = photos[near_one_of(photos, kept[theirs[kept.index]], bits)]
        dropped.append(out[["path", "label", "bytes"]].assign(reason=reason))
        kept = kept.drop(out.index)
    return kept, pd.concat(dropped)
