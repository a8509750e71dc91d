"""urllib3's retries, and with them requests, wait as long as an overloaded service says."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest
import urllib3

from tests.processes import Process, service
from tests.tiny import ROOT

pytestmark = pytest.mark.clients

CAT = (ROOT / "deploy/smoke/cat.jpg").read_bytes()


@pytest.fixture
def starting(environment: Callable[..., dict[str, str]]) -> Iterator[Process]:
    """A service that answers, but has no model yet."""
    with service(environment(MODEL=str(ROOT / "models/release/model.pt"))) as process:
        process.wait_for("listening")  # the socket is bound, and taken care of in a moment
        with urllib3.PoolManager(
            retries=urllib3.Retry(connect=1000, backoff_factor=0.001, backoff_max=0.01)
        ) as pool:
            pool.request("GET", process.url + "/health/live")
        yield process
        assert process.stop() == 0


def test_a_request_to_a_service_that_starts_is_answered_after_a_retry(starting: Process):
    """It is refused with Retry-After: 1, as every 503 is; the client waits that long and asks again."""
    retries = urllib3.Retry(total=60, allowed_methods=None, status_forcelist=[503], backoff_factor=0)
    with urllib3.PoolManager() as pool:
        began = time.monotonic()
        reply = pool.request("POST", starting.url + "/predict", body=CAT, retries=retries)
        took_seconds = time.monotonic() - began
    assert reply.status == 200
    refused = [entry.status for entry in reply.retries.history]
    assert set(refused) == {503}
    assert took_seconds > len(refused)
