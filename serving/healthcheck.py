"""`python -m serving healthcheck`: exit 0 if the service in this container is ready, else 1 with the reason.

For the image's HEALTHCHECK: it needs neither curl nor a shell, and imports only the standard library.
"""

from __future__ import annotations

import http.client
import os
import sys

_TIMEOUT_SECONDS = 2.0


def main(arguments: list[str]) -> int:
    """Request `/health/ready` on the port that the service listens on."""
    if arguments:
        print(__doc__)
        return 0 if arguments in (["-h"], ["--help"]) else 2
    port = int(os.environ.get("PORT") or 8000)
    host = os.environ.get("HOST") or "127.0.0.1"
    connection = http.client.HTTPConnection(
        {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host),  # noqa: S104 (compared, not bound)
        port,
        timeout=_TIMEOUT_SECONDS,
    )
    try:
        connection.request("GET", "/health/ready")
        response = connection.getresponse()
        text = response.read(1000).decode(errors="replace")
    except (OSError, http.client.HTTPException) as error:
        print(f"port {port} does not answer: {error}", file=sys.stderr)
        return 1
    finally:
        connection.close()
    if response.status != http.HTTPStatus.OK:
        print(text, file=sys.stderr)
    return int(response.status != http.HTTPStatus.OK)
