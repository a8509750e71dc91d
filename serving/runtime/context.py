"""What a model server passes to a handler along with the photos, by TorchServe's names."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol


class Context(Protocol):
    """What `initialize` is given, as far as it is used here."""

    @property
    def system_properties(self) -> dict[str, Any]:
        """`model_dir`: folder of the model file; from TorchServe also `gpu_id` and `batch_size`."""

    @property
    def manifest(self) -> dict[str, Any]:
        """`manifest["model"]["serializedFile"]`: the model file's name."""


@dataclass(frozen=True, slots=True)
class LocalContext:
    """A context for use outside TorchServe."""

    system_properties: dict[str, Any]
    manifest: dict[str, Any]

    @classmethod
    def for_file(cls, path: Path) -> LocalContext:
        """The context that makes `initialize` load the artefact at `path`."""
        return cls({"model_dir": str(path.parent)}, {"model": {"serializedFile": path.name}})


class RequestContext(Context, Protocol):
    """What TorchServe's `handle` is given, as far as it is used here; requests are numbered from 0."""

    def get_request_header(self, idx: int, key: str) -> str | None:
        """A header of a request; TorchServe adds `describe` and `explain`."""

    def set_response_status(self, code: int = 200, phrase: str = "", idx: int = 0) -> None:
        """Set the HTTP status of the answer to one request."""

    def set_response_content_type(self, idx: int, value: str) -> None:
        """Set the media type of the answer to one request."""
