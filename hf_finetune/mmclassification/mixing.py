"""Imports MixUp and CutMix, `train_cfg.augments`, as the last of train_transforms."""

from __future__ import annotations

from typing import Any

from hf_finetune.mmclassification.section import Draft, Section

_KINDS = {"Mixup": "MixUp", "BatchMixup": "MixUp", "CutMix": "CutMix", "BatchCutMix": "CutMix", "Identity": "Identity"}


def import_mixing(train_cfg: Section, draft: Draft) -> list[Any]:
    """Return the transforms that mix a batch, to end train_transforms with: none, one, or a RandomChoice.

    In 0.x each augment has its own probability. In 1.x they have a list of probabilities, or all the same one. If the
    probabilities add up to less than 1, the rest of the batches is not mixed.
    """
    sections = train_cfg.sections("augments")
    shared = train_cfg.take("probs")
    shared = [shared] if isinstance(shared, (int, float)) else shared
    transforms: list[Any] = []
    probabilities: list[float] = []
    for place, augment in enumerate(sections):
        kind = augment.take("type")
        alpha = augment.number("alpha", 1.0)
        # The key of 0.x, where a single augment without it is always applied.
        own = augment.number("prob", 1.0 if "Batch" in str(kind) else 1 / len(sections))
        augment.skip("num_classes")
        probability = shared[place] if shared is not None and place < len(shared) else own
        if augment.take("cutmix_minmax") is not None:
            draft.remark(augment.at("cutmix_minmax"), "is not supported; CutMix draws its box from alpha")
        if augment.take("correct_lam") is False:
            draft.remark(augment.at("correct_lam"), "False; labels are mixed in the proportion of the pixels")
        if kind not in _KINDS:
            draft.remark(augment.place, f"{kind} is not supported; {probability:g} of the batches are not mixed by it")
            augment.skip_all()
            continue
        transforms.append("Identity" if kind == "Identity" else {_KINDS[kind]: {"alpha": float(alpha)}})
        probabilities.append(float(probability))
    if not transforms:
        return []
    rest = round(1 - sum(probabilities), 6)
    if rest > 0:
        transforms.append("Identity")
        probabilities.append(rest)
    if len(transforms) == 1:
        return transforms
    choice: dict[str, Any] = {"transforms": transforms}
    if len(set(probabilities)) > 1:
        choice["p"] = probabilities
    return [{"RandomChoice": choice}]
