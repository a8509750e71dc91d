"""This service under Granian, one worker: without our own limits on heads, connections and stops."""

import os

from granian import Granian
from granian.constants import Interfaces, Loops

from serving import settings
from serving.http.app import create_app
from serving.runtime import memory
from serving.telemetry import logs


def create():
    memory.bound()
    chosen = settings.from_environment()
    logs.configure(chosen.log_level, chosen.log_format)
    return create_app(chosen)


if __name__ == "__main__":
    Granian(
        "app:create", factory=True, interface=Interfaces.ASGI, loop=Loops.uvloop, websockets=False,
        address="127.0.0.1", port=int(os.environ["PORT"]), workers=1, log_level="error", log_access=False,
    ).serve()  # fmt: skip
