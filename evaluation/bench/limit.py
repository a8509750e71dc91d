"""The limit: decode and inference of the service's own handler in plain threads, with no HTTP.

`python -m evaluation.bench.limit MODEL SECONDS PHOTO...` prints photos a second, and milliseconds of a
core for each, as JSON.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from pathlib import Path

import torch

from evaluation.machine import cores
from serving.handler import ImageClassifierHandler, LocalContext


def measure(model: Path, photos: list[bytes], seconds: float) -> dict[str, float]:
    """`throughput` a second and `cpu_ms` a photo, one thread a core, each taking the photos in turn."""
    handler = ImageClassifierHandler()
    handler.initialize(LocalContext.for_file(model))
    counts = [0] * cores()
    stop = threading.Event()

    def work(worker: int) -> None:
        torch.set_num_threads(1)
        while not stop.is_set():
            handler.handle([{"body": photos[counts[worker] % len(photos)]}])
            counts[worker] += 1

    threads = [threading.Thread(target=work, args=(number,)) for number in range(len(counts))]
    for thread in threads:
        thread.start()
    time.sleep(1)  # warm
    before, began, cpu = sum(counts), time.perf_counter(), time.process_time()
    time.sleep(seconds)
    done, elapsed, used = sum(counts) - before, time.perf_counter() - began, time.process_time() - cpu
    stop.set()
    for thread in threads:
        thread.join()
    return {"throughput": done / elapsed, "cpu_ms": 1000 * used / done}


if __name__ == "__main__":
    model, seconds, *names = sys.argv[1:]
    print(json.dumps(measure(Path(model), [Path(name).read_bytes() for name in names], float(seconds))))
