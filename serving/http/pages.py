"""The HTML pages: the form (with the answer, if the browser runs no script), the status and the API."""

from __future__ import annotations

import asyncio
import errno
import html
import importlib.util
from pathlib import Path
from string import Template
from typing import Any, Final

from litestar import MediaType, Request, Response, get, post
from litestar.exceptions import NotFoundException
from litestar.file_system import BaseLocalFileSystem
from litestar.openapi.plugins import OpenAPIRenderPlugin
from litestar.params import FromPath
from litestar.types import PathType
from litestar.types.file_types import FileInfo

from serving.contract.card import Card
from serving.http.authorisation import require_key
from serving.http.classify import Prediction, classify, refuse
from serving.http.kinds import KINDS
from serving.http.problems import Problem
from serving.http.request import ServiceRequest, handling

WEB: Final = Path(__file__).parent / "web"
_MOST_SURE: Final = 0.9999
_MOST_LISTED: Final = 5  # labels with their probability; app.js asks for as many
_MOST_NAMED: Final = 12  # labels in the first sentence
_HEADERS: Final = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' blob: data:; connect-src 'self'; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


class Viewer(OpenAPIRenderPlugin):
    """Swagger UI at `/schema`, from local files."""

    def __init__(self) -> None:
        super().__init__(path="/")

    def render(self, request: Request[Any, Any, Any], openapi_schema: dict[str, Any]) -> bytes:
        """The page, which loads the OpenAPI description itself."""
        del request, openapi_schema
        return (WEB / "schema.html").read_bytes()


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


@get("/", include_in_schema=False)
async def index(request: ServiceRequest) -> Response[str]:
    """The page on which a person uploads a photo."""
    return await asyncio.to_thread(_page, request.service.models.card)


def _refuse_on_page(request: ServiceRequest, error: Exception) -> Response[str]:
    """The page with a problem, which is counted and logged like any other."""
    refusal = refuse(request, error)
    page = _page(request.service.models.card, refusal.content, refusal.status_code or 200)
    page.headers.update(refusal.headers)
    return page


@post(
    "/",
    include_in_schema=False,
    status_code=200,
    guards=[require_key],
    exception_handlers=handling(Exception, _refuse_on_page),
)
async def index_answer(request: ServiceRequest) -> Response[str]:
    """The same page with the answer, for a browser that runs no script."""
    photo, arrived = await request.photo()
    prediction, _ = await classify(request, photo, arrived, _MOST_LISTED)
    return await asyncio.to_thread(_page, request.service.models.card, prediction)


@get("/problems/{code:str}", include_in_schema=False)
async def problem(code: FromPath[str]) -> Response[str]:
    """What one kind of problem means: every error refers to it by its type."""
    kind = KINDS.get(code)
    if kind is None:
        raise NotFoundException
    example = f"<p>For example: {html.escape(kind.example)}</p>" if kind.example else ""
    text = (
        f'<!doctype html><html lang="en"><title>{html.escape(kind.title)}</title>'
        f"<h1>{html.escape(kind.title)}</h1><p>HTTP status {kind.status}, code {code}. The field detail of "
        f"the error says what to do about it.</p>{example}</html>"
    )
    return Response(text, media_type=MediaType.HTML, headers=_HEADERS)


@get("/status", include_in_schema=False)
async def status() -> Response[bytes]:
    """The page that shows the metrics to a person."""
    page = await asyncio.to_thread((WEB / "status.html").read_bytes)
    return Response(page, media_type=MediaType.HTML, headers=_HEADERS)


def _page(card: Card | None, answer: Prediction | Problem | None = None, status: int = 200) -> Response[str]:
    """The page with the form.

    Args:
        card: The served model's card; None while there is none.
        answer: Shown on the page, if given.
        status: The HTTP status.
    """
    labels = _choice(card.labels) if card else "one of its classes"
    accuracy = card.metrics.get("accuracy") if card else None
    model = f"Model {card.name} {card.version}" if card else "The model is loading"
    if accuracy:
        model += f", with an accuracy of {100 * accuracy.value:.1f} % on {accuracy.n:,} test photos"
    text = Template((WEB / "index.html").read_text(encoding="utf-8")).substitute(
        labels=html.escape(labels),
        model=html.escape(model + "."),
        answers=_answer_card(answer) if answer else "",
    )
    return Response(text, media_type=MediaType.HTML, status_code=status, headers=_HEADERS)


def percent(probability: float) -> str:
    """A probability as text, as `app.js` shows it: never 0.00 % or 100.00 %, since no model is that sure."""
    if probability > _MOST_SURE:
        return "> 99.99 %"
    if probability < 1 - _MOST_SURE:
        return "< 0.01 %"
    return f"{100 * probability:.2f} %"


def _choice(labels: list[str]) -> str:
    if len(labels) <= _MOST_NAMED:
        return " or ".join(labels)
    return f"one of {len(labels):,} classes, such as {labels[0]}, {labels[1]} or {labels[-1]}"


def _answer_card(answer: Prediction | Problem) -> str:
    """The card as `app.js` makes it, without the photo."""
    if isinstance(answer, Problem):
        title, detail = html.escape(answer.title), html.escape(answer.detail)
        return f'<article class="card problem"><h2>{title}</h2><p>{detail}</p></article>'
    name = html.escape(answer.prediction)
    unsure = answer.uncertain or answer.unfamiliar
    verdict = f"Not sure: perhaps {name}" if unsure else name
    if answer.unfamiliar:
        verdict = "Something else, it seems"
    rows = "".join(
        f"<dt>{html.escape(label)}</dt><dd>"
        f'<meter value="{value:.4f}" aria-label="probability of {html.escape(label)}"></meter></dd>'
        f"<dd>{html.escape(percent(value))}</dd>"
        for label, value in sorted(answer.probabilities.items(), key=lambda item: -item[1])
    )
    return (
        f'<article class="card{" unsure" if unsure else ""}"><h2>{verdict}</h2><dl>{rows}</dl>'
        f'<p class="small">{answer.latency_ms:.1f} ms in the service</p></article>'
    )
