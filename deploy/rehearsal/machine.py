"""The folders and ports of a rehearsal, and helpers that run commands and servers."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

HERE = Path(__file__).resolve().parents[1]
ROOT = HERE.parent
WORK = ROOT / "build" / "rehearsal"
STATE = WORK / "state"
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cats-dogs"
PORTS = {
    "registry": 5055,
    "proxy": 8080,
    "prometheus": 9190,
    "alertmanager": 9193,
    "webhook": 9195,
    "wheels": 8099,
}
URL = f"http://127.0.0.1:{PORTS['proxy']}"


class Transcript:
    """The checks of a rehearsal with their results, as rows of a Markdown table."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.failed = 0

    def check(self, what: str, holds: bool, figure: str = "") -> None:
        """Record and print whether a claim holds."""
        self.failed += not holds
        self.lines.append(f"| {what} | {figure} | {'yes' if holds else '**NO**'} |")
        print(f"{'ok  ' if holds else 'FAIL'} {what} {figure}", flush=True)

    def table(self) -> str:
        """The checks so far, in Markdown."""
        return "\n".join(["| check | figure | passed |", "| --- | --- | --- |", *self.lines]) + "\n"


@contextlib.contextmanager
def process(name: str, *command: str, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server for the duration of the block; its log is in the rehearsal's folder."""
    with (WORK / f"{name}.log").open("wb") as log:
        running = subprocess.Popen(command, stdout=log, stderr=log, env=os.environ | environment)
        try:
            yield running
        finally:
            running.terminate()
            try:
                running.wait(30)
            except subprocess.TimeoutExpired:
                running.kill()


def sh(*command: str, check: bool = True, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end; exit with its output if it fails."""
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=os.environ | environment, cwd=ROOT
    )
    if check and done.returncode:
        raise SystemExit(
            f"error: this command failed: {' '.join(command)}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        )
    return done


def get(url: str) -> tuple[int, str]:
    """Return status and text of a response; 0 and the reason if there is none."""
    try:
        with urllib.request.urlopen(url, timeout=10) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except OSError as error:
        return 0, str(error)


def until(condition: Callable[[], bool], seconds: float) -> bool:
    """Wait until `condition` holds; report whether it did in time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.2)
    return False
