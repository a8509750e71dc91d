"""The checks that a service must pass before it gets traffic."""

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
    """Wait until the service at `url` is ready, check its identity and its predictions; return its model.

    Args:
        url: Address of a service.
        digest: The image digest that it must report; empty for any.
        photos: See `smoke`.
        key: See `smoke`.
        ready_seconds: How long it may take to become ready.
        alive: Called while waiting; raises if the service can no longer become ready.

    Raises:
        RefusedError: naming the check.
    """

    def ready() -> bool:
        alive()
        return request(f"{url}/health/ready")[0] == 200

    wait_for(
        ready,
        ready_seconds,
        f"check 'ready' failed: {url} is not ready",
        "If it starts slowly, raise --ready-seconds.",
    )
    health = fields(request(f"{url}/health")[1])
    if digest and health.get("deployment") != digest:
        raise RefusedError(
            f"check 'identity' failed: {url} reports deployment {health.get('deployment')!r}, not {digest}. "
            "Does another service use the address?"
        )
    model: dict[str, str] = health.get("model", {})
    if not {"name", "version", "sha256"} <= set(model):
        raise RefusedError(
            f"check 'identity' failed: {url}/health reports no model. Does another service use the address?"
        )
    smoke(url, photos, key)
    return model


def smoke_photos(folder: Path) -> list[Path]:
    """Return the smoke photos of a folder, named after their label, such as `cat.jpg`.

    Raises:
        WrongCallError: the folder has none.
    """
    photos = sorted(path for path in folder.glob("*") if path.suffix in (".jpg", ".png"))
    if not photos:
        raise WrongCallError(
            f"{folder} has no photos. Add one named after its label, such as cat.jpg, "
            "or name another folder with --smoke or SMOKE=."
        )
    return photos


def smoke(url: str, folder: Path, key: str) -> None:
    """Check that photos get their label, a broken file is rejected, and metrics are exposed.

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
            hint = "Pass the API key with --env-file or SERVING_API_KEY. " if status == 401 else ""
            raise RefusedError(
                f"check 'smoke' failed: {path.name} got status {status}. {hint}Response: {text[:300]}"
            )
        label = fields(text).get("prediction")
        if label is None:
            raise RefusedError(f"check 'smoke' failed: {path.name} got no prediction. Response: {text[:300]}")
        if label != path.stem:
            raise RefusedError(
                f"check 'smoke' failed: {path.name} was predicted as {label}. For a model of other classes "
                f"name photos of yours with --smoke or SMOKE=. Response: {text[:300]}"
            )
    status, text = request(f"{url}/predict", photos[0].read_bytes()[:100], headers)
    if status != 422:
        raise RefusedError(
            f"check 'smoke' failed: a broken photo got status {status}, not 422. Response: {text[:300]}"
        )
    status, text = request(f"{url}/metrics", headers=headers)
    if status != 200 or "classifier_requests_total" not in text:
        raise RefusedError(
            f"check 'smoke' failed: /metrics got status {status} or lacks classifier_requests_total. "
            f"Response: {text[:300]}"
        )


def request(url: str, body: bytes | None = None, headers: dict[str, str] | None = None) -> tuple[int, str]:
    """Return status and text of the response; 0 and the reason if there is none."""
    kind = {"Content-Type": "application/octet-stream"} if body else {}
    prepared = urllib.request.Request(url, body, {**kind, **(headers or {})})
    try:
        with urllib.request.urlopen(prepared, timeout=10) as response:
            return response.status, response.read().decode(errors="replace")
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode(errors="replace")
    except (OSError, http.client.HTTPException) as error:
        return 0, str(error)


def fields(text: str) -> dict[str, Any]:
    """Return the fields of a JSON object; none for any other text, such as another server's page."""
    try:
        content = json.loads(text)
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}


def wait_for(condition: Callable[[], bool], seconds: float, failure: str, advice: str = "") -> None:
    """Wait until `condition` holds.

    Raises:
        RefusedError: it does not hold within `seconds`; `failure` and `advice` are the message.
    """
    until = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > until:
            raise RefusedError(f"{failure} after {seconds:g} s. {advice}".strip())
        time.sleep(0.1)
