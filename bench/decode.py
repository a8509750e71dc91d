"""`python -m bench.decode`: what decoding costs, by format, alongside the estimate of its structure.

The constants of `serving.contract.structure.costs` are upper bounds of what this measures: each line gives
the time and the memory of one decode in a process of its own, and the estimate for both.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from serving.contract.preprocess import Limits, inspect, preprocess

_SIDE = 224
_ANY = Limits(10**9, 10**9, 10**6, 10**10, 1e6)


def _pictures() -> Iterator[tuple[str, Image.Image]]:
    chance = np.random.default_rng(1)
    noise = chance.integers(0, 256, (3000, 4000, 3), dtype=np.uint8)
    yield "noise", Image.fromarray(noise)
    yield "smooth", Image.fromarray(noise[:150, :200]).resize((4000, 3000), Image.Resampling.BICUBIC)
    yield "plain", Image.new("RGB", (4000, 3000), (10, 200, 30))


def _files(picture: Image.Image) -> Iterator[tuple[str, bytes]]:
    for name, mode, form, options in (
        ("JPEG", "RGB", "JPEG", {"quality": 90}),
        ("JPEG progressive", "RGB", "JPEG", {"quality": 90, "progressive": True}),
        ("JPEG CMYK progressive", "CMYK", "JPEG", {"progressive": True}),
        ("PNG", "RGB", "PNG", {}),
        ("PNG alpha", "RGBA", "PNG", {}),
        ("PNG grey", "L", "PNG", {}),
        ("GIF", "P", "GIF", {}),
        ("BMP", "RGB", "BMP", {}),
        ("TIFF LZW", "RGB", "TIFF", {"compression": "tiff_lzw"}),
        ("TIFF deflate", "RGB", "TIFF", {"compression": "tiff_adobe_deflate"}),
        ("TIFF LZMA", "RGB", "TIFF", {"compression": "lzma"}),
        ("TIFF JPEG", "RGB", "TIFF", {"compression": "jpeg"}),
        ("WebP", "RGB", "WEBP", {"method": 0}),
        ("WebP lossless", "RGB", "WEBP", {"lossless": True, "method": 0, "quality": 0}),
        ("AVIF", "RGB", "AVIF", {"speed": 10}),
    ):
        buffer = BytesIO()
        picture.convert(mode).save(buffer, form, **options)
        yield name, buffer.getvalue()


def _status(field: str) -> int:
    """A size of this process, in bytes."""
    text = Path("/proc/self/status").read_text()
    return int(text.split(f"{field}:")[1].split()[0]) * 1024


def measure(path: Path) -> str:
    """Decode one file in this process, which is fresh; return the four figures as text."""
    data = path.read_bytes()
    small = BytesIO()
    Image.new("RGB", (64, 48)).save(small, "JPEG")
    preprocess(small.getvalue(), _SIDE)
    estimate = inspect(data, _SIDE, _ANY)
    before = _status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # begins a new peak
    began = time.perf_counter()
    preprocess(data, _SIDE, _ANY, estimate)
    seconds = time.perf_counter() - began
    peak = _status("VmHWM") - before
    return (
        f"{seconds:8.3f} s, estimate {estimate.seconds:6.3f} s; {peak / 1e6:5.0f} MB, "
        f"estimate {estimate.memory_bytes / 1e6:4.0f} MB"
    )


def main() -> None:
    """Print a line for each format and picture of 12 megapixels."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "image")
        for kind, picture in _pictures():
            for name, data in _files(picture):
                path.write_bytes(data)
                command = [sys.executable, "-m", "bench.decode", str(path)]
                done = subprocess.run(command, capture_output=True, text=True, check=True)
                print(f"{name:24} {kind:7} {len(data) / 1e6:6.1f} MB  {done.stdout.strip()}", flush=True)


if __name__ == "__main__":
    if sys.argv[1:]:
        print(measure(Path(sys.argv[1])))
    else:
        main()
