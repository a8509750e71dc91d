"""The page that `make bench` writes, and its pictures."""

from __future__ import annotations

from typing import Any, Final

from matplotlib.figure import Figure
from matplotlib.patches import Patch

from bench import services
from bench.peer import LEFT_OUT, PEERS
from bench.ratios import MAIN, limit_of, ours_for, ratio, targets
from evaluation.figures import pictures

CALLERS: Final = 16
_NO_NETWORK: Final = ("null", "uncomputed")

_COLUMNS: Final = (
    *("service", f"photos/s {MAIN}", "share of limit", "ours relative to it", "p50 ms", "p99 ms"),
    *("one caller p50 ms", "photos/s 224x224", "photos/s 4000x3000", "CPU ms per photo", "resident MB"),
    *("cold start s", "installed MB"),
)
_MEDIANS: Final = {
    f"{MAIN}.p50_ms": 0,
    f"{MAIN}.p99_ms": 0,
    f"{MAIN}.one.p50_ms": 1,
    "224x224.throughput": 1,
    "4000x3000.throughput": 1,
    f"{MAIN}.cpu_ms": 1,
    "resident_mb": 0,
    "ready_seconds": 1,
    "installed_mb": 0,
}
"""Decimals by figure, in the order of the last columns."""
_TITLES: Final = {
    "limit": "the limit: decoding and inference in plain threads, no HTTP",
    **{f"limit_{kind}": f"the limit with {name}" for kind, name in services.OTHERS.items()},
    **{f"ours_{kind}": f"this service, {name}" for kind, name in services.OTHERS.items()},
    "ours": services.ours().title,
    "null": services.null().title,
    "uncomputed": services.uncomputed().title,
    **{name: peer.title for name, peer in PEERS.items()},
}


def as_markdown(results: dict[str, Any]) -> str:
    """The page: conditions, table, time per photo, overload, and what was not measured."""
    medians = results["medians"]
    measured = [name for name in medians if f"{MAIN}.throughput" in medians[name]]
    order = sorted(measured, key=lambda name: -medians[name][f"{MAIN}.throughput"])
    lines = [
        "# Performance",
        "",
        f"Made by `make bench`; do not edit. {results['machine']}.",
        f"Medians of {results['rounds']} rounds of {results['seconds']} s in turns. Ratios are taken within",
        "a round; brackets hold the middle half of them.",
        f"Load: wrk with {CALLERS} callers (with one, where stated), multipart photos; the generator shares",
        "the machine with the service. Photos are synthetic, with the file size of photographs.",
        "",
        "This service lets libjpeg decode a photo of 4000x3000 at an eighth of its size. So do the peers",
        "that serve the same artefact (Pillow's `draft`), but for the row that says otherwise; the eager",
        "model and Keras decode all of the 12 megapixels. At 500x375 everyone decodes in full.",
        "",
        "- **Share of limit**: of decoding and inference with the served file in plain threads of this",
        "  project's code. OpenVINO is compared with the limit of ONNX Runtime.",
        "- **Ours relative to it**: this service with the file that the peer serves.",
        f"- **Cold start**: from the start of a process to its first answer; median of {results['starts']}.",
        "  After the first, its files are in the page cache.",
        "- **Installed**: the packages' files without bytecode and without CUDA's libraries, so about what",
        "  an image for a CPU adds to Python. Ours are the packages of `requirements/serve.txt` with torch,",
        "  or of `requirements/serve-onnx.txt`.",
        "",
        f"## Throughput: {results['processor']} with {results['instructions']}",
        "",
        "The figures hold for this processor and these instructions alone. int8 depends on them most: it",
        "gains from VNNI.",
        "",
        "![Throughput](images/performance.png)",
        "",
        "| " + " | ".join(_COLUMNS) + " |",
        "| --- " * len(_COLUMNS) + "|",
        *(_row(results, name) for name in order),
        "",
        f"## Targets at {MAIN}",
        "",
        *targets(results, _TITLES),
        "",
        "## Where the time per photo goes",
        "",
    ]
    lines += [
        "- " + _account(_TITLES[name], medians[limit], medians[name], results["cores"])
        for name in ("ours", *(f"ours_{kind}" for kind in services.OTHERS))
        if (limit := limit_of(name)) in medians and name in medians
    ]
    lines += ["", *_overload(results), "", "## Versions", ""]
    lines += [
        f"- {_TITLES[name]}: " + ", ".join(f"{package} {version}" for package, version in found.items())
        for name, found in results["versions"].items()
        if found
    ]
    lines += ["", "## Not measured", ""]
    left_out = results["missing"] | LEFT_OUT
    lines += [f"- {_TITLES.get(name, name)}: {why}" for name, why in left_out.items()]
    return "\n".join(lines) + "\n"


def _row(results: dict[str, Any], name: str) -> str:
    """One service of the table."""
    medians = results["medians"][name]
    cells = [
        _TITLES[name],
        f"{medians[f'{MAIN}.throughput']:.1f}",
        "" if name in _NO_NETWORK else _within(results, name, limit_of(name), "{:.0%}"),
        _within(results, ours_for(name), name, "{:.2f}x") if name in PEERS else "",
        *(f"{medians[key]:.{digits}f}" if medians.get(key) else "" for key, digits in _MEDIANS.items()),
    ]
    return "| " + " | ".join(cells) + " |"


def _overload(results: dict[str, Any]) -> list[str]:
    """Results of a fixed rate of requests."""
    lines = [
        f"## Overload: fixed rates of up to four times our capacity at {MAIN} (h2load)",
        "",
        "![Overload](images/overload.png)",
        "",
        "| service | offered/s | answered/s | p99 ms | refused | refusal p50 ms | refusal p99 ms | status |",
        "| --- |" + " --- |" * 7,
    ]
    for name, o in ((name, o) for name, values in results["overload"].items() for o in values):
        statuses = ", ".join(f"{code}: {count}" for code, count in o["statuses"].items())
        lines.append(
            f"| {_TITLES[name]} | {o['offered_per_second']:.0f} | {o['accepted_per_second']:.1f} | "
            f"{o['accepted_p99_ms']:.0f} | {o['refused_share']:.0%} | {o['refused_p50_ms']:.0f} | "
            f"{o['refused_p99_ms']:.0f} | {statuses} |"
        )
    return lines


def _within(results: dict[str, Any], over: str, under: str, form: str) -> str:
    """Median and quartiles of a ratio; empty if one of the two was not measured."""
    if over == under:
        return form.format(1)
    if not {over, under} <= results["samples"].keys():
        return ""
    found = ratio(results, over, under)
    return f"{form.format(found.median)} [{form.format(found.low)}, {form.format(found.high)}]"


def _account(title: str, limit: dict[str, float], ours: dict[str, float], cores: int) -> str:
    """Milliseconds of core time per photo: what uses them, and how many are idle."""
    whole = 1000 * cores / ours[f"{MAIN}.throughput"]
    used, compute = ours[f"{MAIN}.cpu_ms"], limit[f"{MAIN}.cpu_ms"]
    generator = ours[f"{MAIN}.generator_cpu_ms"]
    return (
        f"{title[0].upper()}{title[1:]}: {whole:.2f} ms of core time pass per photo. Decoding and "
        f"inference take {compute:.2f} in plain threads, the service {used - compute:.2f} more (HTTP, queue, "
        f"metrics, log, colder caches) and the load generator {generator:.2f}; "
        f"{max(0.0, whole - used - generator):.2f} are idle."
    )


def throughput_figure(results: dict[str, Any]) -> Figure:
    """Throughput of each service and of the limit."""
    medians = {
        n: m for n, m in results["medians"].items() if n not in _NO_NETWORK and f"{MAIN}.throughput" in m
    }
    order = sorted(medians, key=lambda name: medians[name].get(f"{MAIN}.throughput", 0.0))
    titles = _TITLES | {"limit": "limit (no HTTP)"}
    for kind, name in services.OTHERS.items():
        titles[f"limit_{kind}"] = f"limit, {name} (no HTTP)"
    figure = pictures.new_figure(8.5, 0.5 * len(order) + 1.3)
    axes = figure.add_subplot()
    values = [medians[name].get(f"{MAIN}.throughput", 0.0) for name in order]
    colours = [_colour(name) for name in order]
    axes.barh([titles[name] for name in order], values, color=colours)
    for position, value in enumerate(values):
        axes.text(value, position, f" {value:.0f}", va="center")
    axes.set_xlabel(
        f"photos per second, {MAIN} JPEG, {CALLERS} callers\n{results['machine']}\n{results['instructions']}"
    )
    axes.margins(x=0.1)
    meaning = {"the machine's limit": pictures.GREY, "this project": pictures.BLUE, "others": pictures.ORANGE}
    handles = [Patch(color=colour, label=label) for label, colour in meaning.items()]
    axes.legend(handles=handles, loc="lower right", frameon=False)
    return figure


def _colour(name: str) -> str:
    """Of its bar: this service is the same under another server."""
    if name.startswith("limit"):
        return pictures.GREY
    return pictures.BLUE if _TITLES[name].startswith(services.ours().title) else pictures.ORANGE


def overload_figure(results: dict[str, Any]) -> Figure:
    """Responses per second and their latency, against the offered rate."""
    runs = results["overload"]["ours"]
    offered = [run["offered_per_second"] for run in runs]
    figure = pictures.new_figure(8.5, 3.4)
    rate, late = figure.subplots(1, 2)
    rate.plot(offered, [run["accepted_per_second"] for run in runs], "o-", color=pictures.BLUE)
    capacity = results["medians"]["ours"][f"{MAIN}.throughput"]
    rate.axhline(
        capacity, color=pictures.GREY, linestyle=":", label=f"{capacity:.0f}, with {CALLERS} callers"
    )
    rate.legend(loc="lower right", frameon=False)
    rate.set(xlabel="requests offered per second", ylabel="answered per second", ylim=(0, None))
    late.plot(
        offered, [run["accepted_p99_ms"] for run in runs], "o-", color=pictures.BLUE, label="answers, p99"
    )
    refused = [run for run in runs if run["refused_share"]]
    late.plot(
        [run["offered_per_second"] for run in refused],
        [run["refused_p99_ms"] for run in refused],
        "s--", color=pictures.ORANGE, label="refusals, p99",
    )  # fmt: skip
    late.set(xlabel="requests offered per second", ylabel="latency, milliseconds", ylim=(0, None))
    late.legend(frameon=False)
    return figure
