"""The process that decodes what is large: same pixels, an end at the deadline, and nothing else with it."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import psutil
import pytest

from serving.contract.errors import BrokenImage, ImageTooLarge, UnsupportedImage
from serving.contract.preprocess import Limits, preprocess
from serving.engine.decoder import Decoder
from tests import hostile
from tests.pictures import encode, scene, turned


@pytest.fixture(scope="module")
def decoder() -> Iterator[Decoder]:
    """A running one."""
    made = Decoder(Limits())
    made.start()
    yield made
    made.close()


@pytest.mark.parametrize(
    "data", [encode(scene()), encode(scene(), "PNG"), turned(6)], ids=["JPEG", "PNG", "EXIF"]
)
def test_gives_the_pixels_that_the_service_would_decode(decoder: Decoder, data: bytes):
    """And the size and the format."""
    here, there = preprocess(data, 64), decoder.decode(data, 64, 20)
    np.testing.assert_array_equal(here.pixels, there.pixels)
    assert (here.format, here.width, here.height) == (there.format, there.width, there.height)


def test_gives_the_errors_that_the_service_would_raise(decoder: Decoder):
    """With their words."""
    for data, kind, words in (
        (encode(scene())[:500], BrokenImage, "truncated before its first scan, or corrupt"),
        (b"%PDF", UnsupportedImage, "a PDF document"),
        (hostile.jpeg_of_many_scans(), ImageTooLarge, "scans or more"),
    ):
        with pytest.raises(kind, match=words):
            decoder.decode(data, 64, 20)


def test_ends_at_the_deadline_and_starts_again(decoder: Decoder):
    """A process can be killed, a thread cannot."""
    decoder.start()
    before = decoder._process.pid
    os.kill(before, signal.SIGSTOP)
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        decoder.decode(encode(scene()), 64, 0.3)
    assert time.monotonic() - began < 3
    assert not psutil.pid_exists(before)
    assert decoder.decode(encode(scene()), 64, 20).width == 120


def test_a_crash_refuses_the_photo_and_nothing_else(decoder: Decoder):
    """As by a fault in a decoder."""
    decoder.start()
    os.kill(decoder._process.pid, signal.SIGSEGV)
    decoder._process.wait(10)
    decoder._process.poll = lambda: None  # it has not been seen to end
    with pytest.raises(BrokenImage, match="makes the decoder crash"):
        decoder.decode(encode(scene()), 64, 20)
    assert decoder.decode(encode(scene()), 64, 20).width == 120


def test_the_system_limits_its_memory():
    """Should an estimate be wrong, the photo is refused."""
    small = Decoder(Limits(max_bytes=1000, max_decode_bytes=1000))
    small.start()
    limit = psutil.Process(small._process.pid)
    deadline = time.monotonic() + 20
    while limit.rlimit(psutil.RLIMIT_DATA)[0] == psutil.RLIM_INFINITY:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert limit.rlimit(psutil.RLIMIT_DATA)[0] < 200e6
    small.close()


def test_it_ends_with_the_service(decoder: Decoder):
    """It reads that its socket is closed."""
    other = Decoder(Limits())
    other.start()
    other.decode(encode(scene()), 64, 20)
    other._socket.close()
    assert other._process.wait(10) == 0
    other.close()


def stopped(decoder: Decoder) -> bool:
    """Whether its process is stopped."""
    return psutil.Process(decoder._process.pid).status() == psutil.STATUS_STOPPED


def test_it_stops_in_the_middle_of_a_decode_and_goes_on(decoder: Decoder):
    """Held, it does nothing; continued, it gives the pixels; and it is never left stopped."""
    decoder.start()
    decoder.hold(True)
    assert not stopped(decoder), "there is nothing to stop"
    with ThreadPoolExecutor(1) as pool:
        pixels = pool.submit(decoder.decode, encode(scene()), 64, 20)
        until = time.monotonic() + 10
        while not stopped(decoder):
            assert time.monotonic() < until
            time.sleep(0.005)
        time.sleep(0.2)
        assert not pixels.done()
        decoder.hold(False)
        assert pixels.result(20).width == scene().width
    assert not stopped(decoder)
    decoder.hold(True)
    with pytest.raises(TimeoutError):
        decoder.decode(encode(scene()), 64, 0.2)
    decoder.hold(False)
    decoder.decode(encode(scene()), 64, 20)


def test_a_stopped_one_ends_with_the_service():
    """Nobody is left to continue it."""
    other = Decoder(Limits())
    other.start()
    other.decode(encode(scene()), 64, 20)
    other._process.send_signal(signal.SIGSTOP)
    other._lifeline.close()
    other._socket.close()
    assert other._process.wait(10) == 0
    other.close()


@pytest.mark.skipif(not hasattr(os, "SCHED_IDLE"), reason="only Linux knows this policy")
def test_it_takes_only_what_others_leave_of_the_processor(decoder: Decoder):
    """A thread that wakes is put onto its core as if that were free."""
    decoder.start()
    assert decoder._process
    until = time.monotonic() + 10
    while os.sched_getscheduler(decoder._process.pid) != os.SCHED_IDLE:
        assert time.monotonic() < until
        time.sleep(0.01)
