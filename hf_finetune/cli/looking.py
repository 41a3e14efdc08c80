"""The commands that show what is there and train nothing. `hf_finetune.cli.commands` lists them."""

from __future__ import annotations

import argparse

from hf_finetune.cli.command import Command, importing


class Report(Command):
    """Writes the report of a run."""

    name = "report"
    help = "write the report of a finished run, a page with its mistakes and their images"
    details = "A training writes it too; nothing is computed again."
    usage = "RUN [--output FILE.html]"

    def register(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("folder", metavar="RUN", help="The folder of a finished run.")
        parser.add_argument("--output", metavar="FILE", help="Write into FILE. Absent: report.html in the folder.")

    def run(self, namespace: argparse.Namespace) -> int:
        with importing():
            from hf_finetune.jobs.report import report_run

        report_run(namespace.folder, namespace.output)
        return 0
