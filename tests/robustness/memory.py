"""`python -m tests.robustness.memory CSV PICTURE [SECONDS]`: a service's memory under each attack, drawn."""

from __future__ import annotations

import csv
import os
import sys
import time
from pathlib import Path

import matplotlib as mpl
import psutil

mpl.use("agg")

from matplotlib import pyplot as plt

from tests.processes import service
from tests.robustness.attackers import KINDS
from tests.robustness.conftest import Target
from tests.robustness.test_attacks import MOST_MB, Memory, attack


def draw(target: Target, csv_path: Path, picture: Path, seconds: float) -> None:
    """Run each attack in turn and then all at once; write the memory over time, and draw it."""
    spans: list[tuple[str, float, float]] = []
    with Memory(target) as memory:
        time.sleep(3)
        for kinds in [*([kind] for kind in KINDS), [*KINDS]]:
            began, running = time.time(), [attack(kind, target.url) for kind in kinds]
            for one in running:
                one.__enter__()
            time.sleep(seconds)
            for one in running:
                one.__exit__(None, None, None)
            spans.append((kinds[0] if len(kinds) == 1 else "all at once", began, time.time()))
            time.sleep(3)
    start = memory.curve[0][0]
    with csv_path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["seconds", "resident_mb", "attack"])
        for at, mb in memory.curve[::4]:
            name = next((kind for kind, began, ended in spans if began <= at <= ended), "")
            rows.writerow([f"{at - start:.1f}", f"{mb:.0f}", name])
    figure, axes = plt.subplots(figsize=(10, 4.2), layout="constrained")
    axes.plot([at - start for at, _ in memory.curve], [mb for _, mb in memory.curve], color="#0072B2", lw=1)
    for number, (name, began, ended) in enumerate(spans):
        axes.axvspan(
            began - start, ended - start, color="#D55E00" if number % 2 else "#999999", alpha=0.12, lw=0
        )
        axes.text((began + ended) / 2 - start, 40, name, rotation=90, ha="center", va="bottom", fontsize=8)
    axes.axhline(MOST_MB, color="#D55E00", ls="--", lw=1)
    axes.text(0, MOST_MB + 15, f"bound: {MOST_MB} MB", color="#D55E00", fontsize=9)
    axes.set(
        xlabel="seconds", ylabel="memory without libraries (MB)", ylim=(0, MOST_MB + 120), xlim=(0, None)
    )
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(picture, dpi=110)


def main(csv_path: str, picture: str, seconds: str = "20") -> None:
    """Start a service with its default settings, attack it, and draw."""
    with service({**os.environ}) as process:
        process.wait_for("ready")
        target = Target(process, process.url, psutil.Process(process.popen.pid))
        draw(target, Path(csv_path), Path(picture), float(seconds))


if __name__ == "__main__":
    main(*sys.argv[1:])
