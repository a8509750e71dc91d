"""Where the rehearsal works, and how it runs commands and servers."""

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
    """What was done and what came of it, for a person."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.failed = 0

    def check(self, what: str, holds: bool, figure: str = "") -> None:
        """One claim and whether it held."""
        self.failed += not holds
        self.lines.append(f"| {what} | {figure} | {'yes' if holds else '**NO**'} |")
        print(f"{'ok  ' if holds else 'FAIL'} {what} {figure}", flush=True)


@contextlib.contextmanager
def process(name: str, *command: str, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server for the block's time, its log in the rehearsal's folder."""
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
    """Run a command to its end."""
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=os.environ | environment, cwd=ROOT
    )
    if check and done.returncode:
        raise SystemExit(f"error: {' '.join(command)}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")
    return done


def get(url: str) -> tuple[int, str]:
    """Status and text; 0 if nobody answers."""
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except OSError as error:
        return 0, str(error)


def until(condition: Callable[[], bool], seconds: float) -> bool:
    """Wait for `condition`; tell whether it came."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.2)
    return False
