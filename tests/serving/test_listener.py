"""The socket that callers connect to, at a stop."""

from __future__ import annotations

import socket
import sys

import pytest

from serving.http import listener


@pytest.mark.skipif(sys.platform != "linux", reason="the filter is Linux's")
def test_a_listener_that_takes_no_more_keeps_those_that_have_connected():
    """All of them can be accepted and read; a newer one gets no connection that would be reset."""
    bound = listener.listen("127.0.0.1", 0)
    assert bound is not None
    with bound:
        bound.listen(16)
        address = bound.getsockname()
        before = [socket.create_connection(address, timeout=5) for _ in range(8)]
        listener.take_no_more(bound)
        for caller in before:
            caller.sendall(b"sent")
        with pytest.raises(TimeoutError):
            socket.create_connection(address, timeout=0.2)
        for caller in before:
            accepted, _ = bound.accept()
            with accepted, caller:
                assert accepted.recv(10) == b"sent"
