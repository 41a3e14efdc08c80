"""Peak memory while training on 50,000 rows and on 1,000,000."""

from __future__ import annotations

import io
import statistics
from functools import partial
from pathlib import Path

import numpy as np
import PIL.Image
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import ClassLabel, Features, Image

from benchmarks.children import run_child, write_recipe
from benchmarks.harness import Answer, Ratio, Row, Session, alternate, datasets_cache

_CHUNK = 50_000  # rows of a row group, written at a time
_SIDE = 8  # pixels; the question is what a row costs, not what an image does


def write_table(session: Session, rows: int) -> Path:
    """Write a Parquet file of `rows` embedded PNGs of 8 x 8 pixels with labels, in the Hub's schema."""
    path = session.folder / f"table-{rows}.parquet"
    if path.exists():
        return path
    generator = np.random.default_rng(0)
    encoded = []
    for _ in range(256):
        file = io.BytesIO()
        # Few colours, so that a million rows stay below 200 MB.
        pixels = generator.integers(0, 2, (_SIDE, _SIDE, 3), dtype=np.uint8) * 255
        PIL.Image.fromarray(pixels).quantize(8).save(file, format="PNG")
        encoded.append(file.getvalue())
    features = Features({"image": Image(), "label": ClassLabel(names=[str(digit) for digit in range(10)])})
    schema = features.arrow_schema
    with pq.ParquetWriter(path, schema) as writer:
        for start in range(0, rows, _CHUNK):
            count = min(_CHUNK, rows - start)
            images = [{"bytes": encoded[row % len(encoded)], "path": None} for row in range(start, start + count)]
            columns = {"image": images, "label": generator.integers(0, 10, count)}
            writer.write_table(pa.table({name: pa.array(columns[name], schema.field(name).type) for name in columns}))
    return path


def measure(session: Session) -> Answer:
    sizes = {"few": session.size(50_000, 500), "many": session.size(1_000_000, 5_000)}
    first: dict[str, float] = {"few": 0, "many": 0}
    resident: dict[str, float] = {"few": 0, "many": 0}

    def peak(name: str) -> float:
        recipe = {
            "model_type": "lenet5",
            "dataset": str(write_table(session, sizes[name])),
            "image_size": 32,
            "train_transforms": [{"Resize": {"size": [32, 32]}}],
            "eval_strategy": "no",
            "save_strategy": "no",
            "load_best_model_at_end": False,
            "overwrite_output_dir": True,
            "max_steps": 50,
            "disable_tqdm": True,
            "use_cpu": session.cpu,
        }
        with datasets_cache(session):
            words = write_recipe(session, name, recipe)
            converting, report = (run_child(session, session.size(50, 2), words) for _ in range(2))
        first[name] = max(first[name], converting.anonymous_megabytes)
        resident[name] = max(resident[name], report.resident_megabytes)
        return report.anonymous_megabytes

    samples = alternate({name: partial(peak, name) for name in sizes}, session.pairs)
    ratio = Ratio([many / few for many, few in zip(samples["many"], samples["few"], strict=True)], 1.05, False)
    few, many = (f"{statistics.median(samples[name]):.0f} MB" for name in ("few", "many"))
    row = Row(f"peak memory, {sizes['few']:,} rows against {sizes['many']:,}", many, f"{few} (ours, few rows)", ratio)
    note = (
        "Memory of the process itself, of a table that an earlier run has converted. The run that converts it takes"
        f" {first['few']:.0f} and {first['many']:.0f} MB. With the pages of mapped files, which the system can drop,"
        f" they are {resident['few']:.0f} and {resident['many']:.0f} MB. What stays of each row is some 25 bytes: its"
        " class id and its row in the source, twice, its place in the held-out part, and in the order of the epoch."
    )
    return Answer([row], [note])
