"""What the network really sees: training images after every stage of the pipeline, before any training."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import PIL.Image

from hf_finetune.config.recipe import Recipe
from hf_finetune.errors import UserError
from hf_finetune.jobs.browse_page import write_browse_page
from hf_finetune.jobs.browse_stages import SeenImages, see_images
from hf_finetune.jobs.preview import check_alone, planned, unused_path
from hf_finetune.logs import get_logger
from hf_finetune.training.assembly import assemble
from hf_finetune.training.augmented import image_grid, label_text
from hf_finetune.training.given import Given
from hf_finetune.training.sanity_check import settle_lone_image

logger = get_logger(__name__)

IMAGES, MOST_IMAGES = 8, 64
PAGE_FILE, GRID_FILE = "browse.html", "browse.jpg"


@dataclass(frozen=True)
class BrowseResult:
    """What the network sees of some training images.

    Attributes:
        folder: Where the page browse.html and the image browse.jpg are.
        label_names: Class names by class id.
        seen: The images after each stage; the last is bit for bit what the first batches of the training hold.
    """

    folder: Path
    label_names: tuple[str, ...]
    seen: SeenImages


def browse_images(
    recipe: Recipe, output: str | Path | None = None, images: int = IMAGES, given: Given | None = None
) -> BrowseResult:
    """Show the first training images of a run after every stage of its pipeline, on a page and in one image.

    The draws are those of epoch 0, so the last stage of training is what the first batches of the training hold.

    Args:
        recipe: The recipe of the run.
        output: The folder for both; absent, browse, or browse-2 and so on. Files of an earlier call are not replaced.
        images: How many images, 64 at most.
        given: What a Python caller gave as objects.

    Raises:
        UserError: For whatever the caller can fix.
    """
    if not 1 <= images <= MOST_IMAGES:
        raise UserError(f"--images is {images}; use a number from 1 to {MOST_IMAGES}.")
    folder = _folder(output)
    with planned(recipe, given or Given(), {"decode_cache": "never"}) as plan:
        check_alone(plan.args, "browse")
        assembly = assemble(plan)
        settle_lone_image(assembly.trainer)
        args, names = plan.args, assembly.images.data.label_names
        batch = min(args.train_batch_size, len(assembly.trainer.train_dataset))
        logger.info(f"Whole batches of {batch:,} images are prepared, because mixing goes by the batch.")
        seen = see_images(assembly, images)
        folder.mkdir(parents=True, exist_ok=True)
        write_browse_page(assembly, seen, recipe.name, folder / PAGE_FILE)
        _write_grid(seen, names, folder / GRID_FILE)
        assembly.trainer.end()
    logger.info(f"Written: {folder / PAGE_FILE} and {folder / GRID_FILE}, {len(seen.names)} images.")
    return BrowseResult(folder, tuple(names), seen)


def _folder(output: str | Path | None) -> Path:
    if output is None:
        return unused_path(Path("browse"))
    folder = Path(output).expanduser()
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--output: {folder} is a file; use the name of a folder.")
    for name in (PAGE_FILE, GRID_FILE):
        if (folder / name).exists():
            raise UserError(f"--output: {folder} has a {name} already; use another folder, or remove the file.")
    return folder


def _write_grid(seen: SeenImages, label_names: list[str], path: Path) -> None:
    """Write one image: a row for each image, a column for each stage."""
    stages = (seen.decoded, *seen.training, seen.evaluation)
    images, texts = [], []
    for place, (label, target) in enumerate(zip(seen.labels, seen.targets, strict=True)):
        for stage in stages:
            images.append(PIL.Image.fromarray(stage.images[place]))
            texts.append(stage.name)
        texts[-len(stages)] = label_text(label, label_names)
        if seen.is_mixed:
            texts[-2] = label_text(target, label_names, decimals=2)
    image_grid(images, texts, len(stages)).save(path, quality=90)
