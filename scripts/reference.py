"""Write docs/reference from the code, so that it cannot say anything else: `make reference`.

Each page is a function of this file; a test compares the pages in the repository with what the code says now.
"""

from __future__ import annotations

import ast
import inspect
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields, is_dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Final, get_type_hints

import msgspec
import yaml
from prometheus_client import CollectorRegistry

ROOT: Final = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from serving.contract import answer, artifact, card, reference  # noqa: E402 (the path comes first)
from serving.http.kinds import KINDS  # noqa: E402
from serving.http.problems import TYPE_PREFIX  # noqa: E402
from serving.settings import Settings, variable  # noqa: E402
from serving.telemetry.drift import DriftMonitor  # noqa: E402
from serving.telemetry.metrics import Metrics  # noqa: E402
from training.config import DataConfig, TrainConfig  # noqa: E402

_NOTE: Final = "Made by `make reference` from {source}; do not edit.\n"


def main() -> int:
    """Write every page, and the rules as the Prometheus operator takes them."""
    for path, text in files().items():
        (ROOT / path).write_text(text, encoding="utf-8")
    return 0


def files() -> dict[str, str]:
    """The text of each file by its path in the repository."""
    written = {f"docs/reference/{name}": text for name, text in pages().items()}
    return written | {"deploy/monitoring/kubernetes/rules.yaml": prometheus_rule()}


def prometheus_rule() -> str:
    """`deploy/monitoring/rules.yml` as a PrometheusRule: its text, indented, below the resource's head."""
    text = (ROOT / "deploy/monitoring/rules.yml").read_text(encoding="utf-8")
    head = (
        f"# {_NOTE.format(source='deploy/monitoring/rules.yml')}"
        "apiVersion: monitoring.coreos.com/v1\nkind: PrometheusRule\nmetadata:\n  name: classifier\n"
        "  labels: {release: kube-prometheus-stack}\nspec:\n"
    )
    body = text[text.index("groups:") :]
    return head + "".join(f"  {line}" if line.strip() else line for line in body.splitlines(keepends=True))


def pages() -> dict[str, str]:
    """The text of each page by its file's name."""
    written: dict[str, Callable[[], str]] = {
        "settings.md": settings,
        "commands.md": commands,
        "configuration.md": configuration,
        "metrics.md": metrics,
        "problems.md": problems,
        "artefact.md": artefact,
    }
    return {name: write() for name, write in written.items()}


def settings() -> str:
    """The service's settings."""
    meanings = _attribute_docs(Settings)
    defaults = msgspec.structs.asdict(Settings())
    defaults["workers"] = "one more than there are cores"
    rows = [
        (f"`{variable(name)}`", _value(defaults[name]), meanings[name].partition(": ")[2])
        for name in Settings.__struct_fields__
    ]
    return _page(
        "Settings of the service",
        "`serving/settings.py`",
        "The service reads its settings from environment variables. A variable that begins with "
        "`SERVING_` and is "
        "no setting stops the start, with the nearest known name; so does a value that is not possible. "
        "An empty "
        "variable counts as unset. `.venv/bin/python -m serving --help` prints this list.",
        _table(("variable", "if not set", "meaning"), rows),
    )


def commands() -> str:
    """The make targets and the packages' commands."""
    parts: list[str] = []
    group = "Help"
    for line in (ROOT / "Makefile").read_text(encoding="utf-8").splitlines():
        if title := re.fullmatch(r"# --- (.+) ---", line):
            group = title[1]
        elif target := re.match(r"([a-z][a-z-]*):.*## (.+)", line):
            if group:
                parts.append(
                    f"\n### {group[0].upper()}{group[1:]}\n\n| target | what it does |\n| --- | --- |"
                )
                group = ""
            parts.append(f"| `make {target[1]}` | {target[2]} |")
    packages = []
    for package in ("training", "evaluation", "serving"):
        rows = [
            (f"`python -m {package} {name}`", command.summary)
            for name, command in import_module(f"{package}.__main__").COMMANDS.items()
        ]
        packages += [f"\n### {package}\n", _table(("command", "what it does"), rows)]
    return _page(
        "Commands",
        "the `Makefile` and the packages' command tables",
        "`make` targets install what they need into `.venv`. Words in capitals are variables, as in "
        "`make train DATA=path/to/folder`. `--help` after any command of a package lists its options.\n\n"
        "Exit status: 0 is success, 1 a verdict against what was judged (a gate failed, a quantity "
        "drifted), 2 a "
        "wrong call or an error that is printed with its cause and next step, 130 an interrupt. `make` "
        "itself "
        "exits with 2 whenever a command fails.",
        "\n".join(["## make", *parts, "\n## Packages", *packages]),
    )


def configuration() -> str:
    """Every key of configs/data.yaml and configs/train.yaml."""
    parts = []
    for kind, name in ((DataConfig, "data"), (TrainConfig, "train")):
        values = yaml.safe_load((ROOT / f"configs/{name}.yaml").read_text(encoding="utf-8"))
        parts += [f"## configs/{name}.yaml", *_section(kind, values, "")]
    parts += ["## configs/continue.yaml", _overrides()]
    return _page(
        "Configuration of training",
        "`training/config.py` and `configs/`",
        "Every value is in a file; the code has no defaults. DVC tracks the same files, so a change "
        "reruns what "
        "depends on it and nothing else. Any key can be overridden for one run, as in "
        "`.venv/bin/python -m training fit --finetune.learning_rate 3e-5`; a further file is laid over with "
        "`--config configs/compact.yaml`. An unknown key is an error that names the nearest known one.",
        "\n\n".join(parts),
    )


def metrics() -> str:
    """The metrics of a service that has seen no request."""
    registry = CollectorRegistry()
    service = Metrics(registry)
    drift = DriftMonitor(registry, 10)
    drift.window = _filled_window(drift)
    labels = {
        metric._name: metric._labelnames  # noqa: SLF001 (prometheus_client tells them nowhere else)
        for metric in vars(service).values()
        if hasattr(metric, "_labelnames")
    }
    rows = []
    for family in (f for f in registry.collect() if f.name.startswith("classifier_")):
        names = labels.get(family.name) or {
            label for sample in family.samples for label in sample.labels if label not in ("le", "quantile")
        }
        suffix = {"counter": "_total", "info": "_info"}.get(family.type, "")
        rows.append((f"`{family.name}{suffix}`", family.type, ", ".join(sorted(names)), family.documentation))
    return _page(
        "Metrics",
        "`serving/telemetry`",
        "`GET /metrics` serves these as Prometheus text, or as OpenMetrics where the scraper asks for "
        "it. Names "
        "carry the unit; labels are bounded. [Watch](../watch.md) says which of them matter. "
        "Alongside are the usual `process_` and `python_` metrics of the Prometheus client.",
        _table(("metric", "type", "labels", "meaning"), sorted(rows)),
    )


def problems() -> str:
    """Every fault that a caller can meet."""
    rows = [
        (str(kind.status), f"`{code}`", kind.title, kind.example)
        for code, kind in sorted(KINDS.items(), key=lambda item: (item[1].status, item[0]))
    ]
    return _page(
        "Problems",
        "`serving/http/kinds.py`",
        f"Errors are [RFC 9457](https://www.rfc-editor.org/rfc/rfc9457) problem details. `type` is "
        f"`{TYPE_PREFIX}` "
        "followed by the code below and never changes; `detail` is one sentence about this request, and "
        "`request_id` finds it in the log. A 503 `overloaded` has a `Retry-After` header.",
        _table(("status", "code", "title", "a detail, for example"), rows),
    )


def artefact() -> str:
    """What is in a model file, and what it says of a photo."""
    kinds = (card.Card, card.Measured, card.InProduction, card.Lineage, reference.Reference, reference.Counts)
    parts = ["## The card, `card.json`", *(_struct(kind) for kind in kinds)]
    parts += ["## The probe, `probe.json`", _struct(artifact.ProbeImage)]
    parts += ["## What the handler says of a photo", _struct(answer.Answer), _struct(answer.Refusal)]
    return _page(
        "Artefact and card",
        "`serving/contract`",
        inspect.cleandoc(artifact.__doc__ or "").replace("\n- ", "\n\n- ", 1),
        "\n\n".join(parts),
    )


def _filled_window(drift: DriftMonitor) -> Any:
    """A window with one photo, so that every drift series exists."""
    module = sys.modules[type(drift).__module__]
    photo = {"brightness": 0.5, "confidence": 0.9}
    window = module.Window(reference.make_reference([photo] * 10, 2), 10)
    window.add(photo)
    return window


def _section(kind: type, values: Mapping[str, Any], prefix: str) -> list[str]:
    """A table of a dataclass's own keys, then one for each section in it."""
    hints, meanings = get_type_hints(kind), _argument_docs(kind)
    plain = [f.name for f in fields(kind) if not is_dataclass(hints[f.name])]
    rows = [(f"`{prefix}{name}`", _value(values[name]), meanings[name]) for name in plain]
    parts = [_table(("key", "value", "meaning"), rows)] if rows else []
    for f in fields(kind):
        if is_dataclass(hints[f.name]):
            title = inspect.cleandoc(hints[f.name].__doc__ or "").partition("\n")[0]
            parts += [f"### {f.name}", title, *_section(hints[f.name], values[f.name], f"{prefix}{f.name}.")]
    return parts


def _overrides() -> str:
    """What `make continue` changes of configs/train.yaml."""
    values = yaml.safe_load((ROOT / "configs/continue.yaml").read_text(encoding="utf-8"))
    rows = [
        (f"`{section}.{key}`", _value(value))
        for section, part in values.items()
        for key, value in part.items()
    ]
    return "What `make continue` changes of it.\n\n" + _table(("key", "value"), rows)


def _struct(kind: type) -> str:
    meanings = _attribute_docs(kind)
    rows = [
        (f"`{field.encode_name}`", f"`{_type(kind, field.name)}`", meanings.get(field.name, ""))
        for field in msgspec.structs.fields(kind)
        if field.name in kind.__annotations__
    ]
    about = inspect.cleandoc(kind.__doc__ or "")
    return f"### {kind.__name__}\n\n{about}\n\n" + _table(("field", "type", "meaning"), rows)


def _type(kind: type, field: str) -> str:
    return str(kind.__annotations__[field])


def _attribute_docs(kind: type) -> dict[str, str]:
    """The docstring below each field of a class."""
    (body,) = ast.parse(inspect.getsource(kind)).body
    assert isinstance(body, ast.ClassDef)  # noqa: S101 (it is the source of a class)
    found = {}
    for field, after in zip(body.body, body.body[1:], strict=False):
        if (
            isinstance(field, ast.AnnAssign)
            and isinstance(field.target, ast.Name)
            and isinstance(after, ast.Expr)
            and isinstance(after.value, ast.Constant)
        ):
            found[field.target.id] = " ".join(str(after.value.value).split())
    return found


def _argument_docs(kind: type) -> dict[str, str]:
    """The `Args:` of a class's docstring."""
    text = inspect.cleandoc(kind.__doc__ or "").partition("Args:\n")[2]
    found = re.findall(r"^    (\w+): (.+(?:\n {6,}.+)*)", text, re.MULTILINE)
    return {name: " ".join(meaning.split()) for name, meaning in found}


def _value(value: Any) -> str:
    return "" if value == "" else f"`{value}`".replace("'", "")


def _table(titles: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    titles = list(titles)
    lines = [titles, ["---"] * len(titles), *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _page(title: str, source: str, about: str, body: str) -> str:
    return f"# {title}\n\n{_NOTE.format(source=source)}\n{about}\n\n{body}\n"


if __name__ == "__main__":
    sys.exit(main())
