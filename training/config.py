"""The schema of `configs/data.yaml` and `configs/train.yaml`, which hold every value.

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
    restricted_number_type,
)

AtLeastOne = restricted_number_type("AtLeastOne", float, (">=", 1.0))


@dataclass(frozen=True)
class FetchConfig:
    """Where the photos come from.

    Args:
        source: microsoft, kaggle, sample, the URL of a zip or tar, such a file, a folder, or a CSV of labels.
        keep_split: Keep the test split of a source that comes in splits; false joins them and splits again.
        sample_per_class: Pictures per class that the source sample draws.
        sample_seed: Seed of the drawn pictures.
    """

    source: str
    keep_split: bool
    sample_per_class: PositiveInt
    sample_seed: NonNegativeInt


@dataclass(frozen=True)
class PrepareConfig:
    """How photos are checked, grouped and split.

    Args:
        salt: Salt of the split hash; another salt gives another split.
        validation_share: Share of photos in the validation split.
        test_share: Share of photos in the test split.
        near_duplicate_bits: Most bits, of 64, in which the perceptual hashes of near-duplicates differ.
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
        name: Name of the model in the registry, the card and the responses.
        backbone: A timm architecture, or compact: a small CNN for training from scratch.
        weights: What the backbone starts from: pretrained (the weights that its name has in timm), none, a
            .safetensors or .pth file, a model that this project has exported (models/release/model.pt),
            hf-hub:OWNER/NAME, or local-dir:FOLDER with timm's config.json.
        input_size: Side of the square input, in pixels.
        dropout: Dropout rate of the features before the linear head.
    """

    name: str
    backbone: str
    weights: str
    input_size: PositiveInt
    dropout: ClosedUnitInterval


@dataclass(frozen=True)
class LoaderConfig:
    """How batches are made.

    Args:
        batch_size: Photos per batch, over all training processes together.
        workers: Processes that augment photos; 0 augments in the training process.
        cache_limit: Most GB of decoded photos to keep in build/photos: validation first, then train. A split
            that does not fit is decoded whenever its photos are read; the result is the same.
    """

    batch_size: PositiveInt
    workers: NonNegativeInt
    cache_limit: NonNegativeFloat


@dataclass(frozen=True)
class AugmentConfig:
    """Random augmentation of training photos.

    Args:
        crop_scale_min: Smallest share of the area that a random resized crop keeps.
        crop_ratio_max: Largest aspect ratio of the crop; its inverse is the smallest.
        flip: Probability of a horizontal flip.
        brightness: Largest relative change of brightness, contrast and saturation.
        light: Probability of bad light: dark or overexposed, with low contrast.
        grey: Probability of conversion to greyscale.
        blur: Probability of a slight Gaussian blur.
        thumbnail: Probability of shrinking one or both sides and enlarging them again.
        noise: Probability of sensor noise.
        jpeg: Probability of strong JPEG compression.
    """

    crop_scale_min: OpenUnitInterval
    crop_ratio_max: AtLeastOne  # type: ignore[valid-type]
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
        enabled: False skips the phase, as for a backbone without weights; the second phase then starts from a
            random head.
        inverse_penalty: Inverse strength of the L2 penalty, scikit-learn's `C`; larger values fit closer.
    """

    enabled: bool
    inverse_penalty: PositiveFloat


@dataclass(frozen=True)
class FinetuneConfig:
    """Second phase: the whole network on augmented photos.

    Args:
        input_sizes: Side of the training crops, in pixels, one for each pass over the photos; an empty list
            skips the phase.
        epochs_per_pass: Epochs into which a pass is split; each is checkpointed, and each pass validated.
        learning_rate: Peak of the one-cycle schedule.
        weight_decay: AdamW's weight decay.
        label_smoothing: Share of the target probability spread over all classes.
        freeze_norm: Keep the backbone's batch norm statistics.
        frozen_groups: Groups of layers at the input that keep their weights: 0 trains all, 1 keeps the
            stem, 2 the stem and the first stage.
        ema_share: Share of all steps that the weights' moving average spans; 0 disables averaging.
    """

    input_sizes: list[PositiveInt]
    epochs_per_pass: PositiveInt
    learning_rate: PositiveFloat
    weight_decay: NonNegativeFloat
    label_smoothing: ClosedUnitInterval
    freeze_norm: bool
    frozen_groups: NonNegativeInt
    ema_share: ClosedUnitInterval


@dataclass(frozen=True)
class TrainerConfig:
    """Lightning's trainer.

    Args:
        accelerator: cpu, gpu, mps or auto.
        devices: Devices or processes per machine; more than one train with DDP.
        nodes: Machines; start more than one with torchrun.
        precision: Lightning's name of the precision, such as 32-true or bf16-mixed.
        threads: Threads per tensor operation; 0 uses all cores.
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
        uri: URI of the tracking server or database; MLFLOW_TRACKING_URI overrides it.
        artifact_location: Where a new experiment stores its files.
        experiment: Name of the experiment.
        alias: Alias of the newly registered version.
    """

    uri: str
    artifact_location: str
    experiment: str
    alias: str


@dataclass(frozen=True)
class ExportConfig:
    """The artefact.

    Args:
        accepted_error_max: Largest share of wrong predictions among those not marked uncertain: an upper
        bound
            that holds for photos like those of validation with a confidence of 95 %.
        read_size: Side in pixels to which the artefact enlarges its input for the network; a value up to
            model.input_size leaves the input as it is.
        calibration_photos: Training photos that set the ranges of the int8 artefact.
        unfamiliar_share: Share of validation photos that the flag `unfamiliar` marks.
        reference: Folder of photos that represent production, to measure drift against, without labels; the
            model must not have been trained on them. Empty takes the photos of production in the manifest, if
            there are enough, or else the validation photos.
    """

    accepted_error_max: ClosedUnitInterval
    read_size: NonNegativeInt
    calibration_photos: PositiveInt
    unfamiliar_share: ClosedUnitInterval
    reference: str


@dataclass(frozen=True)
class TrainConfig:
    """`configs/train.yaml`.

    Args:
        seed: Seed of the weights, the order and the augmentation.
        class_balance: Power of a class's inverse frequency by which its photos weigh in the loss: 0 weighs
            all photos alike, 1 all classes.
        model: The network.
        loader: How batches are made.
        augment: Random augmentation of training photos.
        head: First phase, a head on frozen features.
        finetune: Second phase, the whole network.
        trainer: Lightning's trainer.
        tracking: MLflow.
        export: The artefact.
    """

    seed: NonNegativeInt
    class_balance: ClosedUnitInterval
    model: ModelConfig
    loader: LoaderConfig
    augment: AugmentConfig
    head: HeadConfig
    finetune: FinetuneConfig
    trainer: TrainerConfig
    tracking: TrackingConfig
    export: ExportConfig
