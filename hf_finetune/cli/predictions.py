"""The commands that classify images and explain the classes. `hf_finetune.cli.commands` lists them."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from typing import Any

from hf_finetune.cli.command import Command, check_settings, importing
from hf_finetune.cli.flags import add_argument_flags, flag_values
from hf_finetune.config.test_time import TTA_KINDS
from hf_finetune.errors import UserError

_DATASET_FLAGS = ("dataset", "dataset_path", "dataset_config", "dataset_revision", "image_column")


class Predict(Command):
    """Classifies images."""

    name = "predict"
    help = "classify images: files, folders, tars, tables or a dataset"
    details = "With --format, any number of images, by several processes, resumed by the same command."
    usage = (
        "MODEL [IMAGES ... | --dataset DATASET [--split NAME]] [--top_k N] [--threshold X] [--json | --csv]"
        " [--output FILE | --output FOLDER --format parquet|csv|jsonl]"
    )

    def register(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("model", metavar="MODEL", help="A run's folder, a Hub id, an embedded name, an ONNX file.")
        parser.add_argument(
            "paths",
            metavar="IMAGES",
            nargs="*",
            help="Image files, folders that hold some, WebDataset tars, Parquet files.",
        )
        parser.add_argument("--top_k", type=int, metavar="N", help="Classes per image. Default: 1; see --threshold.")
        parser.add_argument(
            "--threshold",
            type=float,
            metavar="X",
            help="With several labels per image: give the classes from this probability on. Absent: the model's own"
            " threshold of each class.",
        )
        parser.add_argument("--batch_size", type=int, default=32, metavar="N", help="Images per pass. Default: 32.")
        parser.add_argument(
            "--dataloader_num_workers",
            dest="num_workers",  # not the key of a recipe, whose default is another
            type=int,
            metavar="N",
            help="Processes that decode images. Absent: by the cores; 0 for a few images.",
        )
        parser.add_argument(
            "--output", metavar="PATH", help="Write the classes to this file, or with --format into this folder."
        )
        add_tta(parser, "Give the mean probabilities over views: {}.")
        formats = parser.add_mutually_exclusive_group()
        formats.add_argument("--json", action="store_const", dest="text", const="json", help="Write JSON, not lines.")
        formats.add_argument("--csv", action="store_const", dest="text", const="csv", help="Write CSV, not lines.")
        formats.add_argument(
            "--format", metavar="parquet|csv|jsonl", help="Write tables of this kind into the folder --output."
        )
        parser.add_argument(
            "--shard_size", type=int, metavar="N", help="With --format: images of a table. Absent: 5000 at most."
        )
        parser.add_argument(
            "--embeddings", action="store_true", help="In JSON lines and Parquet: the features that the head is given."
        )
        parser.add_argument(
            "--split", metavar="NAME", help="With --dataset: its split. Absent: test, else validation, else the only."
        )
        add_argument_flags(parser, _DATASET_FLAGS)

    def run(self, namespace: argparse.Namespace) -> int:
        from hf_finetune.config.data import DataArguments
        from hf_finetune.jobs.prediction_settings import PredictionSettings

        settings = PredictionSettings(
            namespace.top_k,
            namespace.batch_size,
            namespace.tta,
            namespace.threshold,
            namespace.embeddings,
            namespace.num_workers,
        )
        if namespace.format is None:
            _check_one_process(namespace)
        elif namespace.output is None:
            raise UserError("--format writes a folder of tables; use --output FOLDER with it.")
        flags = flag_values(namespace)
        _check_named(namespace, flags)
        with importing():
            from hf_finetune.jobs import predict, predict_folder

        images = {"data": DataArguments(**flags), "split": namespace.split}
        if namespace.format is None:
            text = namespace.text or "text"
            unreadable = predict.predict_files(
                namespace.model, namespace.paths, settings, text, namespace.output, **images
            )
            return 2 if unreadable else 0
        result = predict_folder.predict_to_folder(
            namespace.model,
            namespace.paths,
            namespace.output,
            settings,
            namespace.format,
            namespace.shard_size,
            show_bar=True,
            **images,
        )
        return 2 if result.unreadable and os.environ.get("RANK", "0") == "0" else 0


class Explain(Command):
    """Shows where in images a model finds their classes."""

    name = "explain"
    help = "show where in images a model finds their classes, as heat maps"
    details = "A PNG file for each image, and a page with all of them."
    usage = "MODEL IMAGES ... [--class NAME] [--method gradcam|rollout] [--layer NAME] [--output FOLDER] [--json]"

    def register(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("model", metavar="MODEL", help="A run's folder, a Hub id or an embedded checkpoint's name.")
        parser.add_argument(
            "paths", metavar="IMAGES", nargs="+", help="Image files, folders that hold some, tars, Parquet files."
        )
        parser.add_argument(
            "--class",
            "--class_name",
            dest="class_name",
            metavar="NAME",
            help="The class to explain, or its id. Absent: the likeliest of each image.",
        )
        parser.add_argument(
            "--method",
            metavar="gradcam|rollout",
            help="Grad-CAM, or attention rollout, which depends on no class. Absent: rollout for networks such as ViT"
            " where no class is asked for, else Grad-CAM.",
        )
        parser.add_argument(
            "--layer", metavar="NAME", help="For Grad-CAM: use the output of this module. Absent: the last that suits."
        )
        parser.add_argument("--batch_size", type=int, default=16, metavar="N", help="Images per pass. Default: 16.")
        parser.add_argument(
            "--output", default="heat_maps", metavar="FOLDER", help="A new or empty folder. Default: heat_maps."
        )
        parser.add_argument("--json", action="store_true", help="Print one JSON document, not lines.")

    def run(self, namespace: argparse.Namespace) -> int:
        _check_named(namespace, {})
        with importing():
            from hf_finetune.jobs import explain

        settings = explain.ExplainSettings(
            namespace.class_name, namespace.method, namespace.layer, namespace.batch_size
        )
        unreadable = explain.explain_files(
            namespace.model, namespace.paths, settings, namespace.output, as_json=namespace.json
        )
        return 2 if unreadable else 0


def _check_named(namespace: argparse.Namespace, flags: Mapping[str, Any]) -> None:
    """Check the images and the model that a command names, and the dataset of its flags."""
    from hf_finetune.data.image_list import check_paths

    check_paths(namespace.paths)
    model = {} if namespace.model.endswith(".onnx") else {"model_name_or_path": namespace.model}
    check_settings({**flags, **model}, needs_data=False)


def _check_one_process(namespace: argparse.Namespace) -> None:
    """Check that what only `--format` can do is not asked for without it."""
    if namespace.shard_size is not None:
        raise UserError("--shard_size is of a folder of tables; use it with --format.")
    if os.environ.get("WORLD_SIZE", "1") != "1":
        raise UserError("Several processes write a folder of tables; use --output FOLDER --format parquet.")


def add_tta(parser: argparse.ArgumentParser, text: str) -> None:
    """Add the flag of test-time augmentation; `text` is its help, with {} for the kinds."""
    kinds = "; ".join(f"{kind}, {views}" for kind, views in TTA_KINDS.items())
    parser.add_argument("--tta", metavar="|".join(TTA_KINDS), help=text.format(kinds))
