"""The socket that callers connect to: bound before anything is loaded, and closed without a reset.

`serving.http.server` binds it, and at a stop lets it take no new connection before it is closed.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import socket
import struct
import sys
from typing import Final

_ATTACH_FILTER: Final = 26
"""Linux's SO_ATTACH_FILTER."""
_DROP_NEW: Final = (
    (0x30, 0, 0, 13),  # load the flags of the TCP header
    (0x54, 0, 0, 0x12),  # of these, SYN and ACK
    (0x15, 0, 1, 0x02),  # SYN alone asks for a new connection:
    (0x06, 0, 0, 0),  # drop it
    (0x06, 0, 0, 0xFFFF_FFFF),  # keep everything else
)
"""A filter of packets, as (operation, jump if true, jump if false, operand)."""


def listen(host: str, port: int) -> socket.socket | None:
    """Bind before anything is loaded; report a failure at once."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            problem = "is in use. Choose another port with PORT=…, or stop the process that listens there"
        else:
            problem = f"is not available: {error.strerror}. Set HOST and PORT to another address"
        print(f"error: {host}:{port} {problem}.", file=sys.stderr)
        return None
    return listener


def take_no_more(listener: socket.socket) -> None:
    """Let only those connect that have begun to; the others try again in a second, and are refused then.

    A connection that is made between the last accept and the close is reset, although it has sent a request.
    Linux can drop the packets that ask for a connection; elsewhere a queue of one makes the reset rarer.
    """
    program = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in _DROP_NEW))
    attached = struct.pack("HP", len(_DROP_NEW), ctypes.addressof(program))
    if sys.platform == "linux":
        with contextlib.suppress(OSError):  # not every sandbox has it
            listener.setsockopt(socket.SOL_SOCKET, _ATTACH_FILTER, attached)
            return
    listener.listen(0)
