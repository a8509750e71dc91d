"""Labelled photos in, the replies of a running service out."""

from __future__ import annotations

import asyncio
import re
import time
from pathlib import Path
from typing import Final

import httpx

from common.errors import UserError
from common.key import key_header
from common.progress import progress
from evaluation.figures import intervals
from evaluation.service.replies import Health, LiveError, Reply

_ATTEMPTS: Final = 5
_TIMEOUT_SECONDS: Final = 30.0
_LONGEST_WAIT_SECONDS: Final = 10.0


async def ask(client: httpx.AsyncClient, path: Path, label: str) -> Reply:
    """Send one photo; retry where the service says so or the connection fails."""
    body = await asyncio.to_thread(path.read_bytes)
    error, began = "", time.perf_counter()
    for attempt in range(1, _ATTEMPTS + 1):
        began = time.perf_counter()
        wait = 0.2 * 2**attempt
        try:
            response = await client.post("/predict", files={"file": (path.name, body)})
        except httpx.TransportError as failure:
            error = type(failure).__name__
        else:
            elapsed_ms = 1000 * (time.perf_counter() - began)
            if response.is_success:
                answer = response.json()["probabilities"]
                stages = _stages(response.headers.get("Server-Timing", ""))
                return Reply(path, label, answer, "", elapsed_ms, attempt, stages)
            error = _problem_type(response)
            if response.status_code != httpx.codes.SERVICE_UNAVAILABLE:
                return Reply(path, label, None, error, elapsed_ms, attempt)
            retry_after = response.headers.get("Retry-After", "")
            wait = float(retry_after) if retry_after.isdecimal() else wait
        if attempt < _ATTEMPTS:
            await asyncio.sleep(min(wait, _LONGEST_WAIT_SECONDS))
    return Reply(path, label, None, error, 1000 * (time.perf_counter() - began), _ATTEMPTS)


def _stages(server_timing: str) -> dict[str, float]:
    """Milliseconds by stage, from `queue;dur=1.5, decode;dur=3.2`."""
    return {name: float(ms) for name, ms in re.findall(r"([\w-]+);dur=([\d.]+)", server_timing)}


def _problem_type(response: httpx.Response) -> str:
    try:
        return str(response.json()["type"])
    except (ValueError, KeyError, TypeError):
        return f"HTTP {response.status_code}"


def get(url: str, path: str, problem: type[UserError]) -> bytes:
    """The body of `GET path` of the service at `url`, with the API key if there is one.

    Raises:
        UserError: the service cannot be reached, or refuses; of the class `problem`.
    """
    try:
        response = httpx.get(url + path, headers=key_header(), timeout=_TIMEOUT_SECONDS)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise problem(
            f"{url}{path} does not answer ({type(error).__name__}). Is the service running there? "
            "Start one with 'make serve'."
        ) from error
    if not response.is_success:
        raise problem(
            f"{url}{path} answers {response.status_code}. If it needs an API key, set SERVING_API_KEY=…"
        )
    return response.content


async def ask_all(
    url: str, photos: list[tuple[Path, str]], concurrency: int
) -> tuple[Health, list[Reply], float]:
    """Send every photo; return the body of `/health`, the replies in order and the wall time in seconds.

    Raises:
        LiveError: the service cannot be reached or is not ready.
    """
    limits = httpx.Limits(max_connections=concurrency)
    async with httpx.AsyncClient(
        base_url=url, timeout=_TIMEOUT_SECONDS, limits=limits, headers=key_header()
    ) as client:
        health = await _health(client, url)
        slots = asyncio.Semaphore(concurrency)
        began = time.perf_counter()
        with progress("evaluate-live", len(photos), "photos") as bar:

            async def one(path: Path, label: str) -> Reply:
                async with slots:
                    reply = await ask(client, path, label)
                bar.update()
                return reply

            replies = await asyncio.gather(*(one(path, label) for path, label in photos))
        return health, list(replies), time.perf_counter() - began


async def _health(client: httpx.AsyncClient, url: str) -> Health:
    try:
        response = await client.get("/health")
        health = intervals.decode(response.content, Health)
    except (httpx.TransportError, httpx.UnsupportedProtocol, ValueError) as error:
        raise LiveError(
            f"{url}/health does not answer ({type(error).__name__}). Is the service running there? "
            "Start one with 'make serve'."
        ) from error
    if not response.is_success:
        raise LiveError(
            f"The service at {url} is not ready: {health.reason or response.status_code}. Try again later."
        )
    return health
