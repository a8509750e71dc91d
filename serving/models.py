"""The life of the models in one process: load, prove, swap, and load the shadow.

The settings' paths in, proven handlers out. `serving.service` starts it, SIGHUP reloads it.
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
from serving.runtime.handler import ImageClassifierHandler, LocalContext, choose_device
from serving.settings import Settings
from serving.telemetry.metrics import Metrics

_GPU_BATCH: Final = 16


class Models:
    """The model that answers and, where the operator has one, its shadow."""

    def __init__(
        self,
        settings: Settings,
        lifecycle: Lifecycle,
        metrics: Metrics,
        serve: Callable[[ImageClassifierHandler], None],
    ) -> None:
        """Load nothing yet.

        Args:
            settings: Where the models are, and what they run on.
            lifecycle: Says whether a model may be swapped.
            metrics: Where reloads and the shadow's failure are counted.
            serve: Called with each proven handler, which answers from then on.
        """
        self._settings, self._lifecycle, self._metrics, self._serve = settings, lifecycle, metrics, serve
        self._device = choose_device(settings.device)
        self.max_batch = settings.max_batch or (1 if self._device == "cpu" else _GPU_BATCH)
        """Most photos in one pass of the network."""
        self._reloading = asyncio.Lock()
        self.handler = self._new_handler()
        """The one that answers, once it is loaded."""

    @property
    def card(self) -> Card | None:
        """Of the model that is served; None while there is none."""
        ready = self._lifecycle.state in (State.READY, State.DRAINING)
        return self.handler.artifact.card if ready else None

    async def load(self) -> None:
        """Load and prove the model off the event loop, and serve it.

        Raises:
            ArtifactError: it cannot be loaded or proven.
        """
        self._serve(await self._load(self.handler, self._settings.model))

    async def reload(self) -> bool:
        """Load and prove the model file alongside the present model, then swap; whether it was swapped.

        Until the new one is proven, and if it cannot be, the present one serves.
        """
        log = structlog.get_logger()
        async with self._reloading:
            if self._lifecycle.state is not State.READY:
                log.warning("reload ignored", state=str(self._lifecycle.state))
                return False
            try:
                handler = await self._load(self._new_handler(), self._settings.model)
            except Exception as error:  # noqa: BLE001 (whatever it is, it is reported and the old model stays)
                self._metrics.reloads.labels("failed").inc()
                log.error("reload failed", reason=reason_of(error))  # noqa: TRY400 (a reason, not a trace)
                return False
            self.handler = handler
            self._serve(handler)
            self._metrics.reloads.labels("ok").inc()
            log.info("reloaded", **handler.describe_handle())
            return True

    async def load_shadow(self, shadow: Shadow) -> None:
        """Load and prove the second artefact, and start `shadow`; if that cannot be, serve without it."""
        log = structlog.get_logger()
        try:
            handler = await self._load(self._new_handler(), self._settings.shadow_model)
            labels = handler.artifact.card.labels
            if set(labels) != set(self.handler.artifact.card.labels):
                raise ArtifactError(  # noqa: TRY301 (one report for all that can be wrong with it)
                    f"The shadow knows other classes than the served model: {', '.join(labels)}."
                )
        except Exception as error:  # noqa: BLE001 (whatever it is, it is reported)
            self._metrics.shadow.labels("failed").inc()
            log.error("no shadow", reason=reason_of(error))  # noqa: TRY400 (a reason, not a trace)
            return
        shadow.start(handler)
        log.info("shadow", **handler.describe_handle())

    async def _load(self, handler: ImageClassifierHandler, path: str) -> ImageClassifierHandler:
        await asyncio.to_thread(handler.initialize, LocalContext.for_file(Path(path)))
        return handler

    def _new_handler(self) -> ImageClassifierHandler:
        settings = self._settings
        limits = Limits(settings.max_body_bytes, settings.max_pixels, settings.max_side)
        return ImageClassifierHandler(limits, device=self._device, max_batch=self.max_batch)


def reason_of(error: Exception) -> str:
    """Why something could not be loaded, for the log and for `/health`."""
    return error.detail if isinstance(error, ArtifactError) else f"{type(error).__name__}: {error}"
