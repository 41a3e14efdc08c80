"""Letterboxing: an image is resized to fit as a whole into one size, in its centre, and gets borders.

It gives the pixels of an image processor of Transformers whose `size` is a `max_height` and a `max_width`, and whose
centre crop pads what is too small.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torchvision.transforms import InterpolationMode, v2
from transformers.image_utils import get_image_size_for_max_height_width

from hf_finetune.data.images.decoding import ImageValue, UnreadableImage, image_name


def check_room(value: ImageValue | None, height: int, width: int, size: Sequence[int]) -> None:
    """Check that letterboxing leaves something of an image.

    Args:
        value: The image, for the message.
        height: Its height in pixels.
        width: Its width in pixels.
        size: The (height, width) in pixels that it is fitted into.

    Raises:
        UnreadableImage: It is so long that its other side would have no pixel.
    """
    if min(get_image_size_for_max_height_width((height, width), *size)) < 1:
        raise UnreadableImage(image_name(value), f"{height} x {width} pixels, of which padding leaves nothing")


class Letterbox(v2.Transform):  # torchvision has no types
    """Resize images to fit into a size with their aspect ratio, and add borders around them."""

    def __init__(
        self,
        size: int | Sequence[int],
        interpolation: InterpolationMode = InterpolationMode.BILINEAR,
        fill: int | Sequence[int] = 0,
    ) -> None:
        """Check and keep the arguments.

        Args:
            size: The side of the result, or its (height, width), in pixels.
            interpolation: Of the resizing.
            fill: The value of the borders, 0 to 255, or one for each channel.

        Raises:
            ValueError: The size is neither one number nor two.
        """
        super().__init__()
        sides = [size, size] if isinstance(size, int) else list(size)
        if len(sides) != 2 or not all(isinstance(side, int) and side > 0 for side in sides):
            raise ValueError("its size is the side in pixels, or height and width")
        self.size = sides
        self.interpolation = interpolation
        self.fill = [fill] if isinstance(fill, int) else list(fill)

    def fitted(self, height: int, width: int) -> tuple[int, int]:
        """Return the (height, width) in pixels that an image is resized to."""
        fitted: tuple[int, int] = get_image_size_for_max_height_width((height, width), *self.size)
        return fitted

    def resized(self, images: torch.Tensor, height: int, width: int) -> torch.Tensor:
        """Return images resized to `fitted` of (height, width), with borders.

        Args:
            images: An image of shape (channels, rows, columns), or a batch of them.
            height: Of the image before it was decoded at a reduced scale, in pixels.
            width: Likewise.

        Returns:
            Images of the same dtype, and of the height and width `size`.
        """
        rows, columns = self.fitted(height, width)
        inner = v2.functional.resize(images, [rows, columns], self.interpolation, antialias=True)
        fill = self.fill * images.shape[-3] if len(self.fill) == 1 else self.fill
        values = torch.stack([images.new_full((), value) for value in fill])  # no copy from the host to the device
        framed = values[:, None, None].expand(*images.shape[:-2], *self.size).contiguous()
        top, left = (self.size[0] - rows) // 2, (self.size[1] - columns) // 2
        framed[..., top : top + rows, left : left + columns] = inner
        return framed

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return an image of shape (channels, height, width), or a batch of them, resized and with borders."""
        return self.resized(images, *images.shape[-2:])
