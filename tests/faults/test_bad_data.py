"""Images that fail for real: damaged in every way, lost in mid-run; workers that are killed; no shared memory."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from safetensors.torch import load_file

from hf_finetune.config.data import DataArguments
from hf_finetune.data.batches import ImageBatches
from hf_finetune.data.build import load_image_dataset
from hf_finetune.data.images.decoding import UnreadableImage, decode_image
from hf_finetune.data.images.pixels import decode_pixels
from hf_finetune.data.images.unreadable import BadImages
from hf_finetune.data.stages import EvaluationStage
from tests.helpers.damage import write_bomb
from tests.helpers.processes import REPOSITORY, TWO_PROCESSES
from tests.helpers.tiny import write_recipe
from tests.helpers.trainers import PROCESSOR

pytestmark = pytest.mark.faults

SCRIPT = str(REPOSITORY / "tests/faults/bad_data_run.py")
LOST = "train/green/07.png"


@pytest.fixture
def images(image_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(image_folder, tmp_path / "images"))


def train(
    folder: Path, event: str, *words: str, epoch: int = 1, launcher: list[str] | None = None, shm: str | None = None
) -> subprocess.CompletedProcess[str]:
    """Runs the training of `bad_data_run.py` on folder/images; `shm` is the size of a /dev/shm of its own."""
    recipe = str(
        write_recipe(folder, decode_cache="never", load_best_model_at_end=False, dataset=str(folder / "images"))
    )
    command = [*(launcher or [sys.executable]), SCRIPT, event, str(epoch), "--recipe", recipe, *words]
    if shm is not None:
        inner = f'mount -t tmpfs -o size={shm} tmpfs /dev/shm && exec "$@"'
        command = ["unshare", "-m", "bash", "-c", inner, "bash", *command]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}
    return subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=200)


def assert_one_line(completed: subprocess.CompletedProcess[str], *words: str) -> None:
    assert completed.returncode == 2, completed.stderr[-3000:]
    line, *more = completed.stderr.splitlines()
    assert not more, completed.stderr
    assert line.startswith("hf-finetune: error: ")
    for word in words:
        assert word in line


def assert_same_weights(one: Path, other: Path) -> None:
    expected = load_file(one / "model.safetensors")
    for name, tensor in load_file(other / "model.safetensors").items():
        assert torch.equal(tensor, expected[name]), name


# ---- processes ----


def test_a_killed_worker_ends_the_run_and_the_same_command_goes_on(images, tmp_path):
    whole, killed = str(tmp_path / "whole"), str(tmp_path / "killed")
    workers = ["--dataloader_num_workers", "2"]
    assert train(tmp_path, "none", "--output_dir", whole, *workers).returncode == 0
    for _ in range(3):  # it dies at another moment each time
        completed = train(tmp_path, "kill", "--output_dir", killed, *workers)
        assert_one_line(
            completed, "A process that loads images", "The checkpoints stay, and the same command resumes the run."
        )
    completed = train(tmp_path, "none", "--output_dir", killed, *workers)
    assert completed.returncode == 0 and "resumes from checkpoint" in completed.stdout
    assert_same_weights(tmp_path / "whole", tmp_path / "killed")


@pytest.mark.skipif(
    shutil.which("unshare") is None
    or subprocess.run(["unshare", "-m", "mount", "-t", "tmpfs", "tmpfs", "/dev/shm"], capture_output=True).returncode,
    reason="a /dev/shm of one's own takes the right to mount",
)
def test_too_little_shared_memory_is_one_line(images, tmp_path):
    """Too little for the processes' locks, or only for their batches; with less than a page, nothing can be shared."""
    output = ["--output_dir", str(tmp_path / "output")]
    for pages in (1, 8, 20):
        completed = train(tmp_path, "none", *output, "--dataloader_num_workers", "2", shm=f"{4 * pages}k")
        assert_one_line(completed, "The shared memory of 0.", "(/dev/shm)", "or use --dataloader_num_workers 0.")
    completed = train(tmp_path, "none", *output, "--dataloader_num_workers", "0", shm="4k")
    assert completed.returncode == 0, completed.stderr[-3000:]


@pytest.mark.parametrize("workers", ["0", "2"])
def test_a_image_lost_in_mid_run_is_one_line(images, tmp_path, workers):
    words = ["--output_dir", str(tmp_path / "output"), "--dataloader_num_workers", workers]
    completed = train(tmp_path, f"lose:{images / LOST}", *words)
    assert_one_line(completed, f"{LOST} (not an image)", "The checkpoints stay, and the same command resumes the run.")
    completed = train(tmp_path, "none", *words, "--on_bad_image", "skip")
    assert completed.returncode == 0 and "resumes from checkpoint" in completed.stdout


@pytest.mark.parametrize("workers", ["0", "2"])
def test_two_processes_skip_alike_and_name_all(images, tmp_path, workers):
    words = ["--on_bad_image", "skip", "--on_nan", "skip", "3", "--dataloader_num_workers", workers]
    for event, count in ((f"lose:{images / LOST}", 0), ("nan", 1)):
        output = tmp_path / f"output_{count}"
        completed = train(tmp_path, event, *words, "--output_dir", str(output), launcher=TWO_PROCESSES)
        assert completed.returncode == 0, completed.stderr[-3000:]
        content = json.loads((output / "metrics.json").read_text())
        assert content["unreadable_images"] == [f"{LOST} (not an image)"]
        assert content["metrics"]["train_skipped_steps"] == len(content["skipped_steps"]) == count
        assert completed.stdout.count("it is skipped") == count
    assert len(content["skipped_steps"][0]["images"]) == 16  # of both processes


@pytest.mark.parametrize("event", ["lose", "nan", "kill"])
def test_two_processes_stop_together(images, tmp_path, event):
    """One meets the fault; the other must not wait for it."""
    event = f"lose:{images / LOST}" if event == "lose" else event
    words = ["--output_dir", str(tmp_path / "output"), "--dataloader_num_workers", "1"]
    completed = train(tmp_path, event, *words, launcher=TWO_PROCESSES)
    assert completed.returncode != 0
    assert "hf-finetune: error: " in completed.stderr
    assert (tmp_path / "output/checkpoint-5").is_dir()  # of epoch 0
    completed = train(tmp_path, "none", *words, "--on_bad_image", "skip", launcher=TWO_PROCESSES)
    assert completed.returncode == 0, completed.stderr[-3000:]
    assert "resumes from checkpoint" in completed.stdout


# ---- damages ----


def damaged(content: bytes, other: bytes) -> Iterator[tuple[str, bytes]]:
    """Yields files that a disk, a network or a person could have made of an image."""
    generator = np.random.default_rng(0)
    for tenth in range(10):
        yield f"cut at {tenth} tenths", content[: len(content) * tenth // 10]
    yield "one byte short", content[:-1]
    for count in (1, 10, 100, 1000):
        for seed in range(8):
            flipped = bytearray(content)
            for place in generator.integers(0, len(content), count):
                flipped[place] ^= 1 << seed
            yield f"{count} bits flipped, {seed}", bytes(flipped)
    for start in range(0, 10, 3):
        place = len(content) * start // 10
        yield f"zeros from {start} tenths", content[:place] + bytes(len(content) - place)
        yield f"a hole at {start} tenths", content[:place] + bytes(512) + content[place + 512 :]
        yield f"another image from {start} tenths", content[:place] + other[place:]
    yield "zeros", bytes(len(content))
    yield "text", b"<html><body>404 Not Found</body></html>"
    yield "noise", generator.bytes(len(content))
    yield "twice", content + content
    yield "something appended", content + b"\0" * 100


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP"])
def test_every_damage_is_read_or_named(tmp_path, format):
    """No damage may end a run with anything but the name of the image, whatever decodes it, from a file or bytes."""
    generator = np.random.default_rng(0)
    path = tmp_path / f"image.{format.lower()}"
    contents = []
    for _ in range(2):
        pixels = generator.integers(0, 256, (48, 64, 3), dtype=np.uint8)
        PIL.Image.fromarray(pixels).resize((160, 120)).save(path, format=format)
        contents.append(path.read_bytes())
    unreadable = 0
    for damage, content in damaged(*contents):
        path.write_bytes(content)
        for value in ({"path": str(path), "bytes": None}, {"path": None, "bytes": content}):
            try:
                pixels = decode_pixels(value)
                assert pixels.dtype == torch.uint8 and pixels.ndim == 3 and pixels.shape[0] == 3, damage
            except UnreadableImage as error:
                unreadable += 1
                assert "\n" not in str(error), damage
    assert unreadable > 20


def test_every_damage_in_mid_run_is_skipped(images):
    """A sound header check, then damage after damage: each batch has its size, and one label that does not count."""
    data = load_image_dataset(DataArguments(dataset=str(images), validation_fraction=0), seed=0)
    bad_images = BadImages(data, "skip")
    batches = ImageBatches(data.splits["train"], EvaluationStage(PROCESSOR, uniform=True))
    batches = bad_images.on_error("train", batches)
    sound = batches.__getitems__(range(24, 40))
    row = next(row for row, image in enumerate(data.splits["train"]["image"]) if image["path"].endswith(LOST)) - 24
    contents = [(images / name).read_bytes() for name in (LOST, "train/red/01.png")]
    skipped = 0
    for damage, content in damaged(*contents):
        (images / LOST).write_bytes(content)
        batch = batches.__getitems__(range(24, 40))
        assert batch["pixel_values"].shape == sound["pixel_values"].shape, damage
        skipped += int(batch["labels"][row] == -100)
        others = [place for place in range(16) if place != row]
        assert torch.equal(batch["pixel_values"][others], sound["pixel_values"][others]), damage
        assert torch.equal(batch["labels"][others], sound["labels"][others]), damage
    assert skipped > 20


@pytest.mark.parametrize("format", ["PNG", "TIFF", "GIF", "BMP", "WEBP", "JPEG"])
def test_a_bomb_takes_no_memory(tmp_path, format):
    """A header that promises 400 million pixels: refused in a process that may take no more than it has already."""
    path = tmp_path / "bomb"
    if format == "PNG":
        write_bomb(path)
    else:
        PIL.Image.new("L", (64, 64)).save(path, format=format)
        content = bytearray(path.read_bytes())
        side = {"GIF": 65_535, "WEBP": 16_383, "JPEG": 65_000}.get(format, 20_000)
        if format == "GIF":
            content[6:10] = side.to_bytes(2, "little") * 2
        elif format == "BMP":
            content[18:26] = side.to_bytes(4, "little") * 2
        elif format == "JPEG":
            place = content.index(b"\xff\xc0") + 5
            content[place : place + 4] = side.to_bytes(2, "big") * 2
        elif format == "WEBP":
            place = content.index(b"\x9d\x01\x2a") + 3
            content[place : place + 4] = side.to_bytes(2, "little") * 2
        else:
            image = PIL.Image.new("1", (20_000, 20_000))
            image.save(path, format="TIFF", compression="group4")
            content = bytearray(path.read_bytes())
        path.write_bytes(content)
    assert path.stat().st_size < 200_000
    code = (
        "import resource, sys\n"
        "from hf_finetune.data.images.pixels import decode_pixels\n"
        "from hf_finetune.data.images.decoding import UnreadableImage, read_header\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "for read in (read_header, decode_pixels):\n"
        "    for value in (sys.argv[1], open(sys.argv[1], 'rb').read()):\n"
        "        try:\n"
        "            read(value)\n"
        "            sys.exit(f'{read.__name__} read it')\n"
        "        except UnreadableImage as error:\n"
        "            assert error.reason == 'more than 178,956,970 pixels' or '\\n' not in error.reason, error\n"
        "grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before\n"
        "assert grown < 30_000, f'{grown} kB'\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    completed = subprocess.run([sys.executable, "-c", code, str(path)], env=environment, capture_output=True, text=True)
    assert completed.returncode == 0, completed.stderr[-2000:]


def test_the_wrong_extension_does_not_matter(tmp_path):
    PIL.Image.new("RGB", (8, 8), (200, 10, 10)).save(tmp_path / "image", format="PNG")
    (tmp_path / "image").rename(tmp_path / "image.jpg")
    assert decode_image(tmp_path / "image.jpg").getpixel((0, 0)) == (200, 10, 10)
