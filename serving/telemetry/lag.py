"""How late the event loop runs its timers: a task of `serving.http.app`, one gauge of the metrics.

Whatever holds the loop up delays every caller, and no other metric shows it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final

from serving.telemetry.metrics import Metrics

_PERIOD_SECONDS: Final = 0.25
_WINDOW_SECONDS: Final = 60


async def watch(metrics: Metrics) -> None:
    """Measure until cancelled; each scrape gets the longest delay of the last minute."""
    delays: deque[float] = deque([0.0], maxlen=int(_WINDOW_SECONDS / _PERIOD_SECONDS))
    metrics.loop_lag.set_function(lambda: max(delays))
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + _PERIOD_SECONDS
        await asyncio.sleep(_PERIOD_SECONDS)
        delays.append(max(0.0, loop.time() - due))
