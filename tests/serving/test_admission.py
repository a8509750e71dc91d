"""The admission policy alone: numbers in, a verdict out."""

from __future__ import annotations

import pytest

from serving.contract.errors import Overloaded
from serving.engine.admission import FIRST_GUESS_SECONDS, Admission


def policy(photo_seconds: float = 0.1, **options: float) -> Admission:
    """A policy that knows how long a photo takes."""
    admission = Admission(**{"workers": 2, "queue_size": 10, "deadline_seconds": 2.0} | options)
    for _ in range(200):
        admission.learn(photo_seconds)
    return admission


def test_the_expected_time_grows_with_what_is_ahead_and_shrinks_with_workers():
    """The requests ahead per worker, and itself, with a margin of a quarter."""
    assert policy().expected_seconds(0) == pytest.approx(1.25 * 0.1)
    assert policy().expected_seconds(4) == pytest.approx(1.25 * (4 / 2 * 0.1 + 0.1))
    assert policy(workers=4).expected_seconds(4) == pytest.approx(1.25 * (4 / 4 * 0.1 + 0.1))


def test_the_mean_follows_slowly():
    """One slow photo moves it by a tenth of the difference."""
    admission = Admission(workers=1, queue_size=1, deadline_seconds=1)
    assert admission.wait_seconds(1) == FIRST_GUESS_SECONDS
    admission.learn(FIRST_GUESS_SECONDS + 1)
    assert admission.wait_seconds(1) == pytest.approx(FIRST_GUESS_SECONDS + 0.1)


def test_a_request_that_can_be_in_time_passes():
    """As long as the expected time does not exceed the remaining time."""
    admission = policy()
    admission.check(waiting=4, computing=2, remaining_seconds=admission.expected_seconds(6))
    with pytest.raises(Overloaded, match=r"would take 0\.5 s, more than the deadline of 2 s") as refused:
        admission.check(waiting=4, computing=2, remaining_seconds=admission.expected_seconds(6) - 0.25)
    assert refused.value.reason == "too-slow"
    assert refused.value.retry_after_seconds == pytest.approx(0.25)


def test_an_idle_engine_takes_even_what_will_be_late():
    """Otherwise one slow photo would close the service for good: nothing would be measured again."""
    policy(photo_seconds=10).check(waiting=0, computing=0, remaining_seconds=2)
    with pytest.raises(Overloaded):
        policy(photo_seconds=10).check(waiting=0, computing=1, remaining_seconds=2)


def test_a_full_queue_refuses_whatever_the_deadline():
    """It says after how long the queue has moved on."""
    with pytest.raises(Overloaded, match="The queue is full: 10 requests are waiting") as refused:
        policy().check(waiting=10, computing=2, remaining_seconds=1000)
    assert refused.value.reason == "queue-full"
    assert refused.value.retry_after_seconds == pytest.approx(12 / 2 * 0.1)


def test_the_error_of_a_late_answer_names_the_deadline():
    """The detail is a sentence for a person."""
    assert policy(deadline_seconds=1.5).too_late().detail == "The answer was not ready within 1.5 s."
