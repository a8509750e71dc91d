"""Pixels in, a perceptual hash out, and which known photo looks the same: the same picture in other bytes.

A difference hash (Krawetz 2013): whether each cell of a grid is brighter than its neighbour on the left. With
256 bits rather than the usual 64, since here nobody looks at what is taken for the same.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import numpy as np
import numpy.typing as npt

_ROWS: Final = 16
_COLUMNS: Final = 17
_LEAST_STEP: Final = 1.0
"""Smaller differences in brightness (of 255) are noise."""
_SAME: Final = 0.2
"""Two photos look the same up to so many differing bits, as a share of those that either has set: plain
pictures, such as handwritten digits, have few steps, in which they must agree all the more."""


def fingerprint(pixels: npt.NDArray[np.uint8]) -> bytes:
    """The hash, 32 bytes, of `u8[3,S,S]` with S of at least 17."""
    side = pixels.shape[1]
    grey = pixels.astype(np.float32).mean(0)  # [S,S]
    tops, lefts = np.arange(_ROWS) * side // _ROWS, np.arange(_COLUMNS) * side // _COLUMNS
    sums: npt.NDArray[Any] = np.add.reduceat(np.add.reduceat(grey, tops, 0), lefts, 1)  # [16,17]
    areas = np.outer(np.diff([*tops, side]), np.diff([*lefts, side]))
    cells = sums / areas
    return np.packbits(cells[:, 1:] > cells[:, :-1] + _LEAST_STEP).tobytes()


class Fingerprints:
    """The hashes of the photos that are kept, by request id."""

    def __init__(self, known: Iterable[tuple[str, bytes]] = ()) -> None:
        """Know these photos."""
        pairs = list(known)
        self._ids = [request_id for request_id, _ in pairs]
        self._hashes = np.frombuffer(b"".join(mark for _, mark in pairs), np.uint64).reshape(-1, 4)

    def add(self, request_id: str, mark: bytes) -> None:
        """Know another photo."""
        self._ids.append(request_id)
        self._hashes = np.concatenate([self._hashes, np.frombuffer(mark, np.uint64)[None]])

    def find(self, mark: bytes) -> str | None:
        """The id of the nearest known photo, if it looks the same."""
        if not self._ids:
            return None
        own = np.frombuffer(mark, np.uint64)
        differing = np.bitwise_count(self._hashes ^ own).sum(1)  # [N]
        either = np.bitwise_count(self._hashes | own).sum(1)
        excess = differing - _SAME * either
        nearest = int(excess.argmin())
        return self._ids[nearest] if excess[nearest] <= 0 else None
