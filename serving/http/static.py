"""What the pages load: the files of `serving/http/web`, and Swagger UI; nothing from another host."""

from __future__ import annotations

import errno
import importlib.util
from pathlib import Path
from typing import Any, Final

from litestar import Request
from litestar.file_system import BaseLocalFileSystem
from litestar.openapi.plugins import OpenAPIRenderPlugin
from litestar.types import PathType
from litestar.types.file_types import FileInfo

from serving.http import rendering

WEB: Final = Path(__file__).parent / "web"


class Viewer(OpenAPIRenderPlugin):
    """Swagger UI at `/schema`, from local files."""

    def __init__(self) -> None:
        super().__init__(path="/")

    def render(self, request: Request[Any, Any, Any], openapi_schema: dict[str, Any]) -> bytes:
        """The page, which loads the OpenAPI description itself."""
        del openapi_schema
        return rendering.fill("schema.html", request).encode()


class Files(BaseLocalFileSystem):
    """The files of a folder; a name that no file can have (too long, with a NUL) is one that none has."""

    async def info(self, path: PathType, **options: Any) -> FileInfo:
        """What the system knows of a file.

        Raises:
            FileNotFoundError: there is no such file.
        """
        try:
            return await super().info(path, **options)
        except (OSError, ValueError) as error:
            raise FileNotFoundError(errno.ENOENT, "no such file") from error


def swagger_files() -> Path | None:
    """The folder of Swagger UI's files; None if the package flask-swagger-ui is not installed.

    Only its files are needed: importing the package would import Flask.
    """
    found = importlib.util.find_spec("flask_swagger_ui")
    places = found.submodule_search_locations if found else None
    return Path(places[0]) / "dist" if places else None
