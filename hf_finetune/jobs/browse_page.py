"""The page of `browse`: facts of a run's pipeline in words, its stages, and images after each of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import PIL.Image

from hf_finetune.errors import listing
from hf_finetune.jobs.browse_stages import SeenImages, SeenStage
from hf_finetune.pages.page import (
    Block,
    Cell,
    Column,
    Fact,
    Facts,
    ImageRows,
    Page,
    Paragraph,
    Section,
    Table,
    Thumbnail,
    shortened,
)
from hf_finetune.pages.thumbnails import thumbnail_sources
from hf_finetune.training.assembly import Assembly
from hf_finetune.training.augmented import label_text, tile_of

_BUDGET = 3_500_000  # characters of all images
_NAMED = 20  # classes


def write_browse_page(assembly: Assembly, seen: SeenImages, recipe: str, path: Path) -> None:
    """Write the page.

    Args:
        assembly: The parts of the run.
        seen: The images.
        recipe: The recipe's name.
        path: The HTML file.
    """
    data = assembly.images.data
    page = Page(f"What the network sees of {shortened(str(data.source))}", f"Recipe {recipe}, before any training")
    stages = [seen.decoded, *seen.training, seen.evaluation]
    page.sections = [
        Section("At a glance", [_facts(assembly, seen), *_words(assembly, seen)]),
        Section("Stages", [_where(), _table(stages)]),
        Section("Images by stage", [_rows_in_words(seen), _rows(seen, stages)]),
    ]
    keys = [key for row in _keys(seen, stages) for key in row]
    images = [tile_of(PIL.Image.fromarray(stage.images[place])) for place in _places(seen) for stage in stages]
    lines = [line for place in _places(seen) for line in _captions(seen, stages, place, data.label_names)]
    sources = thumbnail_sources(images, _BUDGET)
    page.images = {key: Thumbnail(source, texts) for key, source, texts in zip(keys, sources, lines, strict=True)}
    page.write(path)


def _places(seen: SeenImages) -> range:
    return range(len(seen.names))


def _keys(seen: SeenImages, stages: list[SeenStage]) -> list[list[str]]:
    return [[f"{place}-{number}" for number in range(len(stages))] for place in _places(seen)]


def _facts(assembly: Assembly, seen: SeenImages) -> Facts:
    args, count = assembly.plan.args, len(assembly.trainer.train_dataset)
    height, width = seen.pixel_values.shape[-2:]
    return Facts(
        [
            Fact("images shown", f"{len(seen.names)} of {count:,}", "training images, the first of epoch 0"),
            Fact("classes", f"{len(assembly.images.data.label_names):,}"),
            Fact("the network is given", f"{height} x {width}", "pixels of 3 channels, float32"),
            Fact("batch", f"{args.global_batch_size:,}", f"images of a step, {args.train_batch_size:,} in a pass"),
            Fact("seed", str(args.seed), f"order of the images: {args.order_seed}"),
        ]
    )


def _words(assembly: Assembly, seen: SeenImages) -> Iterator[Block]:
    given = seen.training[-1]
    for sentence in assembly.resizing:
        yield Paragraph(sentence)
    yield Paragraph(
        f"Values: {seen.decoded.low:.0f} to {seen.decoded.high:.0f} in these files, {given.low:.2f} to"
        f" {given.high:.2f} where the network is given them."
    )
    yield Paragraph(f"Classes: {listing(assembly.images.data.label_names, _NAMED)}.")
    mixed = ", and labels are shares of the classes" if seen.is_mixed else ""
    yield Paragraph(
        "Random draws belong to seed, epoch and image. So the last stage of training here is bit for bit what the first"
        f" batches of the training hold{mixed}; in each later epoch the draws are others."
    )


def _where() -> Paragraph:
    return Paragraph(
        "What works on each image runs in the loader's workers, and what works on the batch runs on the training"
        " device. Values are those of the images shown, as the stage has them."
    )


def _table(stages: list[SeenStage]) -> Table:
    columns = [
        Column("#", number=True),
        *map(Column, ("stage", "settings", "works on", "pixels")),
        Column("values", number=True),
    ]
    rows = []
    for number, stage in enumerate(stages):
        is_float = stage.low < 0 or stage.high != int(stage.high)
        values = f"{stage.low:.2f} to {stage.high:.2f}" if is_float else f"{stage.low:.0f} to {stage.high:.0f}"
        rows.append(
            [
                Cell(str(number), number),
                Cell(stage.name),
                Cell(stage.parameters),
                Cell(stage.place),
                Cell(_sizes(stage)),
                Cell(values, stage.high - stage.low),
            ]
        )
    return Table(columns, rows)


def _sizes(stage: SeenStage) -> str:
    sizes = [f"{height} x {width}" for height, width in stage.sizes]
    return sizes[0] if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}"


def _rows_in_words(seen: SeenImages) -> Paragraph:
    mixed = " MixUp and CutMix mix an image with the one before it in its batch." if seen.is_mixed else ""
    return Paragraph(
        "A row for each image, a column for each stage, in order. Normalized images are shown un-normalized; values"
        f" beyond 0 to 255 are cut off there. The last column is evaluation's view of the file.{mixed}"
    )


def _rows(seen: SeenImages, stages: list[SeenStage]) -> ImageRows:
    return ImageRows([(stage.name, stage.place) for stage in stages], _keys(seen, stages))


def _captions(seen: SeenImages, stages: list[SeenStage], place: int, names: list[str]) -> Iterator[list[str]]:
    """Yield the lines below an image at each stage: its file and label, its size, and the label that it ends with."""
    for stage in stages:
        height, width = stage.images[place].shape[:2]
        size = f"{height} x {width}"
        if stage is seen.decoded:
            yield [label_text(seen.labels[place], names), shortened(seen.names[place]), size]
        elif stage is seen.training[-1]:
            yield [label_text(seen.targets[place], names, decimals=2), size]
        else:
            yield [size]
