"""The service's settings, from the environment; an unknown name is an error."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from common.processor import cores
from serving.contract.errors import ConfigurationError

PREFIX: Final = "SERVING_"
_LINKS: Final = (
    (
        re.compile(rf"{PREFIX}([A-Z0-9_]+_)?PORT(_[0-9]+_(TCP|UDP|SCTP))?"),
        re.compile(r"(tcp|udp|sctp)://\S+:[0-9]+"),
    ),
    (
        re.compile(rf"{PREFIX}([A-Z0-9_]+_)?SERVICE_(HOST|PORT(_[A-Z0-9_]+)?)"),
        re.compile(r"[0-9a-fA-F.:]+"),
    ),
    (
        re.compile(rf"{PREFIX}([A-Z0-9_]+_)?PORT_[0-9]+_(TCP|UDP|SCTP)_(PROTO|PORT|ADDR)"),
        re.compile(r"[0-9a-fA-F.:]+|tcp|udp|sctp"),
    ),
)
"""Names and values of the variables that Kubernetes sets for each Service of the namespace."""
_ORIGIN: Final = re.compile(r"(?P<scheme>https?)://([a-z0-9.-]+|\[[0-9a-f:]+\])(?P<port>:[0-9]{1,5})?")
_PLAIN: Final = {"host": "HOST", "port": "PORT", "model": "MODEL", "deployment": "DEPLOYMENT"}


def _workers() -> int:
    """One more than there are cores: it computes while another waits for the interpreter lock."""
    return 1 + cores()


class Settings(msgspec.Struct, frozen=True):
    """Where to listen, what to serve, and the limits of a request."""

    host: str = "127.0.0.1"
    """HOST: address to listen on, or unix:/path of a socket; a socket of systemd goes before it."""
    port: Annotated[int, Meta(ge=0, le=65535)] = 8000
    """PORT: TCP port to listen on; 0 picks a free one."""
    model: str = "models/release/model.pt"
    """MODEL: path of the artefact."""
    deployment: str = ""
    """DEPLOYMENT: digest of the deployed image; /health reports it."""
    device: Annotated[str, Meta(pattern="^(auto|cpu|cuda(:[0-9]+)?)$")] = "auto"
    """SERVING_DEVICE: auto, cpu, cuda or cuda:N; auto uses a GPU if torch has one."""
    workers: Annotated[int, Meta(ge=1, le=256)] = msgspec.field(default_factory=_workers)
    """SERVING_WORKERS: number of worker threads; by default one more than there are cores."""
    max_batch: Annotated[int, Meta(ge=0, le=256)] = 0
    """SERVING_MAX_BATCH: most photos in one pass of the network; 0 means 1 on a CPU and 16 on a GPU."""
    max_delay_ms: Annotated[float, Meta(ge=0, le=1000)] = 0.0
    """SERVING_MAX_DELAY_MS: longest time that a photo waits for others to fill its batch."""
    queue_size: Annotated[int, Meta(ge=1)] = 256
    """SERVING_QUEUE_SIZE: most requests that may wait for a worker."""
    queue_seconds: Annotated[float, Meta(gt=0)] = 1.0
    """SERVING_QUEUE_SECONDS: longest expected wait for a worker; what would wait longer gets 503."""
    deadline_seconds: Annotated[float, Meta(gt=0)] = 2.0
    """SERVING_DEADLINE_SECONDS: longest time from the complete request to its answer."""
    upload_seconds: Annotated[float, Meta(gt=0)] = 60.0
    """SERVING_UPLOAD_SECONDS: longest time for a request's body to arrive."""
    head_seconds: Annotated[float, Meta(gt=0)] = 10.0
    """SERVING_HEAD_SECONDS: longest time for a request's head to arrive."""
    max_connections: Annotated[int, Meta(ge=1)] = 512
    """SERVING_MAX_CONNECTIONS: most open connections; the one that has waited longest makes room."""
    keep_alive_seconds: Annotated[int, Meta(ge=1)] = 75
    """SERVING_KEEP_ALIVE_SECONDS: life of an idle connection; must exceed the proxy's, often 60."""
    stuck_seconds: Annotated[float, Meta(gt=0)] = 30.0
    """SERVING_STUCK_SECONDS: time without a worker that can answer after which liveness fails."""
    drain_grace_seconds: Annotated[float, Meta(ge=0)] = 0.5
    """SERVING_DRAIN_GRACE_SECONDS: time between readiness turning 503 and the listener closing."""
    drain_timeout_seconds: Annotated[float, Meta(gt=0)] = 25.0
    """SERVING_DRAIN_TIMEOUT_SECONDS: longest time from the signal to stop to the exit, in all."""
    drift_window: Annotated[int, Meta(ge=10, le=1_000_000)] = 1000
    """SERVING_DRIFT_WINDOW: number of latest predictions to compare with the drift reference."""
    shadow_model: str = ""
    """SERVING_SHADOW_MODEL: path of a second artefact that answers in the background, for comparison."""
    shadow_share: Annotated[float, Meta(ge=0, le=1)] = 0.1
    """SERVING_SHADOW_SHARE: share of the photos offered to the second artefact, 0 to 1."""
    feedback: str = ""
    """SERVING_FEEDBACK: path of a SQLite file that stores answers for POST /feedback; needs an API key."""
    feedback_photos: bool = False
    """SERVING_FEEDBACK_PHOTOS: true stores the photos too, to train on them."""
    feedback_days: Annotated[float, Meta(gt=0)] = 30.0
    """SERVING_FEEDBACK_DAYS: how long answers, photos and labels are kept."""
    feedback_max_bytes: Annotated[int, Meta(ge=1_000_000)] = 1_000_000_000
    """SERVING_FEEDBACK_MAX_BYTES: size above which the oldest answers are deleted, unlabelled first."""
    review: str = ""
    """SERVING_REVIEW: path of a SQLite file that keeps photos for a person to label; needs an API key."""
    review_days: Annotated[float, Meta(gt=0)] = 30.0
    """SERVING_REVIEW_DAYS: how long these photos, and what people say of them, are kept."""
    review_max_bytes: Annotated[int, Meta(ge=1_000_000)] = 1_000_000_000
    """SERVING_REVIEW_MAX_BYTES: size above which photos are deleted, the last in line for review first."""
    review_share: Annotated[float, Meta(ge=0, le=1)] = 0.01
    """SERVING_REVIEW_SHARE: share of all photos to keep at random, from which the accuracy is estimated."""
    max_body_bytes: Annotated[int, Meta(ge=1024)] = 20 * 1024 * 1024
    """SERVING_MAX_BODY_BYTES: largest request body."""
    max_held_bytes: Annotated[int, Meta(ge=1024)] = 96 * 1024 * 1024
    """SERVING_MAX_HELD_BYTES: most bytes of all request bodies together, until they are answered."""
    max_pixels: Annotated[int, Meta(ge=1)] = 64_000_000
    """SERVING_MAX_PIXELS: largest declared width times height of an image."""
    max_side: Annotated[int, Meta(ge=1)] = 16_384
    """SERVING_MAX_SIDE: largest declared side of an image, in pixels."""
    max_decode_bytes: Annotated[int, Meta(ge=1)] = 224 * 1024 * 1024
    """SERVING_MAX_DECODE_BYTES: most memory that decoding an image may take, by its structure."""
    max_decode_seconds: Annotated[float, Meta(gt=0)] = 1.5
    """SERVING_MAX_DECODE_SECONDS: longest time that decoding may take on a core, by an image's structure."""
    max_parts: Annotated[int, Meta(ge=1, le=1000)] = 16
    """SERVING_MAX_PARTS: most parts of a multipart body, and most photos of a request."""
    api_key: Annotated[str, Meta(pattern="^[!-~]*$")] = ""
    """SERVING_API_KEY: keys, by commas; a request needs one ("X-API-Key: KEY", or Bearer token)."""
    api_key_file: str = ""
    """SERVING_API_KEY_FILE: path of a file with the API keys, one per line, instead of SERVING_API_KEY."""
    cors_origins: str = ""
    """SERVING_CORS_ORIGINS: origins, by commas, whose pages may use the service, or * for every page's."""
    log_level: Annotated[str, Meta(pattern="^(debug|info|warning|error)$")] = "info"
    """SERVING_LOG_LEVEL: debug, info, warning or error."""
    log_format: Annotated[str, Meta(pattern="^(json|console)$")] = "json"
    """SERVING_LOG_FORMAT: json or console."""

    @property
    def api_keys(self) -> tuple[str, ...]:
        """The valid keys; none if anyone may ask."""
        return tuple(filter(None, self.api_key.split(",")))

    @property
    def allowed_origins(self) -> tuple[str, ...]:
        """The origins whose pages may use the service."""
        return tuple(filter(None, self.cors_origins.split(",")))

    @property
    def model_path(self) -> Path:
        """`model` as a path."""
        return Path(self.model)


def variable(field: str) -> str:
    """Name of the environment variable that sets `field`."""
    return _PLAIN.get(field, PREFIX + field.upper())


def from_environment(environment: Mapping[str, str] = os.environ) -> Settings:
    """Read the settings; empty variables count as unset.

    Raises:
        ConfigurationError: a `SERVING_` variable is unknown, or a value is invalid.
    """
    names = {variable(field): field for field in Settings.__struct_fields__}
    for key in environment:
        if key.startswith(PREFIX) and key not in names and not _is_service_link(key, environment[key]):
            short = {name.removeprefix(PREFIX): name for name in names}
            near = difflib.get_close_matches(key.removeprefix(PREFIX), short, n=1)
            hint = f" Did you mean {short[near[0]]}?" if near else f" Known: {', '.join(sorted(names))}."
            raise ConfigurationError(f"{key} is not a setting of this service.{hint}")
    values: dict[str, object] = {}
    for name, field in names.items():
        value = environment.get(name, "").strip()
        if not value:
            continue
        try:
            msgspec.convert({field: value}, Settings, strict=False)
        except msgspec.ValidationError as error:
            reason = str(error).split(" - at")[0]
            raise ConfigurationError(f"{name}={value!r} is not valid: {reason}.") from error
        values[field] = value
    settings = msgspec.convert(values, Settings, strict=False)
    if settings.api_key_file:
        settings = _with_keys(settings)
    if settings.api_key and not settings.api_keys:
        raise ConfigurationError("SERVING_API_KEY has only commas. Set a key, or unset it.")
    if settings.cors_origins:
        settings = msgspec.structs.replace(settings, cors_origins=_origins(settings.cors_origins))
    if settings.feedback and not settings.api_key:
        raise ConfigurationError(
            "SERVING_FEEDBACK needs SERVING_API_KEY, or anyone could send labels. Set a key, or unset "
            "SERVING_FEEDBACK."
        )
    _check_review(settings)
    return settings


def _check_review(settings: Settings) -> None:
    if settings.review and not settings.api_key:
        raise ConfigurationError(
            "SERVING_REVIEW needs SERVING_API_KEY, or anyone could look at the photos. Set a key, or unset "
            "SERVING_REVIEW."
        )
    if settings.review and settings.review == settings.feedback:
        raise ConfigurationError(
            f"SERVING_REVIEW and SERVING_FEEDBACK are both {settings.review}. Name two files."
        )


def _with_keys(settings: Settings) -> Settings:
    """Read the API keys from their file; a file without one is an error, or the service would be open."""
    if settings.api_key:
        raise ConfigurationError("SERVING_API_KEY and SERVING_API_KEY_FILE are both set. Unset one of them.")
    try:
        keys = Path(settings.api_key_file).read_text(encoding="utf-8").split()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise ConfigurationError(
            f"cannot read SERVING_API_KEY_FILE={settings.api_key_file}: {reason}. Name a readable file."
        ) from error
    if not keys:
        raise ConfigurationError(
            f"SERVING_API_KEY_FILE={settings.api_key_file} holds no key. Write one key per line."
        )
    if not all(re.fullmatch(r"[!-+\--~]+", key) for key in keys):
        raise ConfigurationError(
            f"SERVING_API_KEY_FILE={settings.api_key_file} has a key that is not of printable ASCII without "
            "commas."
        )
    return msgspec.structs.replace(settings, api_key=",".join(keys))


def _origins(given: str) -> str:
    """Origins as browsers write them: scheme and host in lower case, the port only if it is not the usual."""
    origins = []
    for text in (part.strip() for part in given.split(",")):
        found = _ORIGIN.fullmatch(text.lower())
        if found is None and text != "*":
            raise ConfigurationError(
                f"SERVING_CORS_ORIGINS has {text!r}, which is no origin. Write scheme, host and port alone, "
                "as https://app.example.org or http://localhost:5173, separated by commas; * allows every "
                "page."
            )
        usual = found and found["port"] == {"http": ":80", "https": ":443"}[found["scheme"]]
        origins.append(text.lower().removesuffix(found["port"]) if found and usual else text.lower())
    return ",".join(origins)


def _is_service_link(name: str, value: str) -> bool:
    """Whether Kubernetes set a variable, because a Service's name begins like ours: by name and value."""
    return any(names.fullmatch(name) and values.fullmatch(value) for names, values in _LINKS)


def describe() -> str:
    """The settings with their defaults and meanings, taken from the docstrings of the fields."""
    text = Path(__file__).read_text(encoding="utf-8")
    defaults = {variable(name): value for name, value in msgspec.structs.asdict(Settings()).items()}
    lines = ["Settings, from environment variables, with their defaults:"]
    for name, meaning in re.findall(r'^    """([A-Z_]+): (.+?)"""', text, re.DOTALL | re.MULTILINE):
        lines += [f"  {name}={defaults[name]}", f"      {meaning}"]
    return "\n".join(lines)
