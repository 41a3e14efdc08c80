"""What a checkpoint is called: the name of an embedded one, a folder or a Hub id."""

from __future__ import annotations

from pathlib import Path

from hf_finetune.errors import UserError, did_you_mean

# The checkpoints that come with the package, by the name that a recipe gives.
EMBEDDED_CHECKPOINTS = {
    folder.name: folder
    for folder in (Path(__file__).resolve().parents[1] / "models" / "pretrained").glob("*")
    if folder.is_dir()
}


def resolve_checkpoint(name: str) -> str:
    """Return the folder of a checkpoint's name, or the name itself where it is a Hub id.

    Raises:
        UserError: It is a file, or neither a folder nor an embedded checkpoint nor a Hub id.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        return str(path)
    if name in EMBEDDED_CHECKPOINTS:
        return str(EMBEDDED_CHECKPOINTS[name])
    if path.is_file() and path.suffix in (".pth", ".pt"):
        raise UserError(
            f"model_name_or_path: {name} is a file of another library's weights; train from it with --load_from {name},"
            f" or make a folder of it: hf-finetune convert {name} {path.stem}"
        )
    if path.is_file() and path.suffix == ".onnx":
        raise UserError(f"{name} is an exported file, which hf-finetune predict runs; use the model's own folder.")
    if path.is_file():
        raise UserError(f"model_name_or_path: {name} is a file; use the folder that it is in: {path.parent}")
    looks_local = path.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1
    if looks_local or "/" not in name:
        raise UserError(
            f'model_name_or_path: there is no checkpoint "{name}".{did_you_mean(name, EMBEDDED_CHECKPOINTS)}'
            " Use a Hub id such as microsoft/resnet-50, or a folder that holds config.json and model.safetensors."
        )
    return name
