"""Values and pictures in, one self-contained HTML file out."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any, Final

import jinja2

_ENVIRONMENT: Final = jinja2.Environment(
    loader=jinja2.PackageLoader("evaluation.figures"), autoescape=True, undefined=jinja2.StrictUndefined
)


def render(template: str, **values: Any) -> str:
    """Fill a template of `evaluation/figures/templates`; text is escaped."""
    return _ENVIRONMENT.get_template(template).render(**values) + "\n"


def picture(path: Path) -> str:
    """A PNG as a data URL."""
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()
