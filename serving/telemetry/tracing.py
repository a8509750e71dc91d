"""Whether requests are traced: OpenTelemetry's own variables in, where spans go out, or None.

`serving.http.server` asks before it listens. Without an endpoint nothing of OpenTelemetry is imported.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from serving.contract.errors import ConfigurationError

if TYPE_CHECKING:
    from serving.telemetry.otlp import Tracing

_ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_PROTOCOLS: Final = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_SPOKEN: Final = "http/protobuf"


def from_environment() -> Tracing | None:
    """What sends the spans of this process; None if nobody wants them.

    Raises:
        ConfigurationError: an endpoint is set, but it cannot be used.
    """
    endpoints = _set(_ENDPOINTS)
    disabled = os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true"
    if not endpoints or disabled or os.environ.get("OTEL_TRACES_EXPORTER") == "none":
        return None
    for name, value in endpoints.items():
        if not _is_address(value):
            raise ConfigurationError(f"{name}={value!r} is no address. Write it as http://collector:4318.")
    for name, value in _set(_PROTOCOLS).items():
        if value != _SPOKEN:
            raise ConfigurationError(
                f"{name}={value!r} is not spoken here. Unset it, and name the collector's port for {_SPOKEN} "
                "in the endpoint, usually 4318."
            )
    try:
        from serving.telemetry.otlp import Tracing
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"{next(iter(endpoints))} is set, but OpenTelemetry is not installed (no module {error.name!r}). "
            "Install it: `make serve` does, or `pip install --no-deps --require-hashes -r "
            "requirements/otel.txt`; an image has it if it was built with `make image OTEL=1`. Or unset the "
            "variable."
        ) from error
    try:
        return Tracing.start()
    except ValueError as error:
        raise ConfigurationError(f"OpenTelemetry refuses an OTEL_ variable: {error}") from error


def _set(names: tuple[str, ...]) -> dict[str, str]:
    """Those of some variables that are set; an empty one counts as unset."""
    return {name: os.environ[name] for name in names if os.environ.get(name)}


def _is_address(text: str) -> bool:
    try:
        parts = urlsplit(text)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False
