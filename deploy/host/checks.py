"""What a service must show before it gets traffic."""

from __future__ import annotations

import http.client
import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from host.errors import RefusedError, WrongCallError


def validate(
    url: str,
    digest: str,
    photos: Path,
    key: str,
    ready_seconds: float,
    alive: Callable[[], None] = lambda: None,
) -> dict[str, str]:
    """Wait until the service at `url` is ready, then check who it is and what it answers; return its model.

    Args:
        url: Address of a service.
        digest: The image that it must say it is; empty for any.
        photos: See `smoke`.
        key: See `smoke`.
        ready_seconds: How long it may take to be ready.
        alive: Raises when waiting is in vain.

    Raises:
        RefusedError: naming the check.
    """

    def ready() -> bool:
        alive()
        return request(f"{url}/health/ready")[0] == 200

    wait_for(ready, ready_seconds, f"check 'ready' failed: {url} is not ready")
    health = fields(request(f"{url}/health")[1])
    if digest and health.get("deployment") != digest:
        raise RefusedError(
            f"check 'identity' failed: {url} answers as {health.get('deployment')!r}, not {digest}."
        )
    model: dict[str, str] = health.get("model", {})
    if not {"name", "version", "sha256"} <= set(model):
        raise RefusedError(f"check 'identity' failed: {url}/health names no model.")
    smoke(url, photos, key)
    return model


def smoke_photos(folder: Path) -> list[Path]:
    """The photos of a folder, named for their label, as `cat.jpg`.

    Raises:
        WrongCallError: there are none.
    """
    photos = sorted(path for path in folder.glob("*") if path.suffix in (".jpg", ".png"))
    if not photos:
        raise WrongCallError(f"{folder} has no photos named for their label, as cat.jpg.")
    return photos


def smoke(url: str, folder: Path, key: str) -> None:
    """Photos named for their label are answered with it, a broken file is refused, metrics are there.

    Args:
        url: Address of a service.
        folder: See `smoke_photos`.
        key: The service's API key, or empty.

    Raises:
        RefusedError: naming the check.
    """
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    photos = smoke_photos(folder)
    for path in photos:
        status, text = request(f"{url}/predict", path.read_bytes(), headers)
        if status != 200:
            raise RefusedError(f"check 'smoke' failed: {path.name} was answered with {status}: {text[:300]}")
        said = fields(text).get("prediction")
        if said is None:
            raise RefusedError(
                f"check 'smoke' failed: {path.name} was answered without a prediction: {text[:300]}"
            )
        if said != path.stem:
            raise RefusedError(f"check 'smoke' failed: {path.name} was taken for a {said}: {text[:300]}")
    status, text = request(f"{url}/predict", photos[0].read_bytes()[:100], headers)
    if status != 422:
        raise RefusedError(
            f"check 'smoke' failed: a broken photo was answered with {status}, not 422: {text[:300]}"
        )
    status, text = request(f"{url}/metrics", headers=headers)
    if status != 200 or "classifier_requests_total" not in text:
        raise RefusedError(f"check 'smoke' failed: /metrics was answered with {status}: {text[:300]}")


def request(url: str, body: bytes | None = None, headers: dict[str, str] | None = None) -> tuple[int, str]:
    """Status and text of one request; 0 and the reason if none came."""
    kind = {"Content-Type": "application/octet-stream"} if body else {}
    asked = urllib.request.Request(url, body, {**kind, **(headers or {})})
    try:
        with urllib.request.urlopen(asked, timeout=10) as answer:
            return answer.status, answer.read().decode(errors="replace")
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode(errors="replace")
    except (OSError, http.client.HTTPException) as error:
        return 0, str(error)


def fields(text: str) -> dict[str, Any]:
    """Those of a JSON object; none if the text is something else, as another server's page is."""
    try:
        content = json.loads(text)
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}


def wait_for(condition: Callable[[], bool], seconds: float, failure: str) -> None:
    """Until `condition` holds.

    Raises:
        RefusedError: it did not within `seconds`.
    """
    until = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > until:
            raise RefusedError(f"{failure} after {seconds:g} s.")
        time.sleep(0.1)
