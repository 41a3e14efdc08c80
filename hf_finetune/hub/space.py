"""Writes a Hugging Face Space: a Gradio app in which people try a model that was pushed to the Hub.

The Space holds no weights: it loads the model by its name, as `pipeline` does anywhere.
"""

from __future__ import annotations

import json
from importlib import metadata
from pathlib import Path

from huggingface_hub import SpaceCard, SpaceCardData
from transformers import PreTrainedConfig

from hf_finetune.errors import UserError, first_line
from hf_finetune.hub.loading import loading_needs
from hf_finetune.hub.model_card import is_hub_id
from hf_finetune.logs import get_logger
from hf_finetune.models.quiet import quiet_transformers

logger = get_logger(__name__)

# The version that the app was tried with. A Space installs exactly this one.
_GRADIO_VERSION = "6.31.0"
_SHOWN = 5  # classes
_LONGEST_TITLE = 60  # characters

_APP = '''\
"""Classifies images by the model {model}."""

from __future__ import annotations

import gradio
from transformers import pipeline

classifier = pipeline("image-classification", model={quoted}{arguments})


def classify(path: str | None) -> dict[str, float]:
    """Return the scores of the likeliest classes of an image file."""
    if path is None:
        raise gradio.Error("Choose an image first.")
    return {{entry["label"]: entry["score"] for entry in classifier(path, top_k={shown})}}


# image_mode=None hands the file on as it is, so that the answer is that of `pipeline` on it.
demo = gradio.Interface(
    classify,
    gradio.Image(type="filepath", image_mode=None, label="Image"),
    gradio.Label(num_top_classes={shown}, label="Classes"),
    title={title},
    flagging_mode="never",
)

if __name__ == "__main__":
    demo.launch()
'''


def write_space(model: str, output: str | Path | None = None) -> Path:
    """Write the files of a Space that classifies images by a model of the Hub.

    Args:
        model: Its Hub id, OWNER/NAME. Its config.json is fetched, to know what loading needs; its weights are not.
        output: The folder to write; absent, NAME-space in the current folder.

    Returns:
        The folder, with README.md, app.py and requirements.txt.

    Raises:
        UserError: For a model that is not on the Hub, or a folder that is not empty.
    """
    if not is_hub_id(model):
        raise UserError(
            f"{model} is no model of the Hub, which a Space loads by its name; push it first: hf-finetune push FOLDER"
            " OWNER/NAME, then hf-finetune space OWNER/NAME."
        )
    name = model.split("/")[1]
    folder = Path(output) if output is not None else Path(f"{name}-space")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} is there already; use another --output.")
    try:
        with quiet_transformers():
            config, _ = PreTrainedConfig.get_config_dict(model)
    except (OSError, ValueError) as error:
        raise UserError(f"{model} cannot be had from the Hub: {first_line(error)}.") from error
    if config.get("image_channels") is not None:
        raise UserError(
            f"{model} takes images of {config['image_channels']} channels as they are stored, which a Space does not"
            " open; use hf-finetune predict."
        )
    needs = loading_needs(config)
    folder.mkdir(parents=True, exist_ok=True)
    text = _APP.format(
        model=model,
        quoted=json.dumps(model),
        arguments=needs["arguments"],
        shown=_SHOWN,
        title=json.dumps(name[:_LONGEST_TITLE], ensure_ascii=False),
    )
    (folder / "app.py").write_text(text, encoding="utf-8")
    (folder / "requirements.txt").write_text(_requirements(config.get("model_type")), encoding="utf-8")
    card = SpaceCardData(
        title=name[:_LONGEST_TITLE],
        sdk="gradio",
        sdk_version=_GRADIO_VERSION,
        app_file="app.py",
        models=[model],
        pinned=False,
    )
    SpaceCard(f"---\n{card}\n---\n\nClassifies images by [{model}](https://huggingface.co/{model}).\n").save(
        folder / "README.md"
    )
    if needs["arguments"]:
        logger.info(f"Note: app.py runs code that comes with the weights of {model} (trust_remote_code).")
    logger.info(
        f"The Space is in {folder}. To try it here: pip install gradio=={_GRADIO_VERSION}, then python {folder}/app.py."
        f" To publish it: hf upload {model}-space {folder} . --repo-type space"
    )
    return folder


def _requirements(model_type: str | None) -> str:
    """Return the packages that load the model, in the versions that are installed here."""
    names = ["transformers", "torch", "torchvision", "pillow", *(["timm"] if model_type == "timm_wrapper" else [])]
    return "".join(f"{name}=={metadata.version(name).split('+')[0]}\n" for name in names)  # "+cpu" is of one registry
