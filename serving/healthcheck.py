"""`python -m serving healthcheck`: exit 0 if the service in this container is ready, else 1 with the reason.

For the image's HEALTHCHECK, which runs this file by itself every few seconds: it needs neither curl nor a
shell, and imports nothing that takes long.
"""

import os
import socket
import sys

_TIMEOUT_SECONDS = 2.0
_LOCAL = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}  # noqa: S104 (compared, not bound)
_REQUEST = b"GET /health/ready HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


def main(arguments: list[str]) -> int:
    """Request `/health/ready` on the port that the service listens on."""
    if arguments:
        print(__doc__)
        return 0 if arguments in (["-h"], ["--help"]) else 2
    host, port = os.environ.get("HOST", ""), int(os.environ.get("PORT") or 8000)
    where, answer = host if host.startswith("unix:") else f"port {port}", b""
    try:
        with _connect(host, port) as connection:
            connection.sendall(_REQUEST)
            while more := connection.recv(65536):
                answer += more
    except OSError as error:
        print(f"{where} does not answer: {error}", file=sys.stderr)
        return 1
    head, _, body = answer.partition(b"\r\n\r\n")
    if head.split(b" ")[1:2] == [b"200"]:
        return 0
    print(body[:1000].decode(errors="replace") or f"{where} does not speak HTTP", file=sys.stderr)
    return 1


def _connect(host: str, port: int) -> socket.socket:
    if not host.startswith("unix:"):
        return socket.create_connection((_LOCAL.get(host, host), port), _TIMEOUT_SECONDS)
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(_TIMEOUT_SECONDS)
    connection.connect(host.removeprefix("unix:"))
    return connection


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
