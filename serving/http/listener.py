"""The socket that callers connect to: bound before anything is loaded, and closed without a reset.

`serving.http.server` binds it, and at a stop lets it take no new connection before it is closed.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import socket
import struct
import sys
from pathlib import Path
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


_UNIX: Final = "unix:"
_FIRST_INHERITED: Final = 3
"""The descriptor of the first socket that systemd hands over (sd_listen_fds(3))."""


class Inherited(socket.socket):
    """A socket that systemd keeps open, so that callers wait while the service restarts."""


def listen(host: str, port: int) -> socket.socket | None:
    """Take systemd's socket, or bind one, before anything is loaded; report a failure at once.

    Args:
        host: An address, or `unix:/path`.
        port: The TCP port; not used with `unix:`.
    """
    if os.environ.get("LISTEN_PID") == str(os.getpid()) and os.environ.get("LISTEN_FDS", "0") != "0":
        return Inherited(fileno=_FIRST_INHERITED)
    if host.startswith(_UNIX):
        return _listen_unix(Path(host.removeprefix(_UNIX)))
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


def _listen_unix(path: Path) -> socket.socket | None:
    """Bind to a path; a socket that a killed process left there is replaced."""
    listener = socket.socket(socket.AF_UNIX)
    try:
        if path.is_socket() and not _answers(path):
            path.unlink()
        listener.bind(str(path))
        path.chmod(0o666)  # its folder says who may connect
    except OSError as error:
        listener.close()
        problem = "another process listens there" if error.errno == errno.EADDRINUSE else error.strerror
        print(f"error: {path} is not available: {problem}. Set HOST=unix:/another/path.", file=sys.stderr)
        return None
    return listener


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(path)) == 0


def address(listener: socket.socket) -> str:
    """The address that callers use."""
    if listener.family == socket.AF_UNIX:
        return f"{_UNIX}{listener.getsockname()}"
    host, port = listener.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def remove(listener: socket.socket, where: str) -> None:
    """Close the socket; remove its path, unless systemd owns it."""
    listener.close()
    if where.startswith(_UNIX) and not isinstance(listener, Inherited):
        Path(where.removeprefix(_UNIX)).unlink(missing_ok=True)


def take_no_more(listener: socket.socket) -> None:
    """Let only those connect that have begun to; the others try again in a second, and are refused then.

    A connection that is made between the last accept and the close is reset, although it has sent a request.
    Linux can drop the packets that ask for a connection; elsewhere a queue of one makes the reset rarer.
    """
    if isinstance(listener, Inherited):
        return  # the next process takes them
    program = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in _DROP_NEW))
    attached = struct.pack("HP", len(_DROP_NEW), ctypes.addressof(program))
    if sys.platform == "linux" and listener.family != socket.AF_UNIX:
        with contextlib.suppress(OSError):  # not every sandbox has it
            listener.setsockopt(socket.SOL_SOCKET, _ATTACH_FILTER, attached)
            return
    listener.listen(0)
