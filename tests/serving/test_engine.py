"""Admission, deadlines, disconnects, drain: the engine with a handler whose speed the test sets."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from serving.contract.errors import DeadlineExceeded, NotReady, Overloaded
from serving.contract.structure.model import Structure
from serving.engine.workers import Engine, EngineLimits
from serving.runtime.handler import Batch
from serving.telemetry.metrics import Metrics


class Gate:
    """A handler that computes when the test lets it."""

    artifact = SimpleNamespace(card=SimpleNamespace(input_size=8))
    limits = None

    def __init__(self) -> None:
        self.open, self.entered = threading.Event(), threading.Semaphore(0)
        self.large_open = self.open
        self.computed: list[bytes] = []
        self.batches: list[int] = []
        self.holds: list[bool] = []
        self.failure: BaseException | None = None

    def decode(self, data: bytes, size: int, timeout_seconds: float) -> bytes:
        """What the process for large photos does."""
        del size, timeout_seconds
        self.entered.release()
        assert self.large_open.wait(20)
        return data

    def start(self) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""

    def hold(self, held: bool) -> None:
        """What is asked."""
        self.holds.append(held)

    def inspect(self, body: bytes) -> Structure:
        """A photo is as costly as its bytes say."""
        seconds = 1.0 if body.startswith(b"large") else 0.01
        return Structure("JPEG", 8, 8, 100 * len(body), seconds, body)

    def preprocess(self, data: list[dict[str, bytes]]) -> Batch:
        if isinstance(data[0]["known"], Structure):
            self.entered.release()
            assert self.open.wait(20)
        if self.failure:
            failure, self.failure = self.failure, None
            raise failure
        self.computed += [item["body"] for item in data]
        self.batches.append(len(data))
        return Batch([None] * len(data), None)

    def inference(self, batch: Batch) -> Batch:
        return batch

    def postprocess(self, batch: Batch) -> list[dict[str, str]]:
        return [{"prediction": "cat"} for _ in batch.images]


def with_free_decoders() -> Gate:
    """A handler whose large decodes do not wait for the test."""
    handler = Gate()
    handler.large_open = threading.Event()
    handler.large_open.set()
    return handler


class Clock:
    """Monotonic seconds that the test moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@contextmanager
def started(handler: Gate, **options: Any) -> Iterator[tuple[Engine, Clock, CollectorRegistry]]:
    """An engine with one worker, closed at the end."""
    registry, clock = CollectorRegistry(), Clock()
    limits = {"workers": 1, "queue_size": 10, "deadline_seconds": 2.0}
    limits |= {name: options.pop(name) for name in [*options] if name in EngineLimits.__dataclass_fields__}
    engine = Engine(
        handler,
        Metrics(registry),
        EngineLimits(**limits),
        **{"clock": clock, "make_decoder": lambda _: handler} | options,
    )
    engine.start()
    try:
        yield engine, clock, registry
    finally:
        handler.open.set()
        handler.large_open.set()
        assert engine.close(10)


def rejected(registry: CollectorRegistry, reason: str) -> float | None:
    """How often the engine refused for a reason."""
    return registry.get_sample_value("classifier_rejected_total", {"reason": reason})


async def busy(engine: Engine, clock: Clock, handler: Gate) -> asyncio.Task[Any]:
    """One request that occupies the worker."""
    task = asyncio.create_task(engine.submit(b"first", clock()))
    assert await asyncio.to_thread(handler.entered.acquire, timeout=10)
    return task


def test_a_full_queue_refuses_at_once():
    """The request that does not fit is refused while the others wait, with a time to retry."""
    handler = Gate()

    async def play(engine: Engine, clock: Clock) -> None:
        tasks = [await busy(engine, clock, handler)]
        tasks += [asyncio.create_task(engine.submit(b"x", clock())) for _ in range(3)]
        await asyncio.sleep(0)
        with pytest.raises(Overloaded) as refused:
            await engine.submit(b"too many", clock())
        assert (refused.value.reason, refused.value.retry_after_seconds > 0) == ("queue-full", True)
        handler.open.set()
        assert len(await asyncio.gather(*tasks)) == 4

    with started(handler, queue_size=3) as (engine, clock, registry):
        asyncio.run(play(engine, clock))
        assert rejected(registry, "queue-full") == 1
        assert len(handler.computed) == 4


def test_what_cannot_be_in_time_is_refused_at_once():
    """At a measured 1 s per photo and a deadline of 2 s, the third in the queue is hopeless."""
    handler = Gate()

    async def play(engine: Engine, clock: Clock) -> None:
        handler.open.set()
        for _ in range(80):  # each takes one second by the clock
            handler.open.clear()
            task = await busy(engine, clock, handler)
            clock.now += 1
            handler.open.set()
            await task
        handler.open.clear()
        tasks = [await busy(engine, clock, handler)]
        refused = None
        while refused is None and len(tasks) < 6:
            task = asyncio.create_task(engine.submit(b"x", clock()))
            done, _ = await asyncio.wait({task}, timeout=0.05)
            refused = task.exception() if done else None
            tasks.append(task)
        assert isinstance(refused, Overloaded)
        assert "more than the 2 s that are allowed" in refused.detail
        assert len(tasks) <= 3
        assert refused.reason == "too-slow"
        assert 0 < refused.retry_after_seconds < 5
        handler.open.set()
        await asyncio.gather(*tasks, return_exceptions=True)

    with started(handler) as (engine, clock, registry):
        asyncio.run(play(engine, clock))
        assert rejected(registry, "too-slow") == 1


def test_time_that_runs_out_in_the_queue_is_not_computed():
    """The client has given up: its photo costs nothing more."""
    handler = Gate()

    async def play(engine: Engine, clock: Clock) -> None:
        first = await busy(engine, clock, handler)
        second = asyncio.create_task(engine.submit(b"late", clock()))
        await asyncio.sleep(0)
        clock.now += 3
        handler.open.set()
        await first
        with pytest.raises(DeadlineExceeded):
            await second

    with started(handler) as (engine, clock, registry):
        asyncio.run(play(engine, clock))
        assert rejected(registry, "deadline") == 1
        assert handler.computed == [b"first"]


def test_a_request_whose_client_disconnects_is_not_computed():
    """A cancelled request leaves the queue unseen by the handler."""
    handler = Gate()

    async def play(engine: Engine, clock: Clock) -> None:
        first = await busy(engine, clock, handler)
        second = asyncio.create_task(engine.submit(b"gone", clock()))
        await asyncio.sleep(0)
        second.cancel()
        await asyncio.wait({second})
        third = asyncio.create_task(engine.submit(b"third", clock()))
        await asyncio.sleep(0)
        handler.open.set()
        await first
        await third

    with started(handler) as (engine, clock, registry):
        asyncio.run(play(engine, clock))
        assert rejected(registry, "disconnected") == 1
        assert handler.computed == [b"first", b"third"]


@pytest.mark.parametrize("failure", [RuntimeError("x"), MemoryError(), SystemExit(1)])
def test_a_worker_survives_any_error_and_answers(failure: BaseException):
    """The failing request gets an error, the next one its answer, from the same worker."""
    handler = Gate()
    handler.open.set()
    handler.failure = failure

    async def play(engine: Engine, clock: Clock) -> None:
        with pytest.raises(Exception, match=r".*"):
            await asyncio.wait_for(engine.submit(b"bad", clock()), 10)
        await asyncio.wait_for(engine.submit(b"good", clock()), 10)

    with started(handler) as (engine, clock, _registry):
        asyncio.run(play(engine, clock))
        assert handler.computed == [b"good"]


def test_closing_computes_what_was_accepted_and_takes_nothing_more():
    """Nothing accepted is lost; a new request is refused."""
    handler = Gate()

    async def play(engine: Engine, clock: Clock) -> None:
        tasks = [await busy(engine, clock, handler)]
        tasks += [asyncio.create_task(engine.submit(b"waiting", clock())) for _ in range(4)]
        await asyncio.sleep(0)
        closing = asyncio.create_task(asyncio.to_thread(engine.close, 10))
        refused = None
        while not isinstance(refused, NotReady):  # a thread closes it
            refused = await refusal(engine.submit(b"", clock()))
        handler.open.set()
        assert await closing
        assert len(await asyncio.gather(*tasks)) == 5

    with started(handler) as (engine, clock, registry):
        asyncio.run(play(engine, clock))
        assert registry.get_sample_value("classifier_queue_depth") == 0
        assert registry.get_sample_value("classifier_in_flight") == 0


async def refusal(answer: Awaitable[Any]) -> Exception | None:
    """The error of an answer that is there at once; None if it is not."""
    task = asyncio.ensure_future(answer)
    done, _ = await asyncio.wait({task}, timeout=0.001)
    task.cancel()
    return task.exception() if done else None


def test_a_stuck_worker_is_replaced_at_once_and_finishes_aside():
    """Its client gets 504 at the deadline, the next an answer, and the stuck thread ends when it returns."""
    handler = Gate()

    async def play(engine: Engine, clock: Clock, registry: CollectorRegistry) -> None:
        stuck = await busy(engine, clock, handler)
        clock.now += 40
        with pytest.raises(DeadlineExceeded):
            await asyncio.wait_for(stuck, 10)
        engine.replace_stuck()
        assert registry.get_sample_value("classifier_stuck_workers") == 1
        assert registry.get_sample_value("classifier_in_flight") == 0
        assert engine.stalled_seconds() == 0
        second = await busy(engine, clock, handler)
        handler.open.set()
        await asyncio.wait_for(second, 10)
        while registry.get_sample_value("classifier_stuck_workers"):  # noqa: ASYNC110 (a thread ends it)
            await asyncio.sleep(0.001)
        assert handler.computed.count(b"first") == 2

    with started(handler, deadline_seconds=0.1) as (engine, clock, registry):
        asyncio.run(play(engine, clock, registry))
        assert rejected(registry, "deadline") == 1


def test_it_is_stalled_once_no_more_workers_can_be_replaced():
    """As many finish aside as there are workers; then only a restart helps, and time counts."""
    handler = Gate()

    async def play(engine: Engine, clock: Clock) -> None:
        tasks = []
        for _ in range(2):
            tasks.append(await busy(engine, clock, handler))
            clock.now += 40
            engine.replace_stuck()
        assert engine.stalled_seconds() == pytest.approx(40 - 2)
        handler.open.set()
        await asyncio.gather(*tasks, return_exceptions=True)
        while engine.stalled_seconds():  # noqa: ASYNC110 (a thread ends it)
            await asyncio.sleep(0.001)

    with started(handler) as (engine, clock, _):
        asyncio.run(play(engine, clock))


def test_slow_photos_do_not_refuse_the_next_ones():
    """The average is clipped: after a photo of 50 s, an idle engine admits a burst."""
    handler = Gate()
    handler.open.set()

    async def play(engine: Engine, clock: Clock) -> None:
        handler.open.clear()
        slow = await busy(engine, clock, handler)
        clock.now += 50
        handler.open.set()
        await asyncio.wait({slow})
        handler.open.clear()
        tasks = [await busy(engine, clock, handler)]
        tasks += [asyncio.create_task(engine.submit(b"x", clock())) for _ in range(9)]
        await asyncio.sleep(0)
        handler.open.set()
        assert len(await asyncio.gather(*tasks)) == 10

    with started(handler, deadline_seconds=2.0) as (engine, clock, _):
        asyncio.run(play(engine, clock))


def test_a_large_photo_waits_aside_and_delays_no_other():
    """The only worker inspects it and hands it on."""
    handler = Gate()
    handler.large_open = threading.Event()

    async def play(engine: Engine, clock: Clock) -> None:
        large = asyncio.create_task(engine.submit(b"large", clock()))
        assert await asyncio.to_thread(handler.entered.acquire, timeout=10)
        handler.open.set()
        for _ in range(3):
            await asyncio.wait_for(engine.submit(b"small", clock()), 10)
        assert not large.done()
        handler.large_open.set()
        await asyncio.wait_for(large, 10)

    with started(handler) as (engine, clock, _):
        asyncio.run(play(engine, clock))
        assert handler.computed == [b"small"] * 3 + [b"large"]


def test_large_decodes_are_held_while_photos_need_all_cores():
    """And go on when one is free: with three cores, the third photo stops them."""
    handler = Gate()

    async def play(engine: Engine, clock: Clock) -> None:
        photos = []
        for held in ([], [], [True]):
            photos.append(await busy(engine, clock, handler))
            assert handler.holds == held
        handler.open.set()
        await asyncio.gather(*photos)

    with started(handler, workers=4) as (engine, clock, _):
        asyncio.run(play(engine, clock))
    assert handler.holds == [True, False]


def test_an_explanation_waits_while_photos_are_computed():
    """It is decoded at once, but begins after the photo that occupies the worker."""
    handler = with_free_decoders()

    async def play(engine: Engine, clock: Clock) -> None:
        photo = await busy(engine, clock, handler)
        work = engine.compute(b"map", clock(), lambda _: None, seconds=0.1, memory_bytes=0)
        explanation = asyncio.create_task(work)
        assert await asyncio.to_thread(handler.entered.acquire, timeout=10)
        await asyncio.sleep(0.05)
        assert not explanation.done()
        handler.open.set()
        await asyncio.wait_for(photo, 10)
        await asyncio.wait_for(explanation, 10)

    with started(handler) as (engine, clock, _):
        asyncio.run(play(engine, clock))


def test_an_explanation_does_not_wait_until_it_is_too_late():
    """With 0.1 s left for it, it begins whatever else is computed."""
    handler = with_free_decoders()

    async def play(engine: Engine, clock: Clock) -> None:
        photo = await busy(engine, clock, handler)
        explained, _ = await asyncio.wait_for(
            engine.compute(b"map", clock(), lambda _: "map", seconds=1.9, memory_bytes=0), 10
        )
        assert explained == "map"
        assert not photo.done()
        handler.open.set()
        await photo

    with started(handler) as (engine, clock, _):
        asyncio.run(play(engine, clock))


def test_large_photos_are_admitted_by_the_sum_of_their_costs():
    """Each takes a second of the two: the third is refused at once."""
    handler = Gate()
    handler.open.set()
    handler.large_open = threading.Event()

    async def play(engine: Engine, clock: Clock) -> None:
        first = asyncio.create_task(engine.submit(b"large", clock()))
        assert await asyncio.to_thread(handler.entered.acquire, timeout=10)
        second = asyncio.create_task(engine.submit(b"large", clock()))
        await asyncio.wait_for(engine.submit(b"small", clock()), 10)
        with pytest.raises(Overloaded, match=r"would take 3\.0 s") as refused:
            await asyncio.wait_for(engine.submit(b"large", clock()), 10)
        assert refused.value.retry_after_seconds == pytest.approx(1)
        handler.large_open.set()
        await asyncio.gather(first, second)

    with started(handler) as (engine, clock, registry):
        asyncio.run(play(engine, clock))
        assert rejected(registry, "too-slow") == 1


def test_large_photos_do_not_take_more_memory_together_than_allowed():
    """With two threads for them, the second photo waits until there is room."""
    handler = Gate()
    handler.open.set()
    handler.large_open = threading.Event()

    async def play(engine: Engine, clock: Clock, registry: CollectorRegistry) -> None:
        tasks = [asyncio.create_task(engine.submit(b"large" + bytes(10), clock())) for _ in range(2)]
        assert await asyncio.to_thread(handler.entered.acquire, timeout=10)
        await asyncio.wait_for(engine.submit(b"small", clock()), 10)
        while registry.get_sample_value("classifier_queue_depth") != 1:  # noqa: ASYNC110 (a thread moves it)
            await asyncio.sleep(0.001)
        assert registry.get_sample_value("classifier_in_flight") == 1
        handler.large_open.set()
        await asyncio.gather(*tasks)

    with started(handler, workers=8, memory_bytes=2000) as (engine, clock, registry):
        asyncio.run(play(engine, clock, registry))


def test_a_batch_takes_what_waits_up_to_its_size():
    """Five requests wait for the one worker: it takes four together, then one."""
    handler = Gate()

    async def play(engine: Engine, clock: Clock) -> None:
        tasks = [await busy(engine, clock, handler)]
        tasks += [asyncio.create_task(engine.submit(b"x", clock())) for _ in range(5)]
        await asyncio.sleep(0)
        handler.open.set()
        assert len(await asyncio.gather(*tasks)) == 6

    with started(handler, max_batch=4) as (engine, clock, registry):
        asyncio.run(play(engine, clock))
        assert handler.batches == [1, 4, 1]
        assert registry.get_sample_value("classifier_in_flight") == 0


def test_a_batch_waits_for_more_photos_up_to_the_maximum_delay():
    """With a delay of 500 ms, two photos that arrive one after the other form one batch."""
    handler = Gate()
    handler.open.set()

    async def play(engine: Engine) -> None:
        first = asyncio.create_task(engine.submit(b"1", time.monotonic()))
        await asyncio.sleep(0.01)
        second = asyncio.create_task(engine.submit(b"2", time.monotonic()))
        await asyncio.gather(first, second)
        await asyncio.wait_for(engine.submit(b"3", time.monotonic()), 5)

    with started(handler, max_batch=8, max_delay_seconds=0.5, clock=time.monotonic) as (engine, _, _registry):
        asyncio.run(play(engine))
        assert handler.batches == [2, 1]


def test_each_photo_of_a_failed_batch_is_retried_alone():
    """An unexpected error in a batch of three loses no answer."""

    async def play(engine: Engine, clock: Clock) -> None:
        tasks = [await busy(engine, clock, handler)]
        tasks += [asyncio.create_task(engine.submit(b"x", clock())) for _ in range(3)]
        await asyncio.sleep(0)
        handler.open.set()
        await tasks[0]
        await asyncio.gather(*tasks)

    class Fragile(Gate):
        def preprocess(self, data: list[dict[str, bytes]]) -> Batch:
            if len(data) > 1:
                raise RuntimeError("batch")
            return super().preprocess(data)

    handler = Fragile()
    with started(handler, max_batch=4) as (engine, clock, _):
        asyncio.run(play(engine, clock))
        assert handler.batches == [1, 1, 1, 1]
