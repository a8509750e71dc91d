"""Figures and pictures in, one HTML file out that needs no other file and no network."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any, Final

import jinja2

from evaluation.figures import metrics
from evaluation.release.gates import Verdict

TITLES: Final = {
    "confusion_matrix": "Confusion matrix: rows the label, columns the answer",
    "reliability": "Reliability: how often the service is right at each confidence",
    "latency": "Latency of each photo, as the client and as the service measured it",
    "worst_mistakes": "Wrong answers, the most confident first",
}
"""Pictures of a live evaluation by name, with what they show."""
_ENVIRONMENT: Final = jinja2.Environment(
    loader=jinja2.PackageLoader("evaluation.figures"), autoescape=True, undefined=jinja2.StrictUndefined
)


def live(figures: dict[str, Any], verdicts: list[Verdict], sentences: list[str], pictures: list[Path]) -> str:
    """The report of one live evaluation."""
    return render(
        "live.html",
        figures=figures,
        measured=measured(figures),
        verdicts=verdicts,
        passed=all(verdict.passed for verdict in verdicts),
        sentences=[sentence.replace("**", "") for sentence in sentences],
        latencies={"client": figures["latency_ms"]} | figures["service_ms"],
        pictures=[(TITLES[path.stem], picture(path)) for path in pictures],
    )


def measured(figures: dict[str, Any]) -> list[tuple[str, str, str, str]]:
    """Name, value, interval and n of each figure of a live evaluation that is there."""
    rows = [
        (name.replace("_", " "), *metrics.show(figures[name]))
        for name in ("accuracy", "ece", "log_loss", "roc_auc")
        if name in figures
    ]
    for label in figures.get("recall", {}):
        rows += [
            (f"{name} of {label}", *metrics.show(figures[name][label])) for name in ("precision", "recall")
        ]
    return rows


def render(template: str, **values: Any) -> str:
    """Fill a template of `evaluation/templates`; text is escaped."""
    return _ENVIRONMENT.get_template(template).render(**values) + "\n"


def picture(path: Path) -> str:
    """A PNG as an address that holds the picture itself."""
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()
