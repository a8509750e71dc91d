"""`python -m evaluation reference --url …`: take the service's latest photos as the model's drift reference.

The values of the service's window in (`GET /drift/window`), a file next to the artefact out. The service must
run that artefact: its answers are part of the reference.
"""

from __future__ import annotations

import argparse
import datetime as dt
from typing import Final

import msgspec

from common.files import write_json
from evaluation.service.client import get
from evaluation.service.drift import DriftError
from serving.contract import artifact
from serving.contract.reference import LEAST_PHOTOS, StoredReference, WindowReport, make_reference

_FEW: Final = 1000
"""Photos below which a reference is noticeably uncertain itself."""


def from_window(content: bytes, loaded: artifact.Artifact, source: str) -> StoredReference:
    """The reference of a window, from the JSON of `GET /drift/window`.

    Raises:
        DriftError: it is something else, of another model, or of too few photos.
    """
    try:
        window = msgspec.json.decode(content, type=WindowReport)
    except msgspec.DecodeError as error:
        raise DriftError(f"This is not the JSON of GET /drift/window: {error}. Check the address.") from error
    if window.artifact_sha256 != loaded.sha256:
        raise DriftError(
            f"The service runs the model {window.artifact_sha256[:12]}, not {loaded.sha256[:12]}. Name the "
            f"file that it runs: MODEL=…"
        )
    rows = [
        dict(zip(window.quantities, row, strict=True))
        for row in zip(*window.quantities.values(), strict=True)
    ]
    if len(rows) < LEAST_PHOTOS:
        raise DriftError(f"The window has {len(rows)} photos of the {LEAST_PHOTOS} needed. Try again later.")
    return StoredReference(loaded.sha256, make_reference(rows, len(loaded.card.labels), source))


def main(options: argparse.Namespace) -> int:
    """Write the reference; return 0."""
    url = options.url.rstrip("/")
    loaded = artifact.read(options.model)
    source = f"latest photos of {url}, {dt.datetime.now(dt.UTC):%Y-%m-%d}"
    stored = from_window(get(url, "/drift/window", DriftError), loaded, source)
    path = artifact.reference_path(options.model)
    write_json(path, stored)
    photos = stored.reference.photos
    print(
        f"{path}: {photos} photos. The service uses it after a reload (SIGHUP), an image once it is built "
        f"again."
    )
    if photos < _FEW:
        print(
            f"A reference of {_FEW} photos or more is steadier: let the window fill (SERVING_DRIFT_WINDOW)."
        )
    return 0
