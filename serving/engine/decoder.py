"""Decode one image in a process of its own, which can be ended.

`serving.engine.workers` has one for each thread of its second lane. A large decode within the service would
delay all others, whatever its priority: it holds the interpreter lock while it waits for a core, and the
lock of the address space while it gets and returns hundreds of megabytes. Here it has neither, but a limit
of memory that the system enforces, and an end at the deadline; if a decoder crashes, only this process
does. `main` is that process: it serves one socket.
"""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

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

    def start(self) -> None:
        """Start the process, if it is not running."""
        if self._process is not None and self._process.poll() is None:
            return
        self.close()
        ours, theirs = socket.socketpair()
        with theirs:
            limits = msgspec.json.encode(self._limits).decode()
            self._process = subprocess.Popen(  # noqa: S603 (our own interpreter)
                [sys.executable, "-c", _PROGRAM, str(theirs.fileno()), limits],
                pass_fds=[theirs.fileno()],
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
        try:
            self._send(self._socket, data, size, time.monotonic() + timeout_seconds)
            reply = _receive(self._socket, time.monotonic() + timeout_seconds)
        except TimeoutError:
            self.close()
            raise
        except OSError as error:
            self.close()
            raise BrokenImage("The image cannot be decoded: it makes the decoder crash.") from error
        answer = msgspec.msgpack.decode(reply, type=_Reply)
        if answer.code:
            raise _KINDS.get(answer.code, BrokenImage)(answer.detail)
        pixels = np.frombuffer(answer.pixels, np.uint8).reshape(3, size, size).copy()  # torch wants to write
        return DecodedImage(pixels, answer.format, answer.width, answer.height)

    def _send(self, connection: socket.socket, data: bytes, size: int, until: float) -> None:
        connection.settimeout(max(0.01, until - time.monotonic()))
        connection.sendall(_HEAD.pack(size, len(data)))
        connection.sendall(data)

    def close(self) -> None:
        """End the process."""
        if self._socket is not None:
            self._socket.close()
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._process = self._socket = None


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


def main(descriptor: str, limits: str) -> None:
    """Decode what comes until the service is gone."""
    allowed = msgspec.json.decode(limits, type=Limits)
    most = _BASE_BYTES + 4 * allowed.max_bytes + allowed.max_decode_bytes
    resource.setrlimit(resource.RLIMIT_DATA, (most, most))
    with socket.socket(fileno=int(descriptor)) as connection, contextlib.suppress(OSError):
        while True:
            size, length = _HEAD.unpack(_exactly(connection, _HEAD.size, None))
            reply = msgspec.msgpack.encode(_answer(_exactly(connection, length, None), size, allowed))
            connection.sendall(struct.pack(">I", len(reply)) + reply)
