"""The limit: decoding and inference with the service's own handler in plain threads, without HTTP.

`python -m bench.limit MODEL` loads the artefact and waits. For each line of JSON on its input,
`{"photos": [path, ...], "seconds": s}`, it prints photos per second and milliseconds of CPU time per photo.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from common.processor import cores
from serving.runtime.handler import ImageClassifierHandler, load_handler

_WARM_SECONDS = 0.3


class Limit:
    """The limit of one artefact, measured on request in a process of its own."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def measure(self, photos: list[Path], seconds: int) -> dict[str, float]:
        """`throughput` per second and `cpu_ms` per photo."""
        assert self._process.stdin is not None  # noqa: S101 (it is a pipe)
        assert self._process.stdout is not None  # noqa: S101
        order = {"photos": [str(photo) for photo in photos], "seconds": seconds}
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        result: dict[str, float] = json.loads(self._process.stdout.readline())
        return result


@contextmanager
def running(model: Path) -> Iterator[Limit]:
    """Run the limit's process until the block ends."""
    command = [sys.executable, "-m", "bench.limit", str(model)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield Limit(process)
        process.communicate()  # closes its input, which ends it


def _measure(handler: ImageClassifierHandler, photos: list[bytes], seconds: float) -> dict[str, float]:
    """Run one thread per core, each taking the photos in turn."""
    counts = [0] * cores()
    stop = threading.Event()

    def work(worker: int) -> None:
        while not stop.is_set():
            handler.handle([{"body": photos[counts[worker] % len(photos)]}])
            counts[worker] += 1

    threads = [threading.Thread(target=work, args=(number,)) for number in range(len(counts))]
    for thread in threads:
        thread.start()
    time.sleep(_WARM_SECONDS)
    before, began, cpu = sum(counts), time.perf_counter(), time.process_time()
    time.sleep(seconds)
    done, elapsed, used = sum(counts) - before, time.perf_counter() - began, time.process_time() - cpu
    stop.set()
    for thread in threads:
        thread.join()
    return {"throughput": done / elapsed, "cpu_ms": 1000 * used / max(1, done)}


if __name__ == "__main__":
    loaded = load_handler(Path(sys.argv[1]))
    for line in sys.stdin:
        wanted = json.loads(line)
        bodies = [Path(name).read_bytes() for name in wanted["photos"]]
        print(json.dumps(_measure(loaded, bodies, wanted["seconds"])), flush=True)
