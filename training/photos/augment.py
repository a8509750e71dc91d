"""Random augmentation of a training photo: framing, light and image quality."""

from __future__ import annotations

import io
from typing import Any, Final

import numpy as np
import torch
from PIL import Image
from torchvision.transforms import v2

from training.config import AugmentConfig

_LOUDEST: Final = 0.3  # standard deviation of the strongest noise, of a range of 1


def augmentation(config: AugmentConfig, size: int) -> v2.Transform:
    """Random augmentation of `u8[3,S,S]` to `u8[3,size,size]`."""
    return v2.Compose(
        [
            v2.RandomResizedCrop(
                size,
                scale=(config.crop_scale_min, 1.0),
                ratio=(1 / config.crop_ratio_max, config.crop_ratio_max),
                antialias=True,
            ),
            v2.RandomHorizontalFlip(config.flip),
            v2.ColorJitter(config.brightness, config.brightness, config.brightness),
            v2.RandomApply([v2.ColorJitter(brightness=(0.3, 1.5), contrast=(0.1, 0.7))], config.light),
            v2.RandomGrayscale(config.grey),
            v2.RandomApply([v2.GaussianBlur(5, (0.1, 2.0))], config.blur),
            v2.RandomApply([_Thumbnail(size)], config.thumbnail),
            v2.RandomApply([_SensorNoise()], config.noise),
            v2.RandomApply([_Compressed()], config.jpeg),
        ]
    )


class _SensorNoise(v2.Transform):  # type: ignore[misc]  # torchvision has no types
    """Sensor noise in low light: `v2.GaussianNoise` with a strength drawn per photo, 0 to 0.3."""

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Draw the standard deviation."""
        del flat_inputs
        return {"sigma": float(torch.empty(()).uniform_(0, _LOUDEST))}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """`u8[3,s,s]` to `u8[3,s,s]`."""
        return v2.functional.gaussian_noise(inpt, sigma=params["sigma"])


class _Thumbnail(torch.nn.Module):
    """Shrinks each side to between an eighth and all of it, then enlarges the picture again.

    The sides are drawn independently: shrinking one looks like motion blur, shrinking both like bad focus, at
    a tenth of the cost of a five-pixel blur kernel.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """`u8[3,s,s]` to `u8[3,s,s]`."""
        small = torch.randint(max(1, self.size // 8), self.size, (2,)).tolist()
        thumbnail = v2.functional.resize(image, small, antialias=True)
        enlarged: torch.Tensor = v2.functional.resize(thumbnail, [self.size, self.size], antialias=True)
        return enlarged


class _Compressed(torch.nn.Module):
    """JPEG compression at quality 8 to 89 (torchvision's own transform is deprecated since 0.29)."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """`u8[3,s,s]` to `u8[3,s,s]`."""
        encoded = io.BytesIO()
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(
            encoded, "JPEG", quality=int(torch.randint(8, 90, ()))
        )
        return torch.from_numpy(np.array(Image.open(encoded))).permute(2, 0, 1)
