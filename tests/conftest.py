"""What several tests share: no network, quiet libraries, tiny images and tiny networks.

Nothing heavy is imported at the top: pytest-xdist's own process reads this file too, and waits for it before it starts
those that run the tests.
"""

from __future__ import annotations

import atexit
import gc
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Generator, Iterator

# Before any library reads them: nothing here may reach for a network, and two cores are shared with other tests.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # with it each process that a test starts compiles the package anew
os.environ.setdefault("OMP_NUM_THREADS", "1")  # also for a run that is shared, made before the first test's fixtures
# What is decoded, computed or converted goes with the tests, and finds nothing that another run of them left.
os.environ["HF_DATASETS_CACHE"] = tempfile.mkdtemp(prefix="hf_finetune_tests_")

from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from hf_finetune.logs import ConsoleHandler, show_logs
from tests.helpers.browser import browser  # noqa: F401 - a fixture
from tests.helpers.hub_session import logged_in, server  # noqa: F401 - fixtures
from tests.helpers.mistakes import refused  # noqa: F401 - a fixture
from tests.helpers.tiny import write_recipe

# What trains networks, builds every family of them, starts processes or tries thousands of inputs, by the beginning of
# its name below tests/; what draws plots or has a finished run is found by its fixtures.
# `make test-quick` leaves it out: each costs half a second or more, alone or with all its cases. What is new is quick
# until it is named here or marked by `pytest.mark.slow`.
SLOW_FIXTURES = {"drawn_plots", "finished_run"}
SLOW = (
    "benchmarks/",
    "cli/test_imports.py::test_a_prediction",
    "cli/test_late_imports",
    "config/test_fuzz",
    "data/images/test_cache.py::test_a_run_gives_the_same_weights",
    "data/images/test_cache.py::test_the_name_is_the_same_in_another_process",
    "data/images/test_fuzz",
    "data/images/test_parity.py::test_every_file_is_decoded",
    "data/images/test_parity.py::test_the_processor_of_every_family_is_followed[Donut",
    "data/images/test_pixels.py::test_decoding_warns_of_nothing",
    "data/images/test_unreadable",
    "data/sources/test_fuzz",
    "data/streaming/test_build",
    "data/test_build.py::test_digits",
    "data/test_folds.py::test_the_folds_of_a_dataset",
    "data/test_label_sets.py::test_folds_and_groups",
    "data/test_mistakes",
    "data/test_stages.py::test_workers_and_batch_size",
    "data/transforms/test_albumentations_names.py::test_draws_depend",
    "data/transforms/test_mixing.py::test_a_choice_is_taken",
    "data/transforms/test_mixing.py::test_a_run_that_mixes",
    "data/transforms/test_reduced_decoding.py::test_a_reduced_image_differs",
    "evaluation/test_metrics.py::test_two_processes_at_once",
    "evaluation/test_multi_label.py::test_the_best_threshold",
    "exporters/",
    "faults/",
    "hub/test_push",
    "jobs/",
    "mmclassification/test_syntax.py::test_values_that_double",
    "models/foreign/",
    "models/test_adapters.py::test_what_is_saved_is_loaded",
    "models/test_batch_norm",
    "models/test_custom_head.py::test_every_family",
    "models/test_custom_head.py::test_a_run_of_neighbors",
    "models/test_depth.py::test_depths_rise",
    "models/test_freeze",
    "models/test_hub_code",
    "models/test_image_size.py::test_a_network_of_timm",
    "models/test_image_size.py::test_a_size_that_cannot_be_had",
    "models/test_image_size.py::test_the_logits_are_those",
    "models/test_input_channels.py::test_a_gray_image",
    "models/test_load",
    "test_accelerate_configs",
    "test_api",
    "test_distributed",
    "test_import.py::test_importing_every_module",
    "test_seen_images",
    "test_slurm",
    "test_tutorial",
    "training/",
)
# Small files in the folders above.
QUICK = (
    "training/checkpoints/test_sizes",
    "training/checkpoints/test_store",
    "training/extensions/test_ema_alone",
    "training/extensions/test_epochs",
    "training/extensions/test_streaming_state",
    "training/test_loss",
    "training/test_muon",
    "training/test_optimization",
    "training/test_sampling",
    "training/test_schedule_settings",
)

atexit.register(shutil.rmtree, os.environ["HF_DATASETS_CACHE"], ignore_errors=True)


@pytest.hookimpl(wrapper=True)
def pytest_collection(session: pytest.Session) -> Generator[None, object, object]:
    """Import the files of tests without garbage collections, which look through all libraries again and again.

    Before many files, what they need is imported as the commands do, in half the time.
    """
    gc.disable()
    is_controller = not hasattr(session.config, "workerinput") and session.config.getoption("dist", "no") != "no"
    if not is_controller and any(map(os.path.isdir, session.config.args)):
        import tests.helpers.preloaded  # noqa: F401
    try:
        return (yield)
    finally:
        gc.enable()


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Do not even import files of nothing but slow tests where those are left out."""
    place = collection_path.relative_to(Path(__file__).parent).as_posix()
    left_out = config.option.markexpr.endswith("and not slow") and collection_path.suffix == ".py"
    return True if left_out and place.startswith(SLOW) and not place.startswith(QUICK) else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that are slow, and run them first: no process then ends alone on a long one."""
    folder = Path(__file__).parent
    for item in items:
        place = f"{item.path.relative_to(folder).as_posix()}::{item.name}"
        if (place.startswith(SLOW) and not place.startswith(QUICK)) or SLOW_FIXTURES & {*item.fixturenames}:
            item.add_marker(pytest.mark.slow)
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


@pytest.fixture(scope="module", autouse=True)
def _libraries_are_no_garbage() -> None:
    """Keep what is imported by now out of garbage collections: a run asks for two, of 0.3 s each over all libraries."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def ctrl_c() -> None:
    """Let Ctrl-C act as usual: a shell starts what runs in its background with SIGINT ignored, which is inherited."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real images beside the repository; tests that need it are skipped where it is absent."""
    folder = Path(__file__).resolve().parents[2] / "shared"
    if not (folder / "hub").is_dir():
        pytest.skip("the folder of real images is not there")
    return folder


@pytest.fixture(scope="session")
def image_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes of 24 coloured images of 16 x 16 pixels, easy to tell apart, in train and test folders."""
    folder = tmp_path_factory.mktemp("images")
    generator = np.random.default_rng(0)
    for split, count in (("train", 24), ("test", 8)):
        for label, colour in {"blue": (30, 60, 200), "green": (40, 190, 60), "red": (200, 50, 40)}.items():
            (folder / split / label).mkdir(parents=True)
            for number in range(count):
                pixels = np.clip(np.array(colour) + generator.normal(0, 30, (16, 16, 3)), 0, 255).astype(np.uint8)
                PIL.Image.fromarray(pixels).save(folder / split / label / f"{number:02d}.png")
    return folder


@pytest.fixture(scope="session")
def finished_run(image_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run on these images; nothing may be written there."""
    from hf_finetune import finetune

    folder = tmp_path_factory.mktemp("run")
    finetune(str(write_recipe(folder)), dataset=str(image_folder), output_dir=str(folder / "output"))
    return folder / "output"


@pytest.fixture
def datasets_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty datasets cache of the test's own; features are kept below it."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    return tmp_path / "cache"


@pytest.fixture
def evaluate_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Generator[Path, None, None]:
    """An empty cache of `evaluate`, from which copies of modules are imported, not from an earlier test's."""

    def forget() -> None:
        for name in [name for name in sys.modules if name.partition(".")[0] == "evaluate_modules"]:
            del sys.modules[name]

    folder = tmp_path / "evaluate"
    monkeypatch.setattr("evaluate.config.HF_METRICS_CACHE", folder / "metrics")
    monkeypatch.setattr("evaluate.config.HF_MODULES_CACHE", str(folder / "modules"))
    monkeypatch.syspath_prepend(folder / "modules")
    forget()
    yield folder
    forget()


@pytest.fixture
def images_seen(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of images of every call of a ResNet's backbone."""
    from transformers import ResNetModel

    seen: list[int] = []
    forward = ResNetModel.forward

    def counting(self, pixel_values, *args, **kwargs):
        seen.append(len(pixel_values))
        return forward(self, pixel_values, *args, **kwargs)

    monkeypatch.setattr(ResNetModel, "forward", counting)
    return seen


@pytest.fixture(autouse=True)
def _console():
    """What the package logs is shown, as by the commands, so that `capsys` has it."""
    show_logs()


@pytest.fixture
def logged(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The messages that the package logs while the test runs."""
    messages: list[str] = []
    monkeypatch.setattr(ConsoleHandler, "emit", lambda self, record: messages.append(record.getMessage()))
    return messages


@pytest.fixture(autouse=True)
def _one_thread():
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def _undrawn_plots() -> Iterator[pytest.MonkeyPatch]:
    """Let plots be one white pixel each: the three of a run would take most of its time.

    Tests of the plots and every process that a test starts have them drawn.
    """
    with pytest.MonkeyPatch.context() as patch:
        _draw_nothing(patch)
        yield patch


@pytest.fixture
def drawn_plots(_undrawn_plots: pytest.MonkeyPatch) -> Iterator[None]:
    """For tests that look at plots: matplotlib draws them."""
    _undrawn_plots.undo()
    yield
    _draw_nothing(_undrawn_plots)


def _draw_nothing(patch: pytest.MonkeyPatch) -> None:
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure
    from matplotlib.transforms import Bbox

    from hf_finetune.evaluation import curves, plots

    pixel = PIL.Image.new("RGB", (1, 1), "white")

    def save(*arguments: object, **settings: object) -> None:
        pixel.save(next(path for path in arguments if isinstance(path, Path)), format="PNG")

    for name in ("plot_confusion_matrix", "plot_reliability", "plot_training_curve"):
        patch.setattr(plots, name, save)
    patch.setattr(curves, "plot_precision_recall", save)
    patch.setattr(Figure, "savefig", lambda figure, path, **settings: pixel.save(path, format="PNG"))
    patch.setattr(Figure, "get_layout_engine", lambda figure: None)
    patch.setattr(Figure, "get_tightbbox", lambda figure, renderer: Bbox.unit())
    patch.setattr(Axis, "get_tightbbox", lambda axis, renderer: None)
