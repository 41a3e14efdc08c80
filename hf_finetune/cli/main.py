"""The entry point of `hf-finetune COMMAND ...`: from the words of a command line to an exit code.

Nothing heavy is imported at the top, so `hf-finetune --help` answers at once.
"""

from __future__ import annotations

import json
import os
import shlex
import sys
import time
import warnings
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from hf_finetune.cli.command import Command
from hf_finetune.cli.commands import COMMANDS
from hf_finetune.config.fields import check_words
from hf_finetune.errors import NO_ROOM, Interrupted, UserError, did_you_mean, no_room
from hf_finetune.interrupts import EXIT_CODE, NotedInterrupts
from hf_finetune.logs import leave_output, quiet_library_bars, set_level, show_logs, tell
from hf_finetune.shown_text import one_line
from hf_finetune.streams import give_up, has_lost_reader, prepare_streams

_SECONDS_FOR_THE_MAIN_PROCESS = 5
_NO_TEMPORARY_FOLDER = "No usable temporary directory"  # the beginning of the message of `tempfile`

_HELP = """usage: hf-finetune COMMAND ...

Fine-tunes image classifiers with Hugging Face Transformers.

commands:
{commands}

first steps:
  hf-finetune train --dataset digits         fine-tune the embedded checkpoint,
                                             no network needed
  hf-finetune train --dataset cifar10        the tutorial: ResNet-50 on CIFAR-10
  hf-finetune train --dataset ./my_images    your own images, a folder per class
  hf-finetune COMMAND --help                 the flags of a command
  hf-finetune --version                      the version
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: The words after `hf-finetune`; those of the process by default.

    Returns:
        The exit code: 0 if the command did its work, 2 for a user's mistake, 130 if it was interrupted, 141 if the
        program that reads its output has ended. A training that SIGTERM, SIGINT or SIGHUP stopped, and that was saved,
        returns 143, 130 or 129, as a shell reports it.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    interrupted = f"\nhf-finetune: interrupted{_advice(words)}.\n"
    with NotedInterrupts(interrupted):
        prepare_streams()
        # Many a phone writes such photos, and the photo itself is whole.
        warnings.filterwarnings("ignore", message="Image appears to be a malformed MPO")
        try:
            return _exit_code(words, interrupted)
        except Exception as error:
            return _lost(error)


def _exit_code(words: Sequence[str], interrupted: str) -> int:
    """Run a command; output that cannot be written is an error here, and not at the end of the process."""
    try:
        return _run_and_tell(words, interrupted)
    finally:
        sys.stdout.flush()


def _lost(error: Exception) -> int:
    """End after an output that cannot be written; any other error is raised again."""
    if isinstance(error, BrokenPipeError) and has_lost_reader(sys.stdout):  # such as head, which has ended
        give_up(sys.stdout)
        return 141  # as a shell reports a program that SIGPIPE ended
    if isinstance(error, FileNotFoundError) and _NO_TEMPORARY_FOLDER in str(error):
        return _fail("error: no folder for temporary files can be written to; set TMPDIR to one that can.", 2)
    reason = no_room(error)
    if reason is None:
        raise error
    file = error.filename if isinstance(error, OSError) else None
    if file is None:  # it may be standard output, which would fail again at the end
        give_up(sys.stdout)
    where = f"{file}: " if file else ""
    return _fail(f"error: {where}{NO_ROOM[reason]}.", 2)


def _run_and_tell(words: Sequence[str], interrupted: str) -> int:
    if not words or words[0] in ("-h", "--help"):
        print(_HELP.format(commands="\n".join(_listed(command) for command in COMMANDS.values())), end="")
        return 0 if words else 2
    if words[0] in ("-V", "--version"):
        from hf_finetune import __version__

        print(f"hf-finetune {__version__}")
        return 0
    try:
        return _run(words[0], words[1:])
    except UserError as error:
        if os.environ.get("LOCAL_RANK", "0") != "0":
            # The main process of the machine has most likely met it too and tells it; then the launcher ends this one.
            time.sleep(_SECONDS_FOR_THE_MAIN_PROCESS)
        return _fail(f"error: {one_line(str(error))}", 2)
    except Interrupted as interruption:
        return _fail(str(interruption), 128 + interruption.signal)
    except KeyboardInterrupt:
        tell(interrupted.removesuffix("\n"), sys.stderr)
        return EXIT_CODE


def _advice(words: Sequence[str]) -> str:
    resumes = bool(words) and words[0] in COMMANDS and COMMANDS[words[0]].resumes
    return "; the same command resumes from the last checkpoint" if resumes else ""


def _run(name: str, words: Sequence[str]) -> int:
    began = time.monotonic()
    if name not in COMMANDS:
        advice = f"{did_you_mean(name, COMMANDS)} The commands are {', '.join(COMMANDS)}."
        raise UserError(f'there is no command "{name}".{advice}')
    command = COMMANDS[name]
    quiet_library_bars()
    show_logs()
    parser = command.parser()
    namespace, unknown = parser.parse_known_args(words)
    if unknown and command.register_inherited(parser):
        namespace, unknown = parser.parse_known_args(words)
    check_words(unknown, parser.flag_names)
    set_level(getattr(namespace, "log_level", "info"))
    leave_output(getattr(namespace, "json", False) is True)
    namespace.began = began
    namespace.command_line = shlex.join(["hf-finetune", name, *words])
    return command.run(namespace)


def _listed(command: Command) -> str:
    """Return a command's lines in the list of commands, at most 80 columns wide."""
    import textwrap

    return textwrap.fill(f"  {command.name:<15}{command.help}", 80, subsequent_indent=" " * 17)


def _fail(message: str, code: int) -> int:
    tell(f"hf-finetune: {message}", sys.stderr)
    if path := os.environ.get("TORCHELASTIC_ERROR_FILE"):
        _tell_launcher(message, Path(path))
    return code


def _tell_launcher(message: str, file: Path) -> None:
    """Write why this process ends, as `torch.distributed.elastic` reads it; the launcher's report then ends with it."""
    unfinished = file.with_suffix(".unfinished")
    with suppress(OSError):
        details = {"message": message, "extraInfo": {"timestamp": str(int(time.time()))}}
        unfinished.write_text(json.dumps({"message": details}))
        unfinished.replace(file)  # the launcher fails on half a file
