"""The images of a split as points, near each other where the network takes them for alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL.Image import Image

from hf_finetune.errors import reason_of
from hf_finetune.evaluation.metrics import as_percent
from hf_finetune.evaluation.overlays import network_views
from hf_finetune.logs import progress_bar
from hf_finetune.pages.page import Note, Page, Paragraph, Section, Thumbnail, shortened
from hf_finetune.pages.scatter import Point, Scatter
from hf_finetune.pages.thumbnails import thumbnail_sources
from hf_finetune.reports.answers import Answers
from hf_finetune.reports.heat_maps import ReadEncoded
from hf_finetune.reports.network import RunNetwork

KEY = "map-"  # precedes the place of an image among the keys of a page
_MOST = 300  # points
_LEAST = 8
_ENOUGH = 100  # points that are worth a map where the time is over before all are there
_SIDE = 64  # pixels of a thumbnail
_BUDGET = 250_000  # characters of all of them
_TITLE = "Map"


def embedding_section(
    page: Page,
    answers: Answers,
    caption: Callable[[int], list[str]],
    network: RunNetwork,
    read_encoded: ReadEncoded,
) -> Section | None:
    """Return a section with the images of a split as points, by the features that the head is given.

    The two axes are those of the principal components analysis of the features: the directions of largest variance.

    Args:
        page: The page, which gets the images of the points.
        answers: Of the split, one label an image.
        caption: Returns the lines below the image of a place.
        network: The network.
        read_encoded: Reads the images.

    Returns:
        None for fewer than 8 images.
    """
    known = np.flatnonzero(answers.known)
    # In an order by chance, so that those for which there is no time are any.
    places = np.random.default_rng(0).permutation(known)[:_MOST].tolist()
    if len(places) < _LEAST:
        return None
    no_time = Section(
        _TITLE, [Note("There is no map of the images, for want of time; hf-finetune report RUN draws it.")]
    )
    if network.late:
        return no_time
    try:
        shown, features, views = _features(network, places, read_encoded(places))
    except Exception as error:  # a network of another kind, memory: the report is worth more than its map
        return Section(_TITLE, [Note(f"There is no map of the images: {reason_of(error)}.")])
    if network.late and len(shown) < min(_ENOUGH, len(places)):
        return no_time
    if len(shown) < _LEAST:
        return Section(_TITLE, [Note("There is no map of the images: too few can be read.")])
    axes, share = principal_axes(features)
    for place, source in zip(shown, thumbnail_sources(views, _BUDGET, _SIDE), strict=True):
        page.images[f"{KEY}{place}"] = Thumbnail(source, caption(place))
    points = [
        Point(x, y, int(answers.labels[place]), f"{KEY}{place}", not bool(answers.correct[place]))
        for place, (x, y) in zip(shown, axes.tolist(), strict=True)
    ]
    text = (
        f"{len(shown):,} of {len(known):,} images by the features that the network's head is given, along the two"
        f" directions in which these differ most (PCA), which hold {as_percent(share)} of their variance. A ring is a"
        " mistake. An image among those of another class looks like them to the network, unless the other directions"
        " part them. Point at one to see it, or use Tab and the arrow keys."
    )
    return Section(_TITLE, [Paragraph(text), Scatter(points, [shortened(name) for name in answers.label_names])])


def _features(
    network: RunNetwork, places: Sequence[int], values: Sequence[Any]
) -> tuple[list[int], NDArray[np.float64], list[Image]]:
    """Return the places of the images that were read in time, their features and what the network sees."""
    shown, rows, views = [], [], []
    pairs = zip(places, values, strict=True)
    for place, value in progress_bar(pairs, total=len(places), desc="map of images", unit="image", delay=2):
        if network.late or (prepared := network.prepare(value)) is None:
            continue
        view = network_views(prepared[0], network.image_processor)[0]
        view.thumbnail((_SIDE, _SIDE))
        shown.append(place)
        rows.append(network.features(prepared[1]).numpy().astype(np.float64))
        views.append(view)
    return shown, np.array(rows), views


def principal_axes(features: NDArray[np.float64]) -> tuple[NDArray[np.float64], float]:
    """Return points on the first two principal axes, (points, 2), and the share of the variance that they hold.

    Args:
        features: Float64 (points, features).
    """
    centred = features - features.mean(axis=0)
    left, values, directions = np.linalg.svd(centred, full_matrices=False)
    signs = np.sign(directions[np.arange(len(values)), np.abs(directions).argmax(axis=1)])  # of the largest, positive
    points = np.zeros((len(features), 2))
    kept = min(2, len(values))
    points[:, :kept] = (left * values * signs)[:, :kept]
    total = float((values**2).sum())
    return points, float((values[:2] ** 2).sum() / total) if total else 0.0
