"""The commands that let others try a model: a server, and a Space. `hf_finetune.cli.commands` lists them."""

from __future__ import annotations

import argparse

from hf_finetune.cli.command import Command, importing


class Serve(Command):
    """Serves a model over HTTP."""

    name = "serve"
    help = "serve a model as a web page and an HTTP endpoint"
    details = "On this machine alone, unless --host says otherwise. Needs the extra hf-finetune[serve]."
    usage = "MODEL [--host HOST] [--port PORT] [--batch_size N] [--max_wait_ms N] [limits]"

    def register(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("model", metavar="MODEL", help="A run's folder, a Hub id, an embedded name, an ONNX file.")
        parser.add_argument("--host", default="127.0.0.1", help="Address to listen at. Default: 127.0.0.1.")
        numbers = {
            "port": (8000, "Port to listen at; 0 for a free one."),
            "batch_size": (32, "Images per pass at most."),
            "max_wait_ms": (5, "Milliseconds that the first image of a pass waits for others."),
            "max_megabytes": (32, "Size of a request at most."),
            "max_pixels": (50_000_000, "Pixels of an image at most."),
            "max_images": (64, "Images of a request at most."),
            "max_queue": (512, "Images that wait, and requests at a time, at most."),
            "timeout": (30, "Seconds for a request to arrive, and to be answered."),
        }
        for name, (default, text) in numbers.items():
            parser.add_argument(f"--{name}", type=int, default=default, metavar="N", help=f"{text} Default: {default}.")

    def run(self, namespace: argparse.Namespace) -> int:
        with importing():
            from hf_finetune.serving.limits import Limits
            from hf_finetune.serving.server import serve

        names = ("batch_size", "max_wait_ms", "max_megabytes", "max_pixels", "max_images", "max_queue", "timeout")
        limits = Limits(**{name: getattr(namespace, name) for name in names})
        serve(namespace.model, namespace.host, namespace.port, limits)
        return 0


class Space(Command):
    """Writes a Space."""

    name = "space"
    help = "write a Gradio Space in which people try a model of the Hub"
    details = "Nothing is published; the last line says how to."
    usage = "OWNER/NAME [--output FOLDER]"

    def register(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("model", metavar="OWNER/NAME", help="A model that was pushed to the Hub.")
        parser.add_argument("--output", metavar="FOLDER", help="Folder to write. Absent: NAME-space.")

    def run(self, namespace: argparse.Namespace) -> int:
        with importing():
            from hf_finetune.hub.space import write_space

        write_space(namespace.model, namespace.output)
        return 0
