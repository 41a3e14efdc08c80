"""Output that breaks: the reader ends, the terminal is closed, the disk is full. It costs a line, never the work."""

from __future__ import annotations

import errno
import fcntl
import io
import json
import os
import pty
import resource
import signal
import subprocess
import sys
import termios
import time
from pathlib import Path
from typing import Any

import pytest
from safetensors import SafetensorError

from hf_finetune.cli.main import main
from hf_finetune.logs import get_logger, show_logs, tell
from hf_finetune.streams import prepare_streams
from hf_finetune.training.checkpoints.store import find_fault, list_checkpoints
from tests.helpers import launched
from tests.helpers.processes import REPOSITORY
from tests.helpers.tiny import write_recipe

_PROGRAM = REPOSITORY / "hf_finetune" / "__main__.py"
_COMMAND = [sys.executable, "-m", "hf_finetune"]
_ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}


def shell(script: str, *words: object) -> subprocess.CompletedProcess[str]:
    """Run a line of bash in which "$@" is the command with `words`."""
    command = ["bash", "-c", script, "bash", *_COMMAND, *map(str, words)]
    return subprocess.run(command, env=_ENVIRONMENT, capture_output=True, text=True, timeout=300)


def limit_files() -> None:
    """What `ulimit -f 8` does, which would also leave half of what Python compiles."""
    sys.dont_write_bytecode = True
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))


def ignore_closed_terminals() -> None:
    """What `nohup` does."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)


def run_into(reader: str, folder: Path, *words: object, streams: int = 1, **settings: Any) -> tuple[int, str]:
    """Run the command, whose standard output, or both streams, a line of bash reads through a pipe.

    Returns:
        The exit code, and what was written to standard error if nobody read that.
    """
    pipe, errors = folder / "pipe", folder / "errors"
    errors.write_text("")
    os.mkfifo(pipe)
    process = launched.start([pipe, pipe if streams == 2 else errors], _PROGRAM, *words, **settings)
    subprocess.run(["bash", "-c", f"exec {reader} < '{pipe}' > /dev/null"], check=True, timeout=120)
    process.join(120)
    pipe.unlink()
    return process.exitcode, errors.read_text()


def training(folder: Path, image_folder: Path, **changes: object) -> list[object]:
    recipe = write_recipe(folder, **changes)
    return ["train", "--recipe", recipe, "--dataset", image_folder, "--output_dir", folder / "run"]


class Broken(io.StringIO):
    """A stream on which nothing can be written."""

    def __init__(self, error: int) -> None:
        super().__init__()
        self.error = error

    def write(self, text: str) -> int:
        raise OSError(self.error, os.strerror(self.error))


@pytest.mark.parametrize(
    ("error", "reason"), [(32, "its reader has ended"), (5, "Input/output error"), (28, "No space")]
)
def test_a_line_of_the_log_that_cannot_be_written_is_no_error(error, reason, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdout", Broken(error))
    show_logs()
    get_logger("hf_finetune.toy").info("a line")
    assert f"standard output is lost ({reason}" in capsys.readouterr().err
    monkeypatch.setattr(sys, "stderr", Broken(error))
    get_logger("hf_finetune.toy").error("a line")
    tell("a line", sys.stderr)


def test_what_an_encoding_lacks_is_escaped(monkeypatch):
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", stream)
    prepare_streams()
    print("größe \udcff 猫", flush=True)
    assert stream.buffer.getvalue() == b"gr\\u00f6\\u00dfe \\udcff \\u732b\n"


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_json_is_valid_in_any_encoding(monkeypatch, encoding):
    names = ["größe", "猫", "😀", "b\udce4d.png", "back\\ \u0080"]
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stdout", stream)
    prepare_streams()
    print(json.dumps(names, ensure_ascii=False), flush=True)
    assert json.loads(stream.buffer.getvalue().decode(encoding)) == names


def test_a_stream_that_the_shell_has_closed_takes_everything(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    assert main(["recipes"]) == 0
    sys.stdout.close()


@pytest.mark.slow
@pytest.mark.parametrize(
    "words", [["--help"], ["recipes"], ["train", "--help-all"], ["recipes", "show", "lenet5_mnist"]]
)
def test_a_command_whose_reader_ends_leaves_quietly(words):
    ended = shell('"$@" | true; echo ${PIPESTATUS[0]}', *words)
    assert ended.stdout in ("0\n", "141\n") and ended.stderr == ""  # argparse ignores what its help cannot write


@pytest.mark.slow
def test_a_full_disk_behind_standard_output_is_one_line():
    ended = shell('"$@" > /dev/full; echo $?', "recipes")
    assert ended.stdout == "2\n"
    assert ended.stderr == "hf-finetune: error: the disk is full; free some space on it.\n"


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (OSError(errno.EFBIG, "File too large", "a.csv"), "a.csv: the file is larger than is allowed; raise the limit"),
        (SafetensorError("I/O error: No space left on device (os error 28)"), "the disk is full; free some space on"),
        (FileNotFoundError(errno.ENOENT, "No usable temporary directory found in ['/tmp']"), "no folder for temporary"),
    ],
)
def test_what_cannot_be_written_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys, error: Exception, told: str):
    def fail(words: object, interrupted: object) -> int:
        raise error

    monkeypatch.setattr("hf_finetune.cli.main._run_and_tell", fail)
    monkeypatch.setattr("hf_finetune.cli.main.give_up", lambda stream: None)
    assert main(["recipes"]) == 2
    assert capsys.readouterr().err.startswith(f"hf-finetune: error: {told}")


@pytest.mark.slow
def test_a_limit_of_the_size_of_files_costs_one_line(tmp_path, image_folder):
    code, errors = run_into("cat", tmp_path, *training(tmp_path, image_folder), prepare=limit_files)
    assert code == 2 and "Traceback" not in errors
    last = errors.splitlines()[-1]
    assert last.startswith("hf-finetune: error: output_dir: a checkpoint could not be written: the file is larger than")
    assert not list((tmp_path / "run").glob("checkpoint-*")) and not (tmp_path / "run/.unfinished").exists()


@pytest.mark.slow
def test_folders_of_caches_that_cannot_be_used_cost_nothing(tmp_path, image_folder):
    (tmp_path / "file").touch()
    variables = " ".join(f"{name}={tmp_path}/file" for name in ("TMPDIR", "HF_HOME", "HF_DATASETS_CACHE"))
    ended = shell(f'{variables} "$@"; echo $?', *training(tmp_path, image_folder))
    assert ended.stdout.endswith("0\n") and "Traceback" not in ended.stderr, ended.stderr
    assert (tmp_path / "run" / "metrics.json").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("streams", [1, 2])
def test_a_run_outlives_the_program_that_reads_its_output(tmp_path, image_folder, streams):
    code, errors = run_into("head -1", tmp_path, *training(tmp_path, image_folder), streams=streams)
    assert code == 0, errors
    assert errors.count("standard output is lost (its reader has ended)") == 2 - streams
    assert "Traceback" not in errors and "Error" not in errors
    assert (tmp_path / "run" / "metrics.json").is_file()


@pytest.mark.slow
def test_evaluation_and_prediction_end_cleanly_where_nobody_reads(tmp_path, image_folder, finished_run):
    figures = tmp_path / "figures.json"
    words = ["evaluate", finished_run, "--dataset", image_folder, "--use_cpu", "--output", figures]
    for flag in ([], ["--json"]):
        figures.unlink(missing_ok=True)
        code, errors = run_into("head -0", tmp_path, *words, *flag)
        assert code in (0, 141) and "Traceback" not in errors
        assert figures.stat().st_size > 0  # what is to be kept is written before what is to be read
    assert run_into("head -0", tmp_path, "predict", finished_run, image_folder / "test") == (141, "")


@pytest.mark.slow
def test_a_run_whose_terminal_is_closed_is_saved(tmp_path, image_folder):
    endless = training(tmp_path, image_folder, num_train_epochs=5000, disable_tqdm=False, dataloader_num_workers=1)
    ours, theirs = pty.openpty()

    def take_terminal() -> None:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # it is inherited, and these tests may run under nohup
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    terminal = {"stdin": theirs, "stdout": theirs, "stderr": theirs, "start_new_session": True}
    process = subprocess.Popen([*_COMMAND, *map(str, endless)], env=_ENVIRONMENT, preexec_fn=take_terminal, **terminal)
    os.close(theirs)
    try:
        shown = b""
        while b"loss" not in shown:
            shown += os.read(ours, 1 << 16)
        os.close(ours)
        assert process.wait(120) == 129
    finally:
        process.kill()
    assert find_fault(list_checkpoints(tmp_path / "run")[0]) is None


@pytest.mark.slow
def test_under_nohup_a_run_continues(tmp_path, image_folder):
    words = training(tmp_path, image_folder, save_strategy="no", load_best_model_at_end=False)
    log = tmp_path / "log"
    process = launched.start([log, log], _PROGRAM, *words, prepare=ignore_closed_terminals)
    while not log.exists() or b"loss" not in log.read_bytes():
        assert process.exitcode is None, log.read_text()
        time.sleep(0.02)  # without it the wait takes a whole core from the run
    os.kill(process.pid, signal.SIGHUP)
    process.join(120)
    assert process.exitcode == 0
    assert (tmp_path / "run" / "metrics.json").is_file()
