"""Decode one image in a process of its own, which can be ended.

`serving.engine.workers` has one for each thread of its second lane. A large decode within the service would
delay all others, whatever its priority: it holds the interpreter lock while it waits for a core, and the
lock of the address space while it gets and returns hundreds of megabytes. Here it has neither, but a limit
of memory that the system enforces, and an end at the deadline; if a decoder crashes, only this process
does. `main` is that process: it serves one socket.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import resource
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import IO, Final

import msgspec
import numpy as np

from serving.contract import errors
from serving.contract.errors import BrokenImage, ImageError, ImageTooLarge
from serving.contract.preprocess import DecodedImage, Limits, preprocess

_HEAD: Final = struct.Struct(">II")
_ROOT: Final = Path(__file__).parents[2]
_PROGRAM: Final = """
import os, sys
os.nice(19)  # before anything is imported
if hasattr(os, "SCHED_IDLE"):  # a core that only such a process uses counts as free for a thread that wakes
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
from serving.engine.decoder import main
main(*sys.argv[1:])
"""
_BASE_BYTES: Final = 128 * 1024 * 1024
"""What the process takes without an image, at most."""
_KINDS: Final = {
    kind.code: kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, ImageError)
}


class _Reply(msgspec.Struct):
    """What the process answers: an error's code and detail, or the pixels."""

    code: str = ""
    detail: str = ""
    format: str = ""
    width: int = 0
    height: int = 0
    pixels: bytes = b""


class Decoder:
    """The process, started when it is needed and again after it was ended."""

    def __init__(self, limits: Limits) -> None:
        """Prepare; `start` starts it."""
        self._limits = limits
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self._lifeline: IO[bytes] | None = None
        self._lock = threading.Lock()
        self._decoding = self._held = self._stopped = False

    def start(self) -> None:
        """Start the process, if it is not running."""
        if self._process is not None and self._process.poll() is None:
            return
        self.close()
        ours, theirs = socket.socketpair()
        read, write = os.pipe()
        self._lifeline = os.fdopen(write, "wb")
        with theirs, os.fdopen(read, "rb"):
            limits = msgspec.json.encode(self._limits).decode()
            self._process = subprocess.Popen(  # noqa: S603 (our own interpreter)
                [sys.executable, "-c", _PROGRAM, str(theirs.fileno()), str(read), limits],
                pass_fds=[theirs.fileno(), read],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=os.environ | {"PYTHONPATH": str(_ROOT), "OMP_NUM_THREADS": "1"},
                start_new_session=True,  # Ctrl-C is for the service
            )
        self._socket = ours

    def decode(self, data: bytes, size: int, timeout_seconds: float) -> DecodedImage:
        """Decode to `u8[3,size,size]`, as `preprocess` does.

        Raises:
            ImageError: as for `preprocess`; also if the decoder crashes, or takes more memory than estimated.
            TimeoutError: it took too long, and the process was ended.
        """
        self.start()
        assert self._socket is not None  # noqa: S101 (it is started)
        self._set(decoding=True)
        try:
            self._send(self._socket, data, size, time.monotonic() + timeout_seconds)
            reply = _receive(self._socket, time.monotonic() + timeout_seconds)
        except TimeoutError:
            self.close()
            raise
        except OSError as error:
            self.close()
            raise BrokenImage("The image cannot be decoded: it makes the decoder crash.") from error
        finally:
            self._set(decoding=False)
        answer = msgspec.msgpack.decode(reply, type=_Reply)
        if answer.code:
            raise _KINDS.get(answer.code, BrokenImage)(answer.detail)
        pixels = np.frombuffer(answer.pixels, np.uint8).reshape(3, size, size).copy()  # torch wants to write
        return DecodedImage(pixels, answer.format, answer.width, answer.height)

    def hold(self, held: bool) -> None:
        """Stop the process in the middle of a decode, or continue it."""
        self._set(held=held)

    def _set(self, *, decoding: bool | None = None, held: bool | None = None) -> None:
        with self._lock:
            self._decoding = self._decoding if decoding is None else decoding
            self._held = self._held if held is None else held
            stopped = self._decoding and self._held
            if stopped is not self._stopped and self._process is not None:
                self._process.send_signal(signal.SIGSTOP if stopped else signal.SIGCONT)
                self._stopped = stopped

    def _send(self, connection: socket.socket, data: bytes, size: int, until: float) -> None:
        connection.settimeout(max(0.01, until - time.monotonic()))
        connection.sendall(_HEAD.pack(size, len(data)))
        connection.sendall(data)

    def close(self) -> None:
        """End the process."""
        for end in (self._socket, self._lifeline):
            if end is not None:
                end.close()
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._process = self._socket = self._lifeline = None
        self._stopped = False


def _receive(connection: socket.socket, until: float) -> bytes:
    """One reply; its length goes before it."""
    (length,) = struct.unpack(">I", _exactly(connection, 4, until))
    return _exactly(connection, length, until)


def _exactly(connection: socket.socket, count: int, until: float | None) -> bytes:
    """So many bytes.

    Raises:
        ConnectionError: the other side has closed.
        TimeoutError: they have not come in time.
    """
    data = bytearray()
    while len(data) < count:
        if until is not None:
            connection.settimeout(max(0.01, until - time.monotonic()))
        more = connection.recv(min(count - len(data), 1 << 20))
        if not more:
            raise ConnectionError
        data += more
    return bytes(data)


def _answer(data: bytes, size: int, limits: Limits) -> _Reply:
    try:
        image = preprocess(data, size, limits)
    except ImageError as error:
        return _Reply(error.code, error.detail)
    except MemoryError:
        return _Reply(ImageTooLarge.code, "Decoding the image takes more memory than is accepted.")
    return _Reply("", "", image.format, image.width, image.height, image.pixels.tobytes())


def _continue_without_service(descriptor: int) -> None:
    """Let the system continue this process once nobody has the other end of a pipe.

    Otherwise it would stay stopped for ever if the service ended while it holds it.
    """
    if hasattr(fcntl, "F_SETSIG"):
        fcntl.fcntl(descriptor, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(descriptor, fcntl.F_SETSIG, signal.SIGCONT)
        flags = fcntl.fcntl(descriptor, fcntl.F_GETFL)
        fcntl.fcntl(descriptor, fcntl.F_SETFL, flags | os.O_ASYNC)


def main(descriptor: str, lifeline: str, limits: str) -> None:
    """Decode what comes until the service is gone."""
    allowed = msgspec.json.decode(limits, type=Limits)
    most = _BASE_BYTES + 4 * allowed.max_bytes + allowed.max_decode_bytes
    resource.setrlimit(resource.RLIMIT_DATA, (most, most))
    _continue_without_service(int(lifeline))
    with socket.socket(fileno=int(descriptor)) as connection, contextlib.suppress(OSError):
        while True:
            size, length = _HEAD.unpack(_exactly(connection, _HEAD.size, None))
            reply = msgspec.msgpack.encode(_answer(_exactly(connection, length, None), size, allowed))
            connection.sendall(struct.pack(">I", len(reply)) + reply)
