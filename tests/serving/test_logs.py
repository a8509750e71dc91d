"""The log: one line a record, written by a thread of its own, dropped and counted when nobody takes it."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from serving.telemetry import logs
from serving.telemetry.lines import LineWriter
from tests.tiny import ROOT


def notice(count: int) -> bytes:
    """The line that reports dropped lines."""
    return b"%d dropped" % count


class Pipe:
    """A pipe of 64 KiB, and the writers of its lines."""

    def __init__(self) -> None:
        ends = os.pipe()
        self.reader, self.end = os.fdopen(ends[0], "rb"), os.fdopen(ends[1], "wb", buffering=0)
        self._writers: list[LineWriter] = []

    def writer(self, **options: int) -> LineWriter:
        """A writer into the pipe."""
        self._writers.append(LineWriter(self.end.fileno(), notice, **options))
        return self._writers[-1]

    def close(self) -> None:
        """End the reader, which ends the writers, and then close the pipe."""
        self.reader.close()
        for writer in self._writers:
            assert writer.close(10)
        self.end.close()


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    """A pipe that nobody reads unless the test does."""
    made = Pipe()
    yield made
    made.close()


def until(condition: Callable[[], bool]) -> None:
    """Wait until a condition holds."""
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def read_all(pipe: Pipe) -> list[bytes]:
    """The lines that come until the other end is closed."""
    return pipe.reader.read().splitlines()


def test_lines_arrive_in_their_order(pipe: Pipe):
    """All that were put before the end, from several threads, each whole."""
    writer = pipe.writer()
    threads = [
        threading.Thread(target=lambda t=t: [writer.put(b"%d %d" % (t, n)) for n in range(100)])
        for t in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert writer.close(5)
    pipe.end.close()
    lines = [tuple(map(int, line.split())) for line in read_all(pipe)]
    assert len(lines) == 400
    assert all([n for t, n in lines if t == thread] == list(range(100)) for thread in range(4))
    assert writer.dropped == 0


def test_a_reader_that_does_not_read_costs_lines_and_no_time(pipe: Pipe):
    """Lines beyond the bound are dropped and counted; later, one line says how many, in their place."""
    writer = pipe.writer(most_lines=100)
    counted: list[int] = []
    writer.report_drops(counted.append)
    began = time.monotonic()
    for number in range(2000):
        writer.put(b"%04d" % number + b"x" * 995)
    assert time.monotonic() - began < 2
    assert sum(counted) == writer.dropped > 1500
    lines: list[bytes] = []
    taker = threading.Thread(target=lambda: lines.extend(read_all(pipe)))
    taker.start()
    until(lambda: not writer._lines)
    writer.put(b"after")
    assert writer.close(5)
    pipe.end.close()
    taker.join()
    assert lines.pop() == b"after"
    expected = 0
    for line in lines:
        if line.endswith(b" dropped"):
            expected += int(line.split()[0])
        else:
            assert int(line[:4]) == expected
            expected += 1
    assert expected == 2000


def test_the_bytes_that_wait_are_bounded_too(pipe: Pipe):
    """Few long lines fill the queue as many short ones do."""
    writer = pipe.writer(most_bytes=1_000_000)
    for _ in range(100):
        writer.put(bytes(100_000))
    assert writer._bytes <= 1_000_000
    assert writer.dropped >= 85


def test_a_reader_that_has_ended_costs_lines_alone(pipe: Pipe):
    """The thread lives on, and counts each line that was lost."""
    pipe.reader.close()
    writer = pipe.writer()
    for _ in range(10):
        writer.put(b"line")
    until(lambda: writer.dropped == 10)
    assert writer.close(5)


def test_a_closed_terminal_costs_lines_alone():
    """Each write to it fails; the thread lives on, and the end does not wait."""
    master, terminal = os.openpty()
    os.close(master)
    writer = LineWriter(terminal, notice)
    for _ in range(10):
        writer.put(b"line")
    until(lambda: writer.dropped == 10)
    assert writer.close(5)
    os.close(terminal)


def test_a_full_disk_costs_lines_until_there_is_space(tmp_path: Path):
    """The lines that did not fit are reported, and a line that was cut off is ended."""
    path = tmp_path / "log"
    code = (
        "import os, resource, sys, time\n"
        "from serving.telemetry.lines import LineWriter\n"
        "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (10, 1000))\n"
        "writer = LineWriter(1, lambda count: b'%d dropped' % count)\n"
        "for _ in range(3):\n"
        "    before = writer.dropped\n"
        "    writer.put(b'1234567')\n"
        "    while writer._lines or writer.dropped == before and not os.fstat(1).st_size: time.sleep(0.001)\n"
        "    time.sleep(0.05)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "writer.put(b'after')\n"
        "assert writer.close(5)\n"
    )
    with path.open("ab") as file:
        subprocess.run([sys.executable, "-c", code], cwd=ROOT, stdout=file, check=True, timeout=30)
    assert path.read_bytes() == b"1234567\n12\n2 dropped\nafter\n"


def test_a_descriptor_that_does_not_block_loses_nothing(pipe: Pipe):
    """As a parent process may leave it: the thread waits until there is space again."""
    fcntl.fcntl(pipe.end, fcntl.F_SETFL, os.O_NONBLOCK)
    writer = pipe.writer()
    for number in range(300):
        writer.put(b"%03d" % number + b"x" * 997)
    until(lambda: not writer._lines or len(writer._lines) < 300)
    lines: list[bytes] = []
    taker = threading.Thread(target=lambda: lines.extend(read_all(pipe)))
    taker.start()
    assert writer.close(5)
    pipe.end.close()
    taker.join()
    assert [int(line[:3]) for line in lines] == list(range(300))


def test_the_end_does_not_wait_for_a_reader_that_does_not_read(pipe: Pipe):
    """Closing gives up after its time; lines that come later are dropped."""
    writer = pipe.writer()
    for _ in range(200):
        writer.put(bytes(1000))
    began = time.monotonic()
    assert not writer.close(0.1)
    assert time.monotonic() - began < 1
    writer.put(b"late")
    assert writer.dropped == 1


def test_a_record_logged_while_the_queue_is_locked_is_taken(pipe: Pipe):
    """The garbage collector may run, and log, while its thread puts a line."""
    writer = pipe.writer()
    with writer._changed:
        writer.put(b"inner")
    assert writer.close(5)
    pipe.end.close()
    assert read_all(pipe) == [b"inner"]


class Hostile:
    """A value that cannot even be shown."""

    def __repr__(self) -> str:
        raise RuntimeError


@pytest.mark.parametrize(
    "value",
    [
        "plain",
        "line\nfeed",
        "\ud800",
        2**80,
        float("nan"),
        {1, 2},
        b"\xff",
        Path("x"),
        {"a": object},
        Hostile(),
    ],
)
def test_any_value_becomes_one_line_of_json(value: object):
    """Surrogates, huge integers, types that JSON does not know, and those that raise."""
    line = logs.render({"event": "e", "value": value})
    assert "\n" not in line
    assert json.loads(line)["event"]


CONFIGURED = """
import gc, logging, os, sys, threading, warnings
import structlog
from serving.telemetry import logs
log = logs.configure("info", sys.argv[1])
{body}
log.close()
"""


def run(body: str, style: str = "json", **options: object) -> subprocess.CompletedProcess[str]:
    """Run some lines in a process with a configured log."""
    return subprocess.run(
        [sys.executable, "-c", CONFIGURED.format(body=body), style],
        cwd=ROOT,
        text=True,
        timeout=30,
        check=False,
        **({"capture_output": True} | options),
    )


def test_all_that_a_process_says_is_in_one_log():
    """Records of both kinds, warnings, the error of a thread and one that nobody can catch."""
    done = run(
        "structlog.get_logger().info('first', number=1)\n"
        "logging.getLogger('uvicorn.error').warning('second %d', 2)\n"
        "logging.getLogger('x').error('%d', 'no number')\n"
        "warnings.warn('third')\n"
        "thread = threading.Thread(target=lambda: 1 / 0, name='t'); thread.start(); thread.join()\n"
        "class Gone:\n"
        "    def __del__(self): raise ValueError('late')\n"
        "Gone(); gc.collect()\n"
        "try: 1 / 0\n"
        "except ZeroDivisionError: structlog.get_logger().exception('last')\n"
    )
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    events = [line["event"] for line in lines]
    assert events[:3] == ["first", "second 2", "a record cannot be formatted"]
    assert "third" in events[3]
    assert (events[4], lines[4]["thread"]) == ("a thread failed", "t")
    assert "ValueError: late" in lines[5]["exception"]
    assert "ZeroDivisionError" in lines[6]["exception"]
    assert {"timestamp", "level"} <= lines[0].keys()
    assert (done.returncode, done.stderr) == (0, "")


def test_a_person_reads_text():
    """The other style, with a trace."""
    done = run("structlog.get_logger().error('went wrong', exc_info=ValueError('why'))", "console")
    assert "went wrong" in done.stdout
    assert "ValueError: why" in done.stdout
    assert done.stderr == ""


def test_a_rotation_may_truncate_the_file(tmp_path: Path):
    """As logrotate's copytruncate does: the next line is at the start, not after a hole of zeros."""
    path = tmp_path / "log"
    body = (
        "structlog.get_logger().info('before')\n"
        "while not log.writer._thread.is_alive() or os.fstat(1).st_size == 0: pass\n"
        "os.ftruncate(1, 0)\n"
        "structlog.get_logger().info('after')\n"
    )
    with path.open("wb") as file:  # as `> log` does: not for appending
        run(body, capture_output=False, stdout=file, stderr=subprocess.DEVNULL)
    assert json.loads(path.read_text())["event"] == "after"


def test_a_closed_standard_output_is_not_taken_for_another_file(tmp_path: Path):
    """Started with `>&-`, the next file or socket would get its number, and the log in it."""
    path = tmp_path / "other"
    body = (
        f"other = open({str(path)!r}, 'w'); structlog.get_logger().info('secret'); assert other.fileno() > 2"
    )
    done = subprocess.run(
        ["sh", "-c", 'exec "$@" >&- 2>&-', "sh", sys.executable, "-c", CONFIGURED.format(body=body), "json"],
        cwd=ROOT,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0
    assert path.read_text() == ""


def test_a_full_standard_error_delays_no_library(pipe: Pipe):
    """Libraries report corrupt images there, from within a decoder; the shell's own end still blocks."""
    body = "for _ in range(1000):\n    try: os.write(2, bytes(1000))\n    except BlockingIOError: pass"
    began = time.monotonic()
    done = run(body, capture_output=False, stdout=subprocess.DEVNULL, stderr=pipe.end)
    assert done.returncode == 0
    assert time.monotonic() - began < 20
    assert not fcntl.fcntl(pipe.end, fcntl.F_GETFL) & os.O_NONBLOCK


def test_logging_in_this_process_is_as_it_was():
    """Only the service's own process is configured: nothing here has changed the tests' logging."""
    assert not any(type(handler) is logs._Handler for handler in logging.getLogger().handlers)
    assert warnings.showwarning.__module__ != "logging"
