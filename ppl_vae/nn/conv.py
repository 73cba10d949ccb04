"""A small convolutional encoder and its mirror, for images from 1x8x8 to 1x28x28 and a little beyond."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

from torch import Tensor, nn

from ppl_vae.nn.batched import apply_batched


class ConvEncoder(nn.Module):
    """Images to numbers: each stage halves height and width, one linear layer ends it.

    Args:
        image_shape: (C, H, W).
        out_features: the size of the output.
        channels: channels after each halving stage (3x3 kernels, stride 2); two stages turn 28x28 into 7x7.
        activation: makes the activation after each stage.

    Raises:
        ValueError: an image shape that is not three positive sizes, no stage; in a call, an input of another
            shape.

    >>> import torch
    >>> ConvEncoder((1, 28, 28), 16)(torch.zeros(100, 1, 28, 28)).shape
    torch.Size([100, 16])
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        out_features: int,
        *,
        channels: Sequence[int] = (16, 32),
        activation: Callable[[], nn.Module] = nn.SiLU,
    ) -> None:
        super().__init__()
        self.image_shape = _checked_image_shape("ConvEncoder", image_shape, channels)
        sizes = _stage_sizes(self.image_shape, channels)
        stages: list[nn.Module] = []
        for fan_in, fan_out in zip((self.image_shape[0], *channels), channels, strict=False):
            stages += [nn.Conv2d(fan_in, fan_out, 3, stride=2, padding=1), activation()]
        self.stages = nn.Sequential(*stages, nn.Flatten())
        self.head = nn.Linear(math.prod(sizes[-1]), out_features)

    def forward(self, images: Tensor) -> Tensor:
        """Map images (..., C, H, W), or the same flattened (..., C*H*W), to (..., out_features)."""
        images = self._as_images(images)
        return self.head(apply_batched(self.stages, images, event_dim=3))

    def _as_images(self, images: Tensor) -> Tensor:
        if tuple(images.shape[-3:]) == self.image_shape:
            return images
        if images.dim() >= 1 and images.shape[-1] == math.prod(self.image_shape):
            return images.unflatten(-1, self.image_shape)
        shape = ", ".join(map(str, self.image_shape))
        raise ValueError(
            f"ConvEncoder: the input must be (..., {shape}) or (..., {math.prod(self.image_shape)}), "
            f"got {tuple(images.shape)}"
        )


class ConvDecoder(nn.Module):
    """Numbers to images: one linear layer, then each stage doubles height and width.

    The mirror of :class:`ConvEncoder` with the same ``image_shape`` and ``channels``; odd sizes (7 -> 14 ->
    28, or 3 -> 5) come back exactly.

    Args:
        in_features: the size of the input.
        image_shape: (C, H, W) of the output.
        channels: channels before each doubling stage, in the encoder's order (so the last is used first).
        activation: makes the activation before each stage.
        flatten: return (..., C*H*W), for data that is kept as rows.

    Raises:
        ValueError: an image shape that is not three positive sizes, no stage; in a call, a last dimension
            that is not ``in_features``.

    >>> import torch
    >>> ConvDecoder(8, (1, 28, 28))(torch.zeros(5, 100, 8)).shape
    torch.Size([5, 100, 1, 28, 28])
    """

    def __init__(
        self,
        in_features: int,
        image_shape: Sequence[int],
        *,
        channels: Sequence[int] = (16, 32),
        activation: Callable[[], nn.Module] = nn.SiLU,
        flatten: bool = False,
    ) -> None:
        super().__init__()
        self.in_features = in_features
        self.image_shape = _checked_image_shape("ConvDecoder", image_shape, channels)
        self.flatten = flatten
        sizes = _stage_sizes(self.image_shape, channels)[::-1]
        self.head = nn.Linear(in_features, math.prod(sizes[0]))
        stages: list[nn.Module] = [nn.Unflatten(-1, sizes[0])]
        for small, large in pairwise(sizes):
            stages += [activation(), _doubling(small, large)]
        self.stages = nn.Sequential(*stages)

    def forward(self, inputs: Tensor) -> Tensor:
        """Map (..., in_features) to (..., C, H, W), or to (..., C*H*W) with ``flatten``."""
        if inputs.dim() < 1 or inputs.shape[-1] != self.in_features:
            raise ValueError(f"ConvDecoder: the input must be (..., {self.in_features}), got {tuple(inputs.shape)}")
        images = apply_batched(self.stages, self.head(inputs))
        return images.flatten(-3) if self.flatten else images


def _checked_image_shape(who: str, image_shape: Sequence[int], channels: Sequence[int]) -> tuple[int, int, int]:
    if len(image_shape) != 3 or min(image_shape) < 1:
        raise ValueError(f"{who}: image_shape must be (C, H, W), each at least 1, got {tuple(image_shape)}")
    if len(channels) < 1:
        raise ValueError(f"{who}: channels must name at least one stage, got {tuple(channels)}")
    c, h, w = image_shape
    return c, h, w


def _stage_sizes(image_shape: tuple[int, int, int], channels: Sequence[int]) -> list[tuple[int, int, int]]:
    """List the shape of the image and after each halving stage (stride 2 rounds up)."""
    sizes = [image_shape]
    for c in channels:
        sizes.append((c, (sizes[-1][1] + 1) // 2, (sizes[-1][2] + 1) // 2))
    return sizes


def _doubling(small: tuple[int, int, int], large: tuple[int, int, int]) -> nn.ConvTranspose2d:
    """Build the transposed convolution that undoes one halving, odd sizes included."""
    # A transposed convolution with kernel 3, stride 2, padding 1 gives 2n - 1; the rest is output padding.
    extra = (large[1] - 2 * small[1] + 1, large[2] - 2 * small[2] + 1)
    return nn.ConvTranspose2d(small[0], large[0], 3, stride=2, padding=1, output_padding=extra)
