"""What decoding costs, as upper bounds for `Structure.seconds`: nanoseconds on one core.

Measured with Pillow 13.0 on an AMD EPYC, on smooth pictures, noise and plain colours of 3 and 12 megapixels:
the slowest of each kind, plus at least a fifth. `python -m bench.decode` measures them again.
"""

from __future__ import annotations

from typing import Final

NS: Final = 1e-9
JPEG_BLOCK: Final = 15
"""A block of 8x8 samples in one scan, even if the scan says nothing about it."""
JPEG_BYTE: Final = 12
"""An encoded byte of a baseline JPEG."""
JPEG_PROGRESSIVE_BYTE: Final = 40
"""An encoded byte of a progressive JPEG."""
JPEG_COEFFICIENT_BYTE: Final = 1.2
"""A byte of the coefficients that a progressive JPEG keeps in memory."""
JPEG_PIXEL: Final = 15
"""A pixel of the output, at the scale that is decoded."""
PNG_BYTE: Final = 10
"""An unpacked byte."""
PIXEL: Final = 4
"""Averaging or converting a decoded pixel."""
GIF_PIXEL: Final = 15
WEBP_PIXEL: Final = 50
AVIF_PIXEL: Final = 50
BMP_PIXEL: Final = 5
BMP_RLE_BYTE: Final = 2000
"""Pillow unpacks run-length encoded BMP in Python."""
TIFF_BYTE: Final = 6
"""An unpacked byte, whatever the compression but those below."""
TIFF_SLOW_BYTE: Final = 35
"""The same for LZMA, and for codecs of whole pictures."""
TIFF_PART: Final = 10_000
"""A strip or tile."""
