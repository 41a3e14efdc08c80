"""The page of a run's report, and its thumbnails."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from hf_finetune.config.run_files import AUGMENTED_FILE, REPORT_FILE
from hf_finetune.evaluation.metrics import as_percent
from hf_finetune.pages.page import (
    Block,
    Cell,
    Column,
    Gallery,
    Note,
    Page,
    Paragraph,
    Section,
    Table,
    Thumbnail,
    shortened,
)
from hf_finetune.pages.thumbnails import thumbnail_sources
from hf_finetune.reports.answers import Answers
from hf_finetune.reports.choice import Choice, choose_images
from hf_finetune.reports.embedding_map import embedding_section
from hf_finetune.reports.heat_maps import KEY, HeatMapsOfPage, ReadEncoded, add_heat_maps
from hf_finetune.reports.network import MOST_SECONDS, RunNetwork
from hf_finetune.reports.run import ReadImages, RunFiles
from hf_finetune.reports.sections import (
    again_section,
    classes_section,
    confusion_section,
    data_blocks,
    figures_section,
    scores_section,
    slices_section,
    training_section,
)

_THUMBNAILS = 280_000  # characters of all thumbnails together, but for those of heat maps
_MOST_READ = 300  # images that are read for thumbnails
_JPEG = "data:image/jpeg;base64,"


def write_report(
    folder: Path,
    output: Path,
    read_images: ReadImages | None,
    absent: str = "",
    read_encoded: ReadEncoded | None = None,
    seconds: float = MOST_SECONDS,
) -> None:
    """Write the report of the run in a folder.

    Args:
        folder: The folder of a finished run.
        output: The HTML file.
        read_images: Reads images of the split that was evaluated. None where they cannot be had: then the thumbnails
            of the report that is in the folder are shown.
        absent: Why they cannot be had.
        read_encoded: Reads them as they are stored, for the heat maps of the worst mistakes; None leaves these out.
        seconds: In which images are shown to the network, for heat maps and the map of images.

    Raises:
        UserError: The folder is not that of a finished run, or a file cannot be read.
    """
    run = RunFiles.read(folder)
    answers = run.answers
    page = Page(f"Report of {folder.resolve().name}", run.record.get("title", ""))
    page.sections = [figures_section(run), _with_batch(training_section(run), folder, page)]
    data = data_blocks(run)
    if answers is not None and answers.known.any():
        choice, network = choose_images(answers), RunNetwork(folder, seconds)
        notes = _add_thumbnails(page, answers, choice, folder, read_images, absent)
        heat_maps = _heat_maps(page, answers, choice, folder, network, read_encoded)
        if not answers.several:
            page.sections.append(confusion_section(run, answers, choice))
        page.sections += [classes_section(run), _mistakes_section(answers, choice, notes, heat_maps)]
        if not answers.several:
            page.sections.append(scores_section(run, answers))
            if read_encoded is not None:
                section = embedding_section(page, answers, partial(_caption, answers), network, read_encoded)
                page.sections += [] if section is None else [section]
        if answers.slices:
            page.sections.append(slices_section(answers))
        data += _suspects(choice)
    page.sections += [Section("Data", data), again_section(run)]
    page.write(output)


def _with_batch(section: Section, folder: Path, page: Page) -> Section:
    """Return the section of the training, with a batch as the network saw it."""
    path = folder / AUGMENTED_FILE
    if not path.is_file():
        return section
    source = _JPEG + base64.b64encode(path.read_bytes()).decode()
    page.images["batch"] = Thumbnail(source, ["a training batch as the network sees it"])
    return Section(section.title, [*section.blocks, Gallery(["batch"], large=True)])


def _add_thumbnails(
    page: Page, answers: Answers, choice: Choice, folder: Path, read_images: ReadImages | None, absent: str
) -> list[Block]:
    """Add the images that a report shows to its page; return what is to be said of those that are not there."""
    places = choice.places()
    sources = dict.fromkeys(places, "")
    if read_images is not None:
        read = places[:_MOST_READ]
        sources |= dict(zip(read, thumbnail_sources(read_images(read), _THUMBNAILS), strict=True))
    else:
        earlier = _earlier(folder / REPORT_FILE)
        sources |= {place: earlier[str(place)] for place in places if str(place) in earlier}
    for place in places:
        page.images[str(place)] = Thumbnail(sources[place], _caption(answers, place))
    if read_images is not None or not places:
        return []
    shown = "the thumbnails are those of the report that was here" if any(sources.values()) else "there are none"
    no_map = "" if answers.several else " There is no map of the images."
    return [Note(f"Thumbnails: {absent}, so {shown}.{no_map}")]


def _heat_maps(
    page: Page,
    answers: Answers,
    choice: Choice,
    folder: Path,
    network: RunNetwork,
    read_encoded: ReadEncoded | None,
) -> HeatMapsOfPage:
    """Add the heat maps of the worst mistakes to a page."""
    wanted: dict[int, int | None] = dict.fromkeys(choice.worst)
    for wrong in choice.decisions:
        wanted.setdefault(wrong.place, wrong.class_id)

    def caption(place: int) -> list[str]:
        class_id, lines = wanted[place], _caption(answers, place)
        return lines if class_id is None else [f"heat map: {shortened(answers.label_names[class_id])}", *lines]

    if read_encoded is not None:
        return add_heat_maps(page, wanted, caption, network, read_encoded)
    earlier = _earlier(folder / REPORT_FILE)
    places = [place for place in wanted if f"{KEY}{place}" in earlier]
    for place in places:
        page.images[f"{KEY}{place}"] = Thumbnail(earlier[f"{KEY}{place}"], caption(place))
    return HeatMapsOfPage(places)


def _earlier(path: Path) -> dict[str, str]:
    """Return the images of the report in a folder by their keys."""
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    match = re.search(r'<script type="application/json" id="images">(.*?)</script>', text, re.DOTALL)
    try:
        images = json.loads(match[1]) if match else {}
        return {key: value[0] for key, value in images.items() if value[0].startswith(_JPEG)}
    except (ValueError, AttributeError, IndexError):  # another file of that name
        return {}


def _caption(answers: Answers, place: int) -> list[str]:
    """Return the lines below an image: its name, its class, and what the model said."""
    name, names = shortened(answers.names[place]), [shortened(text) for text in answers.label_names]
    if answers.several:
        has = ", ".join(names[class_id] for class_id in np.flatnonzero(answers.labels[place] > 0)) or "nothing"
        given = ", ".join(names[class_id] for class_id in np.flatnonzero(answers.predictions[place])) or "nothing"
        return [name, f"truth: {shortened(has)}", f"prediction: {shortened(given)}"]
    label, prediction = int(answers.labels[place]), int(answers.predictions[place])
    said = f"{names[prediction]} {answers.confidences[place]:.1%}"
    if label == prediction:
        return [name, f"correct: {said}"]
    return [name, f"truth: {names[label]} {np.exp(-answers.losses[place]):.1%}", f"prediction: {said}"]


def _mistakes_section(answers: Answers, choice: Choice, notes: Sequence[Block], heat_maps: HeatMapsOfPage) -> Section:
    blocks: list[Block] = [*notes, *([Note(heat_maps.note)] if heat_maps.note else [])]
    known, wrong = int(answers.known.sum()), int((answers.known & ~answers.correct).sum())
    if answers.several:
        blocks.append(Paragraph(f"{wrong:,} of {known:,} images were not given exactly their labels."))
        blocks += _decisions(answers, choice)
        if heat_maps.places:
            sentence = f"{heat_maps.sentence[0].upper()}{heat_maps.sentence[1:]}:"
            blocks += [Paragraph(sentence), heat_maps.gallery]
        return Section("Mistakes", blocks)
    blocks.append(Paragraph(f"{wrong:,} of {known:,} images were given another class than theirs."))
    if choice.worst:
        text = f"The {len(choice.worst)} mistakes with the highest probability, the worst first"
        if heat_maps.places:
            blocks += [Paragraph(f"{text}; {heat_maps.sentence}:"), heat_maps.gallery]
        else:
            blocks.append(Paragraph(f"{text}:"))
        blocks.append(Gallery(_keys([place for place in choice.worst if place not in heat_maps.places])))
    text = f"The {len(choice.least_sure)} images of which the model is least sure, whether it is correct or not:"
    return Section("Mistakes", [*blocks, Paragraph(text), Gallery(_keys(choice.least_sure))])


def _decisions(answers: Answers, choice: Choice) -> list[Block]:
    """Return a table of the decisions on single classes that are wrong with the most certainty."""
    rows = []
    for place, class_id in ((wrong.place, wrong.class_id) for wrong in choice.decisions):
        name = shortened(answers.label_names[class_id])
        probability = float(answers.probabilities[place][answers.classes[place] == class_id][0])
        rows.append(
            [
                Cell(shortened(answers.names[place]), images=[str(place)], title=name),
                Cell(name),
                Cell("has it" if answers.labels[place, class_id] > 0 else "does not have it"),
                Cell(as_percent(probability), probability),
            ]
        )
    if not rows:
        return []
    text = f"The {len(rows)} decisions that are wrong with the most certainty; a name opens the image:"
    columns = [Column("image"), Column("class"), Column("truth"), Column("probability", number=True)]
    return [Paragraph(text), Table(columns, rows)]


def _suspects(choice: Choice) -> list[Block]:
    """Return the images whose labels may be wrong."""
    if choice.too_few is not None:
        agrees = as_percent(choice.too_few)
        return [
            Paragraph(f"No label is called suspect: the model agrees with {agrees} of the labels, too few to judge.")
        ]
    if not choice.suspects:
        return []
    count = f"{choice.num_suspects:,} label{'s' * (choice.num_suspects > 1)}"
    text = (
        f"{count} may be wrong: there the model is surer of another class than it usually is of that class (confident"
        " learning, Northcutt et al. 2021). They are suspects and no more, because the model is wrong at times; look at"
        " them. The strongest first:"
    )
    return [Paragraph(text), Gallery(_keys(choice.suspects))]


def _keys(places: Sequence[int]) -> list[str]:
    return [str(place) for place in places]
