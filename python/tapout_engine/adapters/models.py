"""The best adapter there is for a model, and for the same model without some of its layers."""

from __future__ import annotations

from collections.abc import Collection

from torch import nn

from ..models.config import unsupported
from ..models.linear import weights_read
from ..models.weights import decoder_of
from .huggingface import HFModel
from .self_draft import skip_layers
from .static import StaticModel

Model = StaticModel | HFModel


def model_of(model: nn.Module) -> Model:
    """With a static cache for the architectures that the decoder computes.

    Parameters
    ----------
    model : transformers.PreTrainedModel
    """
    if unsupported(model.config):
        return HFModel(model)
    return StaticModel(decoder_of(model).pack())


def num_layers(model: Model) -> int:
    if isinstance(model, StaticModel):
        return model.decoder.config.num_layers
    return model.model.config.num_hidden_layers


def shallower(model: Model, skip: Collection[int]) -> Model:
    """A drafter on the weights of ``model``, some layers skipped."""
    if isinstance(model, StaticModel):
        return StaticModel(model.decoder.without(skip))
    return HFModel(skip_layers(model.model, skip))


def relative_cost(drafter: Model, target: Model) -> float:
    """A forward of ``drafter`` in forwards of ``target``, by the weights they read."""
    return _weights(drafter) / _weights(target)


def _weights(model: Model) -> int:
    if isinstance(model, StaticModel):
        return weights_read(model.decoder)
    return sum(weight.numel() for weight in model.model.parameters())
