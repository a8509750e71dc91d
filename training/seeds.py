"""Seeds derived from numbers: the same on every machine and in any order of calls."""

from __future__ import annotations

import hashlib


def derived_seed(*parts: int) -> int:
    """A 63-bit seed from numbers, such as the run's seed, the epoch and the photo."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8], "big") >> 1
