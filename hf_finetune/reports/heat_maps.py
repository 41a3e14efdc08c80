"""Heat maps of the worst mistakes of a run: where the network found the class that it gave."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL.Image import Image

from hf_finetune.config.model import ModelArguments
from hf_finetune.data.device import DeviceStage
from hf_finetune.data.stages import EvaluationStage
from hf_finetune.errors import UserError, first_line
from hf_finetune.evaluation.heat_maps import HeatMapper
from hf_finetune.evaluation.overlays import network_views, side_by_side
from hf_finetune.logs import progress_bar
from hf_finetune.models.load import load_trained, open_source
from hf_finetune.models.processor import load_image_processor
from hf_finetune.pages.page import Gallery, Page, Thumbnail
from hf_finetune.pages.thumbnails import thumbnail_sources

_MOST = 12  # images
_SECONDS = 30  # after which no further image is begun
_WIDTH = 320  # pixels of an image and its heat map together
_BUDGET = 120_000  # characters of all of them
KEY = "heat-"  # precedes the place of an image among the keys of a page

ReadEncoded = Callable[[Sequence[int]], Sequence[Any]]
"""Returns the images at some places of the split that was evaluated, as they are stored; None for what is not there."""


@dataclass(frozen=True)
class HeatMapsOfPage:
    """The heat maps that a page has.

    Attributes:
        places: Of their images in the split.
        how: The method in words, "" where it is not known.
        note: Why there are none, "" where nothing is to be said.
    """

    places: Sequence[int] = ()
    how: str = ""
    note: str = ""

    @property
    def gallery(self) -> Gallery:
        """All of them."""
        return Gallery([f"{KEY}{place}" for place in self.places], pairs=True)

    @property
    def sentence(self) -> str:
        """What they show, without an end."""
        how = f" ({self.how})" if self.how else ""
        return (
            f"beside {len(self.places)} of them, where the network finds the class of its mistake{how}; yellow is most"
        )


class _Explainer:
    """The network of a run on the CPU, where a report is written again as it was written first."""

    def __init__(self, folder: Path) -> None:
        source = open_source(ModelArguments(model_name_or_path=str(folder)))
        network = load_trained(source)
        self.image_processor = load_image_processor(source, network.config)
        self.mapper = HeatMapper(network)
        self._stage = EvaluationStage(self.image_processor, uniform=False)
        self._device_stage = DeviceStage(self.image_processor, uniform=False)

    def draw(self, value: Any, class_id: int | None) -> tuple[Image, bool] | None:
        """Return an image with its heat map beside it, and whether anything was found; None where it is unreadable."""
        if value is None:
            return None
        try:
            pixel_values = self._stage({"image": [value], "label": [-1]})["pixel_values"]
        except UserError:
            return None
        inputs = self._device_stage({"pixel_values": pixel_values})["pixel_values"]
        found = self.mapper(inputs, None if class_id is None else [class_id])
        (view,), heat_map = network_views(pixel_values, self.image_processor), found.maps[0].numpy()
        return side_by_side(view, heat_map), bool(heat_map.any())


def add_heat_maps(
    page: Page,
    wanted: Mapping[int, int | None],
    caption: Callable[[int], list[str]],
    folder: Path,
    read_encoded: ReadEncoded,
) -> HeatMapsOfPage:
    """Add heat maps to a page.

    Args:
        page: The page.
        wanted: By the place of each image in its split, the class to explain; None for the likeliest.
        caption: Returns the lines below the image of a place.
        folder: The folder of the run.
        read_encoded: Reads the images.
    """
    if not wanted:
        return HeatMapsOfPage()
    some = list(wanted.items())[:_MOST]
    try:
        explainer = _Explainer(folder)
        drawn = _drawn(explainer, some, read_encoded([place for place, _ in some]))
    except Exception as error:  # a network of another kind, memory: the report is worth more than its heat maps
        kind = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
        return HeatMapsOfPage(note=f"There are no heat maps of the mistakes: {kind}{first_line(error)}.")
    if not drawn:
        return HeatMapsOfPage(note="There are no heat maps of the mistakes: none could be drawn in time.")
    sources = thumbnail_sources([image for image, _ in drawn.values()], _BUDGET, _WIDTH)
    for (place, (_, found)), source in zip(drawn.items(), sources, strict=True):
        lines = caption(place)
        page.images[f"{KEY}{place}"] = Thumbnail(source, lines if found else [*lines, "heat map: nothing found"])
    return HeatMapsOfPage(list(drawn), explainer.mapper.described())


def _drawn(
    explainer: _Explainer, wanted: Sequence[tuple[int, int | None]], values: Sequence[Any]
) -> dict[int, tuple[Image, bool]]:
    """Return images with their heat maps by place, and whether anything was found, as many as there is time for."""
    until, drawn = time.monotonic() + _SECONDS, {}
    pairs = zip(wanted, values, strict=True)
    for (place, class_id), value in progress_bar(pairs, total=len(wanted), desc="heat maps", unit="image", delay=2):
        if time.monotonic() < until and (pair := explainer.draw(value, class_id)) is not None:
            drawn[place] = pair
    return drawn
