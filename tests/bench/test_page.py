"""The page of the benchmark: figures of one processor, ratios within a round, and targets."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from bench import page, ratios, services
from bench.peer import PEERS

SPEEDS = {
    "null": 9000.0,
    "limit": 104.0,
    "limit_onnx": 150.0,
    "limit_int8": 200.0,
    "ours": 100.0,
    "ours_onnx": 144.0,
    "ours_int8": 160.0,
    "fastapi_threads": 120.0,
    "fastapi_onnx": 120.0,
    "litserve": 125.0,
    "keras": 10.0,
}


@pytest.fixture
def results() -> dict[str, Any]:
    """What `bench.run.measure` returns, of two rounds of which the second is twice as fast."""
    figures = dict.fromkeys((key for key in page._MEDIANS if "throughput" not in key), 5.0)
    sizes = dict.fromkeys(("224x224.throughput", "4000x3000.throughput"), 50.0)
    key = f"{ratios.MAIN}.throughput"
    overload = dict.fromkeys(
        ("offered_per_second", "accepted_per_second", "accepted_p99_ms", "refused_p50_ms", "refused_p99_ms"),
        1.0,
    )
    return {
        "machine": "Test CPU, 2 cores",
        "processor": "Test CPU",
        "instructions": "avx2, avx512_vnni",
        "cores": 2,
        "rounds": 2,
        "seconds": 1,
        "starts": 3,
        "versions": {"ours": {"torch": "9.9"}},
        "samples": {name: {key: [speed, 2 * speed]} for name, speed in SPEEDS.items()},
        "medians": {
            name: {key: 1.5 * speed, f"{ratios.MAIN}.generator_cpu_ms": 1.0, **figures, **sizes}
            for name, speed in SPEEDS.items()
        },
        "overload": {"ours": [overload | {"refused_share": 0.5, "statuses": {"200": 1, "503": 1}}]},
        "missing": {"bentoml": "it cannot be installed"},
    }


def row(text: str, title: str) -> list[str]:
    """The cells of the first row of that title."""
    (line, *_) = [line for line in text.splitlines() if line.startswith(f"| {title} |")]
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_the_heading_of_the_table_names_the_processor_and_its_instructions(results: dict[str, Any]):
    """Figures of int8 with and without VNNI are never mistaken for one another."""
    before, _, after = page.as_markdown(results).partition("## Throughput: Test CPU with avx2, avx512_vnni\n")
    assert "| service |" not in before
    assert "| service |" in after


def test_a_peer_is_compared_with_the_limit_and_with_ours_on_the_same_file(results: dict[str, Any]):
    """One on ONNX Runtime with ours on ONNX Runtime, one on TorchScript with ours on TorchScript."""
    text = page.as_markdown(results)
    assert row(text, PEERS["fastapi_onnx"].title)[2:4] == ["80% [80%, 80%]", "1.20x [1.20x, 1.20x]"]
    assert row(text, PEERS["fastapi_threads"].title)[3] == "0.83x [0.83x, 0.83x]"
    assert row(text, "this service, ONNX Runtime")[2:4] == ["96% [96%, 96%]", ""]


def test_every_row_has_a_cell_for_every_column(results: dict[str, Any]):
    """Also where a figure was not measured."""
    del results["medians"]["null"]["installed_mb"]
    text = page.as_markdown(results)
    table = text.partition("| service |")[2].partition("\n\n")[0].splitlines()[2:]
    assert len(table) == len(SPEEDS)
    assert {line.count("|") for line in table} == {len(page._COLUMNS) + 1}


def test_targets_say_what_was_met(results: dict[str, Any]):
    """From ratios within a round: the rounds differ by a factor of two, the ratios do not."""
    text = page.as_markdown(results).partition("## Targets")[2]
    int8 = row(text, "this service, ONNX Runtime, int8 / this service")
    assert int8[1:] == ["1.45", "1.600", "1.600 to 1.600", "2", "yes"]
    assert row(text, f"this service, ONNX Runtime / {PEERS['fastapi_threads'].title}")[-1] == "yes"
    assert row(text, f"this service, ONNX Runtime / {PEERS['litserve'].title}")[-1] == "no"


def test_a_target_without_its_peer_is_left_out(results: dict[str, Any]):
    """`--peers ''` measures none."""
    fewer = copy.deepcopy(results)
    del fewer["samples"]["litserve"], fewer["medians"]["litserve"]
    assert "LitServe" not in page.as_markdown(fewer).partition("## Targets")[2].partition("## Where")[0]


def test_what_is_not_measured_has_its_reason(results: dict[str, Any]):
    """A peer that failed, and servers that exist as containers."""
    text = page.as_markdown(results).partition("## Not measured")[2]
    assert f"- {PEERS['bentoml'].title}: it cannot be installed" in text
    assert "- Triton: " in text


def test_the_pictures_show_every_service(results: dict[str, Any]):
    """But for the one that computes nothing."""
    (axes,) = page.throughput_figure(results).axes
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert len(names) == len(SPEEDS) - 1
    assert services.null().title not in names
    assert "avx512_vnni" in axes.get_xlabel()
    assert len(page.overload_figure(results).axes) == 2
