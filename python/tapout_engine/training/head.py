"""The draft head while it is trained: several steps at once, on its own features.

What :class:`tapout_engine.models.DraftHead` computes step by step with a cache is computed here for
every position of a text together.  In step s the token at position p is read with the feature that
step s - 1 gave for position p - 1; attention sees what it would see when drafting: the true entries
up to p - s, then the head's own of steps 1 to s.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..models import Decoder, HeadConfig
from ..models.rotary import rotate


class TrainableHead(nn.Module):
    """Parameters of a head, and its features for whole texts.

    Parameters
    ----------
    config : HeadConfig
    target : Decoder
        Not trained: lends its embedding and its rotary tables.
    """

    def __init__(self, config: HeadConfig, target: Decoder):
        super().__init__()
        self.config = config
        self.embedding, self.rotary = [target.embedding.float()], [target.rotary]  # not parameters
        size, eps = config.hidden_size, config.norm_eps
        self.token_norm, self.state_norm = nn.RMSNorm(size, eps), nn.RMSNorm(size, eps)
        self.fuse = nn.Linear(2 * size, size, bias=False)
        self.layers = nn.ModuleList(_Layer(config) for _ in range(config.num_layers))
        self.norm = nn.RMSNorm(size, eps)
        with torch.no_grad():  # begin by repeating the state it is given
            self.fuse.weight[:, size:] = torch.eye(size)

    def forward(self, tokens: Tensor, states: Tensor, steps: int) -> list[Tensor]:
        """Features of every step.

        Parameters
        ----------
        tokens : Tensor
            [B, T] int64.
        states : Tensor
            [B, T, hidden]: the target's hidden states after each token.
        steps : int

        Returns
        -------
        list of Tensor
            ``steps`` of [B, T, hidden]; those of step s mean something from position s on.
        """
        positions = torch.arange(tokens.shape[1], device=tokens.device)[None]
        turn = self.rotary[0](positions)
        embedded = self.token_norm(functional.embedding(tokens, self.embedding[0]))
        past: list[_Past] = [_Past() for _ in self.layers]
        features = []
        for _ in range(steps):
            states = functional.pad(states, (0, 0, 1, 0))[:, :-1]  # those of the token before
            x = self.fuse(torch.cat((embedded, self.state_norm(states)), dim=-1))
            for layer, memory in zip(self.layers, past, strict=True):
                x = layer(x, turn, memory)
            states = self.norm(x)
            features.append(states)
        return features

    def weights(self) -> dict[str, Tensor]:
        """Under the names that :class:`tapout_engine.models.DraftHead` reads."""
        return {
            name.removesuffix(".weight"): value.detach() for name, value in self.named_parameters()
        }

    def load(self, weights: dict[str, Tensor]) -> None:
        """Those that :meth:`weights` gave."""
        self.load_state_dict({f"{name}.weight": value for name, value in weights.items()})


class _Past:
    """Keys and values of the steps so far, one of each a step."""

    def __init__(self):
        self.keys: list[Tensor] = []
        self.values: list[Tensor] = []


class _Layer(nn.Module):
    def __init__(self, config: HeadConfig):
        super().__init__()
        self.config = c = config
        size, eps = c.hidden_size, c.norm_eps
        self.before, self.between = nn.RMSNorm(size, eps), nn.RMSNorm(size, eps)
        heads = c.num_heads + 2 * c.num_kv_heads
        self.qkv = nn.Linear(size, heads * c.head_dim, bias=False)
        self.out = nn.Linear(c.num_heads * c.head_dim, size, bias=False)
        self.gate_up = nn.Linear(size, 2 * c.intermediate_size, bias=False)
        self.down = nn.Linear(c.intermediate_size, size, bias=False)

    def forward(self, x: Tensor, turn: tuple[Tensor, Tensor], past: _Past) -> Tensor:
        x = x + self.out(self.attend(self.before(x), turn, past))
        gate, up = self.gate_up(self.between(x)).chunk(2, -1)
        return x + self.down(functional.silu(gate) * up)

    def attend(self, x: Tensor, turn: tuple[Tensor, Tensor], past: _Past) -> Tensor:
        c, (batch, length, _) = self.config, x.shape
        heads = self.qkv(x).view(batch, length, -1, c.head_dim).transpose(1, 2)
        query, key, value = heads.split((c.num_heads, c.num_kv_heads, c.num_kv_heads), dim=1)
        group = c.num_heads // c.num_kv_heads
        past.keys.append(rotate(key, *turn).repeat_interleave(group, 1))
        past.values.append(value.repeat_interleave(group, 1))
        mixed = _attention(rotate(query, *turn), past)
        return mixed.transpose(1, 2).reshape(batch, length, -1)


def _attention(query: Tensor, past: _Past) -> Tensor:
    """[B, heads, T, dim]: true entries up to p - s, own ones of step i at p - s + i."""
    step = len(past.keys) - 1
    if step == 0:
        return functional.scaled_dot_product_attention(
            query, past.keys[0], past.values[0], is_causal=True
        )
    length, scale = query.shape[2], query.shape[-1] ** -0.5
    true = query @ past.keys[0].transpose(-1, -2)
    seen = torch.ones(length, length, dtype=torch.bool, device=query.device).tril(-step)
    own = [(query * _later(past.keys[i], step - i)).sum(-1) for i in range(1, step + 1)]
    scores = torch.cat((true.masked_fill(~seen, float("-inf")), torch.stack(own, -1)), -1)
    weights = (scores.float() * scale).softmax(-1).to(query.dtype)
    mixed = weights[..., :length] @ past.values[0]
    for i in range(1, step + 1):
        weight = weights[..., length + i - 1, None]
        mixed = mixed + weight * _later(past.values[i], step - i)
    return mixed


def _later(x: Tensor, by: int) -> Tensor:
    """Moved ``by`` positions up along T, zeros before."""
    return x if by == 0 else functional.pad(x, (0, 0, by, 0))[:, :, : x.shape[2]]
