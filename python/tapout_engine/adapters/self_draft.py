"""A Hugging Face model's own weights with some layers skipped, as a drafter."""

from __future__ import annotations

import copy
from collections.abc import Collection

import torch
from torch import nn

from ..errors import EngineError, not_installed
from ..skipping import kept_layers


def skip_layers(model: nn.Module, skip: Collection[int]) -> nn.Module:
    """A shallower model on ``model``'s own weights; ``model`` itself is not touched.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        Whose config counts its decoder layers as ``num_hidden_layers``.
    skip : collection of int
        Indices of the layers to leave out.

    Raises
    ------
    EngineError
        For indices that do not exist, or if no layer is left.
    """
    kept = kept_layers(model.config.num_hidden_layers, skip)
    shallow = _empty_like(model, _shallow_config(model.config, kept))
    shallow.load_state_dict(_renumbered(model, kept), strict=True, assign=True)
    shallow.tie_weights()
    return shallow.to(next(model.parameters()).device).eval()  # moves only the buffers


def _shallow_config(config, kept: list[int]):
    shallow = copy.deepcopy(config)
    shallow.num_hidden_layers = len(kept)
    if getattr(config, "layer_types", None):
        shallow.layer_types = [config.layer_types[layer] for layer in kept]
    return shallow


def _empty_like(model: nn.Module, config) -> nn.Module:
    """The model's class without weights; its buffers (rotary tables) are real."""
    try:
        from accelerate import init_empty_weights
    except ModuleNotFoundError as error:
        raise not_installed(error.name) from None
    with init_empty_weights(include_buffers=False):
        return type(model)(config)


def _renumbered(model: nn.Module, kept: list[int]) -> dict[str, torch.Tensor]:
    """The kept layers' parameters under the numbers the shallow model gives them."""
    stem = _layers_name(model) + "."
    number = {layer: new for new, layer in enumerate(kept)}
    weights = {}
    for name, weight in model.state_dict(keep_vars=True).items():
        if name.startswith(stem):
            layer, _, rest = name[len(stem) :].partition(".")
            if int(layer) not in number:
                continue
            name = f"{stem}{number[int(layer)]}.{rest}"
        weights[name] = weight
    return weights


def _layers_name(model: nn.Module) -> str:
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) == model.config.num_hidden_layers:
            return name
    raise EngineError(f"skip_layers: found no list of decoder layers in {type(model).__name__}")
