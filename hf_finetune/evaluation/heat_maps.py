"""Where in an image a network finds its class: Grad-CAM and attention rollout, as heat maps.

Grad-CAM: Selvaraju et al., "Grad-CAM: Visual explanations from deep networks via gradient-based localization" (ICCV
2017, arXiv:1610.02391). Attention rollout: Abnar and Zuidema, "Quantifying attention flow in transformers" (ACL 2020,
arXiv:2005.00928).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from hf_finetune.errors import UserError, did_you_mean
from hf_finetune.evaluation.feature_maps import FeatureMap, find_feature_map, first_tensor, record, undisturbed
from hf_finetune.models.ensemble import Ensemble

METHODS = {"gradcam": "Grad-CAM", "rollout": "attention rollout"}
_ROUNDING = 1e-3  # of the sum of attention weights, which is 1


@dataclass(frozen=True)
class HeatMaps:
    """The heat maps of a batch.

    Attributes:
        maps: Float32 (batch, rows, columns) on the CPU, from 0 to 1, the largest of each image 1; all 0 where nothing
            in the image speaks for the class.
        class_ids: The class that each explains, int64 (batch,) on the CPU.
        logits: Of the images, float32 (batch, classes) on the CPU.
    """

    maps: torch.Tensor
    class_ids: torch.Tensor
    logits: torch.Tensor


class HeatMapper:
    """Makes heat maps of images.

    Attributes:
        network: The network, which is left as it was.
        method: One of `METHODS`; None until the first batch chooses it.
        layer: For Grad-CAM, the name of the module whose output is used; None until the first batch chooses it.
    """

    def __init__(self, network: PreTrainedModel, method: str | None = None, layer: str | None = None) -> None:
        """Set it up.

        Args:
            network: The network, on its device.
            method: One of `METHODS`. None for rollout where it suits the network and neither a layer nor a class is
                asked for, else Grad-CAM.
            layer: For Grad-CAM, the name of a module to use; None chooses one (`find_feature_map`).

        Raises:
            UserError: There is no such method, or it does not suit the network.
        """
        if method is not None and method not in METHODS:
            guess = did_you_mean(method, METHODS) or f" Use one of {', '.join(METHODS)}."
            raise UserError(f"--method: there is no method {method}.{guess}")
        if method == "rollout" and layer is not None:
            raise UserError("--layer is for --method gradcam: rollout takes all layers of attention.")
        if isinstance(network, Ensemble):
            raise UserError("An ensemble has a heat map for each of its members; use the folder of one of them.")
        self.network = network
        self.method = method
        self.layer = layer
        self._feature_maps: dict[torch.Size, FeatureMap] = {}

    def __call__(self, pixel_values: torch.Tensor, class_ids: Sequence[int] | None = None) -> HeatMaps:
        """Return the heat maps of a batch.

        Args:
            pixel_values: Prepared images, float32 (batch, channels, height, width).
            class_ids: The class to explain for each image; None for the likeliest. Rollout depends on no class.

        Raises:
            UserError: The network has no map of features, or for rollout another attention than global one.
        """
        with undisturbed(self.network):
            images = pixel_values.detach().clone()
            if self.method is None:
                self.method = self._suitable(images[:1], class_ids)
            if self.method == "rollout":
                maps, logits = _rollout(self.network, images)
                chosen = _chosen(logits, class_ids)
            else:
                maps, chosen, logits = self._grad_cam(images, class_ids)
        peaks = maps.amax(dim=(1, 2), keepdim=True)
        return HeatMaps(torch.where(peaks > 0, maps / peaks, 0.0).cpu(), chosen.cpu(), logits.detach().cpu())

    def described(self) -> str:
        """Return the method and the layer in words, when the first batch has chosen them."""
        name = METHODS[str(self.method)]
        return f"{name} at the layer {self.layer}" if self.layer else f"{name}, which depends on no class"

    def _suitable(self, image: torch.Tensor, class_ids: Sequence[int] | None) -> str:
        """Return the method for a caller who asks for none."""
        if class_ids is not None or self.layer is not None:
            return "gradcam"
        try:
            _rollout(self.network, image)
        except UserError:
            return "gradcam"
        return "rollout"

    def _grad_cam(
        self, images: torch.Tensor, class_ids: Sequence[int] | None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return ReLU(sum over channels of mean gradient times feature), the classes and the logits."""
        sides = images.shape[1:]
        if sides not in self._feature_maps:
            self._feature_maps[sides] = find_feature_map(self.network, images[:1], self.layer)
        found = self._feature_maps[sides]
        self.layer = found.layer
        with _cut_at(self.network.get_submodule(found.layer)) as features:
            logits = self.network(pixel_values=images).logits.float()
        chosen = _chosen(logits, class_ids)
        (gradient,) = torch.autograd.grad(logits.gather(1, chosen[:, None]).sum(), features[-1:])
        weights = found.positions(gradient.float()).mean(dim=(2, 3), keepdim=True)
        maps = (weights * found.positions(features[-1].detach().float())).sum(dim=1)
        return maps.relu(), chosen, logits


def _chosen(logits: torch.Tensor, class_ids: Sequence[int] | None) -> torch.Tensor:
    if class_ids is None:
        return logits.argmax(dim=1)
    return torch.tensor(class_ids, device=logits.device)


@contextmanager
def _cut_at(module: nn.Module) -> Iterator[list[torch.Tensor]]:
    """Begin the graph of gradients at the output of a module; yield its outputs, which nothing changes in place."""
    outputs: list[torch.Tensor] = []

    def cut(_: nn.Module, __: Any, output: Any) -> Any:
        tensor = first_tensor(output)
        assert tensor is not None
        outputs.append(tensor.detach().requires_grad_())
        passed = outputs[-1].clone()
        return (passed, *output[1:]) if isinstance(output, tuple | list) else passed

    hook = module.register_forward_hook(cut)
    try:
        yield outputs
    finally:
        hook.remove()


def _rollout(network: PreTrainedModel, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return how much of each position arrives at the tokens that the head reads, and the logits."""
    with _attention_as_matrices(network):
        found, tokens_read = _tokens(network, images[:1])
        with torch.no_grad(), _attentions(network) as attentions:
            logits = network(pixel_values=images).logits.float()
    if found is None or not _is_global(attentions, len(images), len(tokens_read)):
        raise UserError(
            f"--method rollout is for networks in which each layer attends to the whole image, as in ViT, and"
            f" {type(network).__name__} does not; use --method gradcam."
        )
    own = torch.eye(len(tokens_read), device=images.device)
    arrived = own.expand(len(images), -1, -1)
    for attention in attentions:
        mixed = (attention.float().mean(dim=1) + own) / 2
        arrived = mixed / mixed.sum(dim=-1, keepdim=True) @ arrived
    shares = arrived[:, tokens_read].mean(dim=1)[:, found.extra :]
    maps = shares.unflatten(1, (found.rows, found.columns))
    return maps - maps.amin(dim=(1, 2), keepdim=True), logits


def _tokens(network: PreTrainedModel, image: torch.Tensor) -> tuple[FeatureMap | None, torch.Tensor]:
    """Return the last map of tokens, and which tokens of it the classes depend on, bool (tokens,)."""
    recorded, logits = record(network, image)
    for each in reversed(recorded.values()):
        if each.feature_map is None or each.feature_map.form != "tokens" or not each.output.requires_grad:
            continue
        (gradient,) = torch.autograd.grad(logits.max(), [each.output], retain_graph=True, allow_unused=True)
        if gradient is not None and gradient.any():
            return each.feature_map, gradient[0].any(dim=1)
    return None, torch.zeros(0, dtype=torch.bool)


def _is_global(attentions: Sequence[torch.Tensor], images: int, tokens: int) -> bool:
    """Return whether each layer attends from each token of an image to each."""
    shapes = {(len(attention), *attention.shape[2:]) for attention in attentions}
    return shapes == {(images, tokens, tokens)}


@contextmanager
def _attention_as_matrices(network: PreTrainedModel) -> Iterator[None]:
    """Compute attention step by step in the block (`eager`): fused kernels do not give its weights."""
    configs = [module.config for module in network.modules() if isinstance(module, PreTrainedModel)]
    implementations = [config._attn_implementation for config in configs]
    fused: list[Any] = [module for module in network.modules() if getattr(module, "fused_attn", False)]  # timm's
    try:
        for config in configs:
            config._attn_implementation = "eager"
        for module in fused:
            module.fused_attn = False
        yield
    finally:
        for config, implementation in zip(configs, implementations, strict=True):
            config._attn_implementation = implementation
        for module in fused:
            module.fused_attn = True


@contextmanager
def _attentions(network: PreTrainedModel) -> Iterator[list[torch.Tensor]]:
    """Collect the weights of attention, (batch, heads, tokens, tokens), each once, in the order of the layers."""
    found: list[torch.Tensor] = []

    def collect(_: nn.Module, __: Any, output: Any) -> None:
        for part in output if isinstance(output, tuple | list) else [output]:
            if isinstance(part, torch.Tensor) and _are_weights(part) and not any(part is known for known in found):
                found.append(part)

    hooks = [module.register_forward_hook(collect) for name, module in network.named_modules() if name]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def _are_weights(output: torch.Tensor) -> bool:
    if output.ndim != 4 or not output.is_floating_point() or bool((output < 0).any()):
        return False
    return bool(((output.sum(dim=-1) - 1).abs() < _ROUNDING).all())
