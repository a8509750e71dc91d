"""The HTML pages' templates, `serving/http/templates`: values in, an HTML answer under a strict policy out.

Addresses in the pages are relative, so that they also work below a path behind a proxy that strips it.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from litestar import MediaType, Request, Response

if TYPE_CHECKING:
    import jinja2

_FOLDER: Final = Path(__file__).parent / "templates"
_HEADERS: Final = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' blob: data:; connect-src 'self'; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


@functools.cache
def _environment() -> jinja2.Environment:
    import jinja2  # a service that nobody opens in a browser never needs it

    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )


def fill(template: str, request: Request[Any, Any, Any], **values: Any) -> str:
    """A page's HTML; text is escaped."""
    return _environment().get_template(template).render(root=root_of(request.scope["raw_path"]), **values)


def page(template: str, request: Request[Any, Any, Any], status: int = 200, **values: Any) -> Response[str]:
    """The answer with a page."""
    text = fill(template, request, **values)
    return Response(text, media_type=MediaType.HTML, status_code=status, headers=_HEADERS)


def root_of(path: bytes) -> str:
    """The relative address of the service's root, as seen from one of its paths, as it was sent.

    >>> root_of(b"/"), root_of(b"/status"), root_of(b"/status/")
    ('./', './', '../')
    """
    return "../" * (path.count(b"/") - 1) or "./"
