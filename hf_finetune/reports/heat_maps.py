"""Heat maps of the worst mistakes of a run: where the network found the class that it gave."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from PIL.Image import Image

from hf_finetune.errors import reason_of
from hf_finetune.evaluation.heat_maps import METHODS, HeatMapper
from hf_finetune.evaluation.overlays import network_views, side_by_side
from hf_finetune.logs import progress_bar
from hf_finetune.pages.page import Gallery, Page, Thumbnail
from hf_finetune.pages.thumbnails import thumbnail_sources
from hf_finetune.reports.network import RunNetwork

_MOST = 12  # images
_WIDTH = 320  # pixels of an image and its heat map together
_BUDGET = 120_000  # characters of all of them
_NO_TIME = "There are no heat maps of the mistakes, because there was no time; hf-finetune report RUN draws them."
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
        rollout = METHODS["rollout"] in self.how
        what = "what the network attends to" if rollout else "where the network finds the class of its mistake"
        return f"beside {len(self.places)} of them, {what}{how}; yellow is most"


def add_heat_maps(
    page: Page,
    wanted: Mapping[int, int | None],
    caption: Callable[[int], list[str]],
    network: RunNetwork,
    read_encoded: ReadEncoded,
) -> HeatMapsOfPage:
    """Add heat maps to a page.

    Args:
        page: The page.
        wanted: By the place of each image in its split, the class to explain; None for the likeliest.
        caption: Returns the lines below the image of a place.
        network: The network.
        read_encoded: Reads the images.
    """
    if not wanted:
        return HeatMapsOfPage()
    if network.late:
        return HeatMapsOfPage(note=_NO_TIME)
    some = list(wanted.items())[:_MOST]
    try:
        mapper = HeatMapper(network.network)
        drawn = _drawn(network, mapper, some, read_encoded([place for place, _ in some]))
    except Exception as error:  # a network of another kind, memory: the report is worth more than its heat maps
        return HeatMapsOfPage(note=f"There are no heat maps of the mistakes: {reason_of(error)}.")
    if not drawn:
        return HeatMapsOfPage(note=_NO_TIME)
    sources = thumbnail_sources([image for image, _ in drawn.values()], _BUDGET, _WIDTH)
    for (place, (_, found)), source in zip(drawn.items(), sources, strict=True):
        lines = caption(place)
        page.images[f"{KEY}{place}"] = Thumbnail(source, lines if found else [*lines, "heat map: nothing found"])
    return HeatMapsOfPage(list(drawn), mapper.described())


def _drawn(
    network: RunNetwork, mapper: HeatMapper, wanted: Sequence[tuple[int, int | None]], values: Sequence[Any]
) -> dict[int, tuple[Image, bool]]:
    """Return images with their heat maps by place, and whether anything was found, as many as there is time for."""
    drawn = {}
    pairs = zip(wanted, values, strict=True)
    for (place, class_id), value in progress_bar(pairs, total=len(wanted), desc="heat maps", unit="image", delay=2):
        if network.late or (prepared := network.prepare(value)) is None:
            continue
        heat_map = mapper(prepared[1], None if class_id is None else [class_id]).maps[0].numpy()
        view = network_views(prepared[0], network.image_processor)[0]
        drawn[place] = side_by_side(view, heat_map), bool(heat_map.any())
    return drawn
