"""What the commands that look at a run before it begins have in common: its plan, and where they write."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hf_finetune.config.recipe import Recipe, override
from hf_finetune.config.training import FinetuneArguments
from hf_finetune.errors import UserError
from hf_finetune.logs import get_logger
from hf_finetune.training.given import Given
from hf_finetune.training.plan import RunPlan, plan_run

logger = get_logger(__name__)

# What a run writes or reports, none of which is done here.
_NOT_HERE: dict[str, Any] = {
    "push_to_hub": False,
    "hub_model_id": None,
    "hub_private_repo": None,
    "report_to": "none",
    "overwrite_output_dir": False,
}


@contextmanager
def planned(recipe: Recipe, given: Given, without: dict[str, Any] | None = None) -> Iterator[RunPlan]:
    """Plan a run that leaves nothing behind: its folder is a temporary one, which ends with the block.

    Args:
        recipe: The recipe of the run.
        given: What a Python caller gave as objects.
        without: More keys that are set otherwise.

    Raises:
        UserError: For whatever the caller can fix.
    """
    with tempfile.TemporaryDirectory() as folder:
        logger.info(f"Recipe {recipe.name}.")
        values = {**_NOT_HERE, **(without or {}), "output_dir": str(Path(folder) / "run")}
        yield plan_run(override(recipe, values), given)


def check_alone(args: FinetuneArguments, command: str) -> None:
    """Raise `UserError` where several processes would train together."""
    if args.world_size > 1:
        raise UserError(f"{command} does not go with {args.world_size} processes; start it without a launcher.")


def unused_path(path: Path) -> Path:
    """Return a path, or the first of path-2, path-3 ... that does not exist."""
    numbered = (path.with_name(f"{path.stem}-{number}{path.suffix}") for number in itertools.count(2))
    return next(candidate for candidate in itertools.chain([path], numbered) if not candidate.exists())


def plot_path(output: str | Path | None, usual: str) -> Path:
    """Return the PNG file that a plot is drawn into, in a folder that is there.

    Args:
        output: As the user names it, which may exist; None for `usual`, or `usual` with a number.
        usual: Its name otherwise.

    Raises:
        UserError: It is no name of a PNG file.
    """
    path = Path(output).expanduser() if output is not None else unused_path(Path(usual))
    if path.suffix.lower() != ".png" or path.is_dir():
        raise UserError(f"--output is {path}; use the name of a file that ends in .png.")
    path.parent.mkdir(parents=True, exist_ok=True)
    return path
