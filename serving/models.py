"""The models of one process: load, verify and swap the served model, and load the shadow.

The settings' paths in, verified handlers out. `serving.service` starts it; SIGHUP triggers a reload.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Final

import structlog

from serving.contract.card import Card
from serving.contract.errors import ArtifactError
from serving.contract.preprocess import Limits
from serving.lifecycle import Lifecycle, State
from serving.observers.shadow import Shadow
from serving.runtime import memory
from serving.runtime.context import LocalContext
from serving.runtime.handler import ImageClassifierHandler
from serving.runtime.load import choose_device
from serving.settings import Settings
from serving.telemetry.metrics import Metrics

_GPU_BATCH: Final = 16


class Models:
    """The model that answers and, if the operator sets one, its shadow."""

    def __init__(
        self,
        settings: Settings,
        lifecycle: Lifecycle,
        metrics: Metrics,
        serve: Callable[[ImageClassifierHandler], None],
    ) -> None:
        """Load nothing yet.

        Args:
            settings: Where the models are, and which device they run on.
            lifecycle: Decides whether a model may be swapped.
            metrics: Counts reloads, and a shadow that cannot be loaded.
            serve: Called with each verified handler, which answers from then on.
        """
        self._settings, self._lifecycle, self._metrics, self._serve = settings, lifecycle, metrics, serve
        device = choose_device(settings.device, Path(settings.model))
        self.max_batch = settings.max_batch or (1 if device == "cpu" else _GPU_BATCH)
        """Largest number of photos in one pass of the network."""
        self._reloading = asyncio.Lock()
        self.handler = self._new_handler(settings.model)
        """The handler that answers, once it is loaded."""

    @property
    def card(self) -> Card | None:
        """The card of the served model; None while there is none."""
        ready = self._lifecycle.state in (State.READY, State.DRAINING)
        return self.handler.artifact.card if ready else None

    async def load(self) -> None:
        """Load and verify the model off the event loop, then serve it.

        Raises:
            ArtifactError: the model cannot be loaded or verified.
        """
        handler = await self._load(self.handler, self._settings.model)
        await asyncio.to_thread(memory.settle)
        self._serve(handler)

    async def reload(self) -> bool:
        """Load and verify the model file alongside the current model, then swap; return whether it did.

        The current model serves until the new one is verified, and remains if that fails.
        """
        log = structlog.get_logger()
        async with self._reloading:
            if self._lifecycle.state is not State.READY:
                log.warning("reload ignored", state=str(self._lifecycle.state))
                return False
            try:
                handler = await self._load(self._new_handler(self._settings.model), self._settings.model)
            except Exception as error:  # noqa: BLE001 (any error is reported, and the current model remains)
                self._metrics.reloads.labels("failed").inc()
                log.error("reload failed", reason=reason_of(error))  # noqa: TRY400 (a reason, not a trace)
                return False
            self.handler = handler
            self._serve(handler)
            self._metrics.reloads.labels("ok").inc()
            log.info("reloaded", **handler.describe_handle())
            await asyncio.to_thread(memory.trim)  # the old model, and what loading took
            return True

    async def load_shadow(self, shadow: Shadow) -> None:
        """Load and verify the second artefact, and start `shadow`; if that fails, serve without it."""
        log = structlog.get_logger()
        try:
            path = self._settings.shadow_model
            handler = await self._load(self._new_handler(path), path)
            labels = handler.artifact.card.labels
            if set(labels) != set(self.handler.artifact.card.labels):
                raise ArtifactError(  # noqa: TRY301 (one report for everything that can go wrong)
                    f"The shadow has other classes than the served model: {', '.join(labels)}. Set "
                    "SERVING_SHADOW_MODEL to a model with the same classes."
                )
        except Exception as error:  # noqa: BLE001 (any error is reported)
            self._metrics.shadow.labels("failed").inc()
            log.error("no shadow", reason=reason_of(error))  # noqa: TRY400 (a reason, not a trace)
            return
        shadow.start(handler)
        log.info("shadow", **handler.describe_handle())

    async def _load(self, handler: ImageClassifierHandler, path: str) -> ImageClassifierHandler:
        await asyncio.to_thread(handler.initialize, LocalContext.for_file(Path(path)))
        return handler

    def _new_handler(self, path: str) -> ImageClassifierHandler:
        """A handler on the device that the runtime of the artefact at `path` has."""
        settings = self._settings
        limits = Limits(
            settings.max_body_bytes,
            settings.max_pixels,
            settings.max_side,
            settings.max_decode_bytes,
            settings.max_decode_seconds,
        )
        return ImageClassifierHandler(
            limits, device=choose_device(settings.device, Path(path)), max_batch=self.max_batch
        )


def reason_of(error: Exception) -> str:
    """Why something could not be loaded, for the log and for `/health`."""
    return error.detail if isinstance(error, ArtifactError) else f"{type(error).__name__}: {error}"
