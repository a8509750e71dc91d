"""Ways to train one network on the same photos, step by step: ours, the plain loop, Keras, the limit."""

from __future__ import annotations

import itertools
import json
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Protocol, cast

import numpy as np
import torch
from PIL import Image
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from bench import services
from training import place
from training.config import TrainConfig
from training.network.build import PACKAGED, Classifier, build
from training.network.predict import forward_all
from training.network.task import ClassificationTask, Optimisation
from training.photos.data import Manifest, PhotoData, Split, read_manifest
from training.photos.decoded import DecodedPhotos

WORK: Final = Path("build/bench-train")


class Loop(Protocol):
    """One way to train."""

    def turn(self, steps: int) -> tuple[float, float]:
        """Take so many steps; the seconds they took, and of these the seconds of waiting for batches."""

    def rest(self) -> None:
        """Leave the machine to another loop."""

    def accuracy(self) -> float:
        """On the validation split."""


class _PlainPhotos(Dataset[tuple[torch.Tensor, int]]):
    """Each photo opened, cropped and flipped when it is asked for."""

    def __init__(self, split: Split, size: int) -> None:
        self.split = split
        self.change = transforms.Compose(
            [
                transforms.RandomResizedCrop(size, scale=(0.5, 1.0)),
                transforms.RandomHorizontalFlip(),
                transforms.ColorJitter(0.2, 0.2, 0.2),
                transforms.PILToTensor(),
            ]
        )

    def __len__(self) -> int:
        return len(self.split.targets)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        with Image.open(self.split.paths[index]) as image:
            changed: torch.Tensor = self.change(image.convert("RGB"))
        return changed, self.split.targets[index]


class TorchLoop:
    """The project's network and optimiser on batches of one source."""

    def __init__(
        self, bench: Bench, batches: Iterable[Any], network: Classifier | None = None, ema_decay: float = 0.0
    ) -> None:
        self._bench, self._batches, self._running = bench, batches, iter(batches)
        self.network = network or build(bench.config.model, len(bench.manifest.labels))
        self._begin, self._step = _training(self.network, bench.config, len(bench.manifest.labels))
        self._average = (
            AveragedModel(self.network, multi_avg_fn=get_ema_multi_avg_fn(ema_decay))  # type: ignore[no-untyped-call]
            if ema_decay
            else None
        )

    def turn(self, steps: int) -> tuple[float, float]:
        """See `Loop`."""
        began, waited = time.perf_counter(), 0.0
        self._begin()
        for _ in range(steps):
            asked = time.perf_counter()
            batch = next(self._running, None)
            if batch is None:  # a pass has ended
                self._running = iter(self._batches)
                batch = next(self._running)
            waited += time.perf_counter() - asked
            self._step(batch)
            if self._average:
                self._average.update_parameters(self.network)
        return time.perf_counter() - began, waited

    def rest(self) -> None:
        """Let the loader's workers end."""
        self._running = iter(())

    def accuracy(self) -> float:
        """See `Loop`."""
        network = cast("Classifier", self._average.module) if self._average else self.network
        logits = forward_all(network, self._bench.photos["validation"], title="validation")
        return float(np.mean(logits.argmax(1) == np.array(self._bench.manifest.splits["validation"].targets)))


class KerasLoop:
    """`bench/peers/keras/train.py` in a process of its own, which works only when asked."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def _ask(self, line: str) -> dict[str, float]:
        stdin, stdout = self._process.stdin, self._process.stdout
        if stdin is None or stdout is None:
            raise services.ServiceError("Keras was started without pipes.")
        stdin.write(f"{line}\n")
        stdin.flush()
        answer = stdout.readline()
        if not answer:
            raise services.ServiceError(f"Keras' loop ended; see {WORK / 'keras.log'}.")
        figures: dict[str, float] = json.loads(answer)
        return figures

    def turn(self, steps: int) -> tuple[float, float]:
        """See `Loop`."""
        self._process.send_signal(signal.SIGCONT)
        answer = self._ask(f"steps {steps}")
        return answer["seconds"], answer["waited"]

    def rest(self) -> None:
        """Stopped as it stands: it would fill its buffer during the next one's turn."""
        self._process.send_signal(signal.SIGSTOP)

    def accuracy(self) -> float:
        """See `Loop`."""
        return self._ask("validate")["accuracy"]


@dataclass(frozen=True, slots=True)
class Bench:
    """What all loops train with."""

    config: TrainConfig
    manifest: Manifest
    photos: DecodedPhotos
    size: int

    def ours(self, network: Classifier | None = None, ema_decay: float = 0.0) -> TorchLoop:
        """Batches of the decoded cache."""
        batches = PhotoData(self.manifest, self.photos, self.config).train_dataloader()
        return TorchLoop(self, batches, network, ema_decay)

    def plain(self) -> TorchLoop:
        """Batches of files."""
        batches = DataLoader(
            _PlainPhotos(self.manifest.splits["train"], self.size),
            batch_size=self.config.loader.batch_size,
            shuffle=True,
            drop_last=True,
            num_workers=self.config.loader.workers,
        )
        return TorchLoop(self, batches)

    def limit(self) -> TorchLoop:
        """One batch of the cache, again and again."""
        held = next(iter(PhotoData(self.manifest, self.photos, self.config).train_dataloader()))
        return TorchLoop(self, itertools.repeat(held))

    @contextmanager
    def keras(self) -> Iterator[KerasLoop]:
        """Keras in its own environment.

        Raises:
            ServiceError: it does not install, or the backbone is not the one that it has too.
        """
        if self.config.model.backbone != "efficientnet_lite0":
            raise services.ServiceError(f"Keras' loop has no network {self.config.model.backbone}.")
        peer = services.peer("keras", place.WORK.parent.resolve() / "bench")
        folders = []
        for name in ("train", "validation"):
            folders.append(WORK / "photos" / name)
            shutil.rmtree(folders[-1], ignore_errors=True)
            split = self.manifest.splits[name]
            for path, target in zip(split.paths, split.targets, strict=True):
                link = folders[-1] / self.manifest.labels[target] / f"{path.parent.name}-{path.name}"
                link.parent.mkdir(parents=True, exist_ok=True)
                link.symlink_to(path.absolute())
        stored = torch.load(PACKAGED[self.config.model.backbone](), map_location="cpu", weights_only=True)
        tensors = [t.numpy() for name, t in stored.items() if not name.endswith("num_batches_tracked")]
        weights = WORK / "imagenet.npz"
        np.savez(weights, **{f"{i:04}": tensor for i, tensor in enumerate(tensors[:-2])})
        numbers = (self.size, self.config.loader.batch_size, self.config.finetune.learning_rate)
        script = Path(peer.arguments[0]).with_name("train.py")
        command = [str(peer.python), str(script), *map(str, folders), *map(str, numbers), str(weights)]
        with (WORK / "keras.log").open("w") as log:
            process = subprocess.Popen(  # noqa: S603
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True
            )
            with process:
                try:
                    yield KerasLoop(process)
                finally:
                    process.kill()


def prepare(config: TrainConfig, size: int) -> Bench:
    """Read the manifest and make room.

    Raises:
        PipelineError: there is no manifest.
    """
    manifest = read_manifest()
    WORK.mkdir(parents=True, exist_ok=True)
    alone = replace(config.teacher, share=0.0)
    finetune = replace(config.finetune, input_sizes=[size], epochs_per_pass=1)
    config = replace(config, finetune=finetune, teacher=alone)
    return Bench(config, manifest, DecodedPhotos(manifest, config.model.input_size), size)


def _training(
    network: Classifier, config: TrainConfig, classes: int
) -> tuple[Callable[[], None], Callable[[Any], None]]:
    """What puts the network in the mode of fine-tuning, which a look at it ends, and one optimiser step."""
    finetune = config.finetune
    task = ClassificationTask(
        network.to(memory_format=torch.channels_last),
        classes,
        "finetune",
        Optimisation(
            finetune.learning_rate, finetune.weight_decay, finetune.label_smoothing, finetune.freeze_norm
        ),
    )
    optimizer = torch.optim.AdamW(task.parameters(), lr=finetune.learning_rate)

    def begin() -> None:
        task.train()
        task.on_train_epoch_start()

    def step(batch: Any) -> None:
        inputs, targets = batch
        loss = torch.nn.functional.cross_entropy(task(inputs), targets)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return begin, step
