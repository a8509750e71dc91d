"""The report of a live evaluation: record, replies and verdicts in; summary, JSON, page and pictures out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from common.files import write_json, write_text
from evaluation.figures import gates, intervals, metrics, pages, pictures
from evaluation.service.replies import Reply, as_arrays, stages_ms, with_prediction
from evaluation.service.results import Live

_TITLES: Final = {
    "confusion_matrix": "Confusion matrix: rows are labels, columns predictions",
    "reliability": "Reliability: accuracy at each confidence",
    "latency": "Latency per photo, measured by the client and by the service",
    "worst_mistakes": "Wrong predictions, most confident first",
}
"""Titles of the pictures, by name."""


def write(out: Path, live: Live, replies: list[Reply], verdicts: list[gates.Verdict]) -> str:
    """Write the whole report to `out`; return the summary in Markdown."""
    drawn = _draw(out, with_prediction(replies))
    summary = as_markdown(live, verdicts)
    page = pages.render(
        "live.html",
        live=live,
        measured=list(_measured(live)),
        verdicts=verdicts,
        outcome=gates.overall(verdicts),
        sentences=[sentence.replace("**", "") for sentence in _sentences(live)],
        latencies={"client": live.latency_ms} | live.service_ms,
        pictures=[(_TITLES[path.stem], pages.picture(path)) for path in drawn],
    )
    write_text(out / "summary.md", summary + "\n")
    write_text(out / "report.html", page)
    write_json(out / "live.json", live.as_json() | {"gates": gates.by_name(verdicts)})
    return summary


def _draw(out: Path, answered: list[Reply]) -> list[Path]:
    """Draw what the replies allow; delete other pictures of an earlier evaluation."""
    drawn = {}
    if answered:
        labels, probabilities, targets = as_arrays(answered)
        table = metrics.confusion(probabilities, targets)
        drawn = {
            "confusion_matrix": pictures.confusion_matrix(table, labels, "live"),
            "reliability": pictures.reliability_diagram(probabilities, targets, "live"),
            "latency": pictures.latency([reply.milliseconds for reply in answered], stages_ms(answered)),
        }
        if (probabilities.argmax(1) != targets).any():
            photos = [reply.path for reply in answered]
            drawn["worst_mistakes"] = pictures.worst_mistakes(photos, probabilities, targets, labels)
    for left in _TITLES.keys() - drawn.keys():
        (out / f"{left}.png").unlink(missing_ok=True)
    return [pictures.save(figure, out / f"{name}.png") for name, figure in drawn.items()]


def as_markdown(live: Live, verdicts: list[gates.Verdict]) -> str:
    """The summary for a person or a CI step."""
    lines = [
        f"### Live evaluation of {live.model.get('name', '?')} {live.model.get('version', '?')}",
        "",
        "| figure | value | 95 % interval | n |",
        "| --- | --- | --- | --- |",
        *(f"| {' | '.join(row)} |" for row in _measured(live)),
    ]
    for name, value in live.latency_ms.items():
        lines.append(f"| latency {name} | {value:.1f} ms | | {live.answered} |")
    for stage, values in live.service_ms.items():
        text = ", ".join(f"{name} {value:.1f}" for name, value in values.items())
        lines.append(f"| in the service, {stage} | {text} ms | | {live.answered} |")
    lines.append(f"| throughput | {live.throughput_per_second:.1f} photos/s | | {live.photos} |")
    errors = ", ".join(f"{kind}: {count}" for kind, count in live.errors.items()) or "none"
    lines += ["", f"Errors: {errors}; retries: {live.retries}.", "", *_sentences(live)]
    lines += ["", "```", gates.as_text(verdicts), "```"]
    return "\n".join(lines)


def _measured(live: Live) -> Iterator[tuple[str, str, str, str]]:
    """Name, value, interval and n of each measured figure."""
    if live.measured is None:
        return
    for name, figure in live.measured.summary().items():
        yield name.replace("_", " "), *intervals.show(figure)
    for label in live.measured.recall:
        yield f"precision of {label}", *intervals.show(live.measured.precision[label])
        yield f"recall of {label}", *intervals.show(live.measured.recall[label])


def _sentences(live: Live) -> list[str]:
    """Results of the comparisons with the test split and with the offline handler."""
    lines = []
    if test := live.against_test:
        low, high = 100 * test.difference.low, 100 * test.difference.high
        lines.append(
            f"Compared with the model's {test.split} split ({test.test_accuracy:.2%}, n={test.test_n}): "
            f"the difference lies between {low:+.2f} and {high:+.2f} points."
        )
    if same := live.consistency:
        model = "the expected one" if same.same_model else "NOT the expected one"
        lines.append(
            f"Compared with the offline handler (n={same.photos}): {same.other_answers or 0} other "
            f"predictions; the largest difference in a probability is {same.largest_difference:.1e}, and "
            f"the artefact's probe allows {same.allowed_difference:g}. The served model is {model} "
            f"({same.expected_sha256[:12]})."
        )
    return lines
