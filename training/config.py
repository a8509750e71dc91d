"""The configuration's shape: `configs/data.yaml` and `configs/train.yaml` hold every value.

There are no defaults here: the file that DVC tracks is the file that the code reads. Each value
can be overridden from the command line, as in `python -m training fit --finetune.learning_rate 2e-4`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from jsonargparse.typing import (
    ClosedUnitInterval,
    NonNegativeFloat,
    NonNegativeInt,
    OpenUnitInterval,
    PositiveFloat,
    PositiveInt,
)


@dataclass(frozen=True)
class FetchConfig:
    """Where the photos come from.

    Args:
        source: microsoft, kaggle, sample, the address of a zip, a zip file or a folder.
        sample_per_class: Pictures drawn for each class by the source sample.
        sample_seed: Seed of the drawn pictures.
    """

    source: str
    sample_per_class: PositiveInt
    sample_seed: NonNegativeInt


@dataclass(frozen=True)
class PrepareConfig:
    """How photos are checked, grouped and split.

    Args:
        salt: Changes the split hash, and so the whole split.
        validation_share: Share of the validation split.
        test_share: Share of the test split.
        near_duplicate_bits: Bits of 64 by which the perceptual hashes of near-duplicates may differ.
    """

    salt: str
    validation_share: OpenUnitInterval
    test_share: OpenUnitInterval
    near_duplicate_bits: NonNegativeInt


@dataclass(frozen=True)
class DataConfig:
    """`configs/data.yaml`.

    Args:
        fetch: Where the photos come from.
        prepare: How photos are checked, grouped and split.
    """

    fetch: FetchConfig
    prepare: PrepareConfig


@dataclass(frozen=True)
class ModelConfig:
    """The network.

    Args:
        name: Name of the model in the registry, the card and the answers.
        backbone: A timm architecture, or compact: a small CNN made for training from scratch.
        pretrained: Begin from ImageNet weights.
        input_size: Side of the square input, in pixels.
        dropout: Share of features dropped before the linear head in training.
    """

    name: str
    backbone: str
    pretrained: bool
    input_size: PositiveInt
    dropout: ClosedUnitInterval


@dataclass(frozen=True)
class LoaderConfig:
    """How batches are made.

    Args:
        batch_size: Photos in a batch, of all processes together.
        workers: Processes that decode and augment; 0 does it in the training process.
    """

    batch_size: PositiveInt
    workers: NonNegativeInt


@dataclass(frozen=True)
class AugmentConfig:
    """Random changes to training photos.

    Args:
        crop_scale_min: Smallest share of the area that a random resized crop keeps.
        crop_ratio_max: Largest aspect ratio of the crop; its inverse is the smallest.
        flip: Probability of a horizontal flip.
        brightness: Largest relative change of brightness, contrast and saturation.
        light: Probability of bad light: dark or overexposed, and little contrast.
        grey: Probability of losing all colour.
        blur: Probability of a slight Gaussian blur.
        thumbnail: Probability of having been small, in one or both sides, and enlarged.
        noise: Probability of a sensor's noise.
        jpeg: Probability of a strong JPEG compression.
    """

    crop_scale_min: OpenUnitInterval
    crop_ratio_max: PositiveFloat
    flip: ClosedUnitInterval
    brightness: ClosedUnitInterval
    light: ClosedUnitInterval
    grey: ClosedUnitInterval
    blur: ClosedUnitInterval
    thumbnail: ClosedUnitInterval
    noise: ClosedUnitInterval
    jpeg: ClosedUnitInterval


@dataclass(frozen=True)
class HeadConfig:
    """First phase: scikit-learn's logistic regression on the frozen backbone's features.

    Args:
        enabled: False leaves the phase out, as for a backbone without weights: the second one begins with a
            random head.
        inverse_penalty: Inverse strength of the L2 penalty, scikit-learn's `C`; larger fits closer.
    """

    enabled: bool
    inverse_penalty: PositiveFloat


@dataclass(frozen=True)
class FinetuneConfig:
    """Second phase: the whole network on augmented photos.

    Args:
        input_sizes: Side of the training crops, in pixels, of each pass over the photos; as many passes
            as sizes, and none leaves the phase out.
        epochs_per_pass: A pass is cut into this many epochs, each validated and checkpointed.
        learning_rate: Peak of the one-cycle schedule.
        weight_decay: AdamW's weight decay.
        label_smoothing: Share of the target spread over all classes.
        freeze_norm: Keep batch norm statistics as the backbone has them.
        ema_decay: Decay a step of the weights' moving average; 0 keeps none.
    """

    input_sizes: list[PositiveInt]
    epochs_per_pass: PositiveInt
    learning_rate: PositiveFloat
    weight_decay: NonNegativeFloat
    label_smoothing: ClosedUnitInterval
    freeze_norm: bool
    ema_decay: ClosedUnitInterval


@dataclass(frozen=True)
class TrainerConfig:
    """Lightning's trainer.

    Args:
        accelerator: cpu, gpu, mps or auto.
        devices: Number of devices or processes on each machine; more than one train by DDP.
        nodes: Number of machines; more than one are started by torchrun.
        precision: Lightning's name of the precision, as 32-true or bf16-mixed.
        threads: Threads a tensor operation may use; 0 takes all cores.
    """

    accelerator: Literal["auto", "cpu", "gpu", "mps"]
    devices: PositiveInt
    nodes: PositiveInt
    precision: Literal["32-true", "bf16-mixed", "16-mixed"]
    threads: NonNegativeInt


@dataclass(frozen=True)
class TrackingConfig:
    """MLflow.

    Args:
        uri: Address of the tracking server or database; MLFLOW_TRACKING_URI overrides it.
        artifact_location: Where a new experiment's files go.
        experiment: Name of the experiment.
        alias: Alias that the registered version takes.
    """

    uri: str
    artifact_location: str
    experiment: str
    alias: str


@dataclass(frozen=True)
class ExportConfig:
    """The artefact.

    Args:
        accepted_error_max: Share of wrong answers, on validation, among those not marked uncertain.
        read_size: Side to which the artefact enlarges a photo for the network, in pixels; one that is not
            above the input's leaves it as it comes.
        precision: fp32 as trained, or int8: quantised after training, faster on a CPU.
        calibration_photos: Training photos that set the ranges of int8.
        unfamiliar_share: Share of validation photos that the flag `unfamiliar` may take for strangers.
    """

    accepted_error_max: ClosedUnitInterval
    read_size: NonNegativeInt
    precision: Literal["fp32", "int8"]
    calibration_photos: PositiveInt
    unfamiliar_share: ClosedUnitInterval


@dataclass(frozen=True)
class TrainConfig:
    """`configs/train.yaml`.

    Args:
        seed: Seed of weights, order and augmentation.
        model: The network.
        loader: How batches are made.
        augment: Random changes to training photos.
        head: First phase, a head on frozen features.
        finetune: Second phase, the whole network.
        trainer: Lightning's trainer.
        tracking: MLflow.
        export: The artefact.
    """

    seed: NonNegativeInt
    model: ModelConfig
    loader: LoaderConfig
    augment: AugmentConfig
    head: HeadConfig
    finetune: FinetuneConfig
    trainer: TrainerConfig
    tracking: TrackingConfig
    export: ExportConfig
