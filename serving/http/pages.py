"""The pages for a person: the form with, where a browser runs no script, its answer; and the status view."""

from __future__ import annotations

import asyncio
import html
import importlib.util
from pathlib import Path
from string import Template
from typing import Any, Final

from litestar import MediaType, Request, Response, get, post
from litestar.openapi.plugins import OpenAPIRenderPlugin

from serving.contract.card import Card
from serving.http.authorisation import require_key
from serving.http.predict import Prediction, classify, refuse
from serving.http.problems import Problem
from serving.http.request import ServiceRequest, handling

WEB: Final = Path(__file__).parent / "web"
_HEADERS: Final = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' blob: data:; connect-src 'self'; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


class Viewer(OpenAPIRenderPlugin):
    """Swagger UI at `/schema`, from files of this machine."""

    def __init__(self) -> None:
        super().__init__(path="/")

    def render(self, request: Request[Any, Any, Any], openapi_schema: dict[str, Any]) -> bytes:
        """The page, which loads the description itself."""
        del request, openapi_schema
        return (WEB / "schema.html").read_bytes()


def swagger_files() -> Path | None:
    """The folder of Swagger UI's own files; None where the package flask-swagger-ui is not installed.

    Its files are all that is wanted: importing it would import Flask.
    """
    found = importlib.util.find_spec("flask_swagger_ui")
    places = found.submodule_search_locations if found else None
    return Path(places[0]) / "dist" if places else None


@get("/", include_in_schema=False)
async def index(request: ServiceRequest) -> Response[str]:
    """The page where a person shows a photo."""
    return await asyncio.to_thread(_page, request.service.models.card)


def _refuse_on_page(request: ServiceRequest, error: Exception) -> Response[str]:
    """The page with a problem on it, counted and logged like any other."""
    refusal = refuse(request, error)
    return _page(request.service.models.card, refusal.content, refusal.status_code or 200)


@post(
    "/",
    include_in_schema=False,
    status_code=200,
    guards=[require_key],
    exception_handlers=handling(Exception, _refuse_on_page),
)
async def index_answer(request: ServiceRequest) -> Response[str]:
    """The same page with the answer on it, for a browser that runs no script."""
    prediction, _ = await classify(request)
    return await asyncio.to_thread(_page, request.service.models.card, prediction)


@get("/status", include_in_schema=False)
async def status() -> Response[bytes]:
    """The metrics for a person."""
    page = await asyncio.to_thread((WEB / "status.html").read_bytes)
    return Response(page, media_type=MediaType.HTML, headers=_HEADERS)


def _page(card: Card | None, answer: Prediction | Problem | None = None, status: int = 200) -> Response[str]:
    """The form.

    Args:
        card: Of the model that is served; None while there is none.
        answer: To be shown on the page.
        status: HTTP status.
    """
    labels = " or ".join(card.labels) if card else "its classes"
    accuracy = card.metrics.get("accuracy") if card else None
    model = f"Model {card.name} {card.version}" if card else "The model is being loaded"
    if accuracy:
        model += f"; right on {accuracy.value:.1%} of {accuracy.n} test photos"
    text = Template((WEB / "index.html").read_text(encoding="utf-8")).substitute(
        labels=html.escape(labels),
        model=html.escape(model + "."),
        answers=_answer_card(answer) if answer else "",
    )
    return Response(text, media_type=MediaType.HTML, status_code=status, headers=_HEADERS)


def _answer_card(answer: Prediction | Problem) -> str:
    """As `app.js` shows it, without the photo, which the browser does not give back."""
    if isinstance(answer, Problem):
        title, detail = html.escape(answer.title), html.escape(answer.detail)
        return f'<article class="card problem"><h2>{title}</h2><p>{detail}</p></article>'
    name = html.escape(answer.prediction)
    unsure = answer.uncertain or answer.unfamiliar
    verdict = f"Not sure: perhaps {name}" if unsure else name
    if answer.unfamiliar:
        verdict = "Neither, it seems"
    rows = "".join(
        f"<dt>{html.escape(label)}</dt><dd>"
        f'<meter value="{value:.4f}" aria-label="probability of {html.escape(label)}"></meter></dd>'
        f"<dd>{100 * value:.2f} %</dd>"
        for label, value in sorted(answer.probabilities.items(), key=lambda item: -item[1])
    )
    return (
        f'<article class="card{" unsure" if unsure else ""}"><h2>{verdict}</h2><dl>{rows}</dl>'
        f'<p class="small">{answer.latency_ms:.1f} ms in the service</p></article>'
    )
