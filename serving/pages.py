"""The pages for a person: the form with, where a browser runs no script, its answer; and the status view."""

from __future__ import annotations

import html
from pathlib import Path
from string import Template
from typing import Any, Final

from litestar import MediaType, Response

from serving.artifact import Card

_WEB: Final = Path(__file__).parent / "web"
_HEADERS: Final = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' blob: data:; connect-src 'self'; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


def index(card: Card | None, answer: dict[str, Any] | None = None, status: int = 200) -> Response[bytes]:
    """The page where a person shows a photo.

    Args:
        card: Of the model that is served; None while there is none.
        answer: What `/predict` said, an answer or a problem, to be shown on the page.
        status: HTTP status.
    """
    labels = " or ".join(card.labels) if card else "its classes"
    accuracy = card.metrics.get("accuracy") if card else None
    model = f"Model {card.name} {card.version}" if card else "The model is being loaded"
    if accuracy:
        model += f"; right on {accuracy.value:.1%} of {accuracy.n} test photos"
    text = Template((_WEB / "index.html").read_text(encoding="utf-8")).substitute(
        labels=html.escape(labels),
        model=html.escape(model + "."),
        answers=_card(answer) if answer else "",
    )
    return Response(text.encode(), media_type=MediaType.HTML, status_code=status, headers=_HEADERS)


def status() -> Response[bytes]:
    """The page that shows the metrics live."""
    return Response((_WEB / "status.html").read_bytes(), media_type=MediaType.HTML, headers=_HEADERS)


def _card(answer: dict[str, Any]) -> str:
    """As `app.js` shows it, without the photo, which the browser does not give back."""
    if "prediction" not in answer:
        title, detail = html.escape(answer["title"]), html.escape(answer["detail"])
        return f'<article class="card problem"><h2>{title}</h2><p>{detail}</p></article>'
    name = html.escape(answer["prediction"])
    unsure = answer["uncertain"] or answer["unfamiliar"]
    verdict = f"Not sure: perhaps {name}" if unsure else name
    if answer["unfamiliar"]:
        verdict = "Neither, it seems"
    rows = "".join(
        f"<dt>{html.escape(label)}</dt><dd>"
        f'<meter value="{value:.4f}" aria-label="probability of {html.escape(label)}"></meter></dd>'
        f"<dd>{100 * value:.2f} %</dd>"
        for label, value in sorted(answer["probabilities"].items(), key=lambda item: -item[1])
    )
    return (
        f'<article class="card{" unsure" if unsure else ""}"><h2>{verdict}</h2><dl>{rows}</dl>'
        f'<p class="small">{answer["latency_ms"]:.1f} ms in the service</p></article>'
    )
