"""The API key of the service that a command asks, from the variables with which the service itself starts."""

from __future__ import annotations

import os
from pathlib import Path

from common.errors import UserError


def key_header() -> dict[str, str]:
    """The header for a service that demands a key: the first in SERVING_API_KEY or SERVING_API_KEY_FILE.

    Raises:
        UserError: the file cannot be read.
    """
    keys, path = os.environ.get("SERVING_API_KEY", ""), os.environ.get("SERVING_API_KEY_FILE", "")
    if not keys and path:
        try:
            keys = Path(path).read_text(encoding="utf-8")
        except OSError as error:
            raise UserError(f"cannot read SERVING_API_KEY_FILE={path}: {error.strerror}.") from error
    key = keys.replace(",", " ").split()[:1]
    return {"X-API-Key": key[0]} if key else {}
