"""Bandits over stop rules (TapOut, arXiv 2511.02017): what an arm is worth, and who is picked.

A group of requests has one table of arms, at token level one for every slot.  Here a table is
[..., S, A]: S slots (1 at sequence level), then the arms.  UCB1 and UCB-Tuned: Auer et al. 2002.
UCBSpec: BanditSpec, arXiv 2505.15141.
Gamma variates: Marsaglia and Tsang 2000, with a fixed number of tries.
"""

from __future__ import annotations

import functools
import math
import operator
from typing import NamedTuple

import torch
from torch import Tensor

from .rng import BANDIT, philox4x32, uniform_from_words
from .stop import PRE_DRAFT, RULE

FIXED, UCB1, UCB_TUNED, THOMPSON_GAUSSIAN, THOMPSON_BETA, EPSILON_GREEDY = range(6)
UCBSPEC, EXP3, HEDGE, NORMALHEDGE = range(6, 10)
SIMPLE, BLEND, THROUGHPUT, DECISION, TOKEN_ACCEPT, OVERLAP = range(6)
POLICIES = {
    "fixed": FIXED, "ucb1": UCB1, "ucb_tuned": UCB_TUNED, "thompson_gaussian": THOMPSON_GAUSSIAN,
    "thompson_beta": THOMPSON_BETA, "epsilon_greedy": EPSILON_GREEDY,
    "ucbspec": UCBSPEC, "exp3": EXP3, "exp3spec": EXP3, "hedge": HEDGE, "normalhedge": NORMALHEDGE,
    "metasd": UCB1,
}  # fmt: skip
REWARDS = {
    "simple": SIMPLE, "blend": BLEND, "throughput": THROUGHPUT, "decision": DECISION,
    "token_accept": TOKEN_ACCEPT, "overlap": OVERLAP,
}  # fmt: skip
NUM_PARAMS = 8
ALPHA, POLICY_PARAM, DISCOUNT = 0, 1, 2  # columns of params
TRIES = 8  # of a gamma variate; each takes two draws
DRAWS = 4 * TRIES  # addresses an arm owns


class Arms(NamedTuple):
    """Completed pulls, frozen while one call selects: [..., S, A] f64 each."""

    count: Tensor
    reward_sum: Tensor
    mean: Tensor  # 0 for an arm never pulled
    variance: Tensor

    def of(self, group: Tensor) -> Arms:
        return Arms(*(table[group] for table in self))


def by_slot(table: Tensor) -> Tensor:
    """[G, A] or [G, A, K] as [G, S, A]."""
    return table.view(*table.shape[:2], -1).transpose(1, 2)


def in_order_sum(values: Tensor) -> Tensor:
    """Over the last dimension, first to last: a discounted count is no integer."""
    return functools.reduce(operator.add, values.unbind(-1))


def _ratio(numerator: Tensor, denominator: Tensor, otherwise: float) -> Tensor:
    some = denominator > 0
    return torch.where(some, numerator / torch.where(some, denominator, 1.0), otherwise)


def arms_of(
    count: Tensor,  # [G, A] or [G, A, K], and the next two
    reward_sum: Tensor,
    reward_sq: Tensor,
    tokens: Tensor,  # [G, A]
    cost: Tensor,  # [G, A]
    reward: int,
    slots: int,
) -> Arms:
    count, total, squares = by_slot(count), by_slot(reward_sum), by_slot(reward_sq)
    mean = _ratio(total, count, 0.0)
    if reward == THROUGHPUT:
        mean = throughput_mean(count, tokens[:, None], cost[:, None], slots)
        total = mean * count
    variance = (_ratio(squares, count, 0.0) - mean * mean).clamp(min=0)
    return Arms(count, total, mean, torch.where(count > 0, variance, 0.0))


def throughput_mean(count: Tensor, tokens: Tensor, cost: Tensor, slots: int) -> Tensor:
    """1/2 + (tokens - rate * cost) / (2 (K+1) n): above 1/2 is faster than the group as a whole.

    The mean of each round's own tokens / cost would rank arms wrongly.
    """
    rate = _ratio(in_order_sum(tokens), in_order_sum(cost), 1.0)[..., None]
    gain = _ratio(tokens - rate * cost, 2.0 * (slots + 1) * count, 0.0)
    return torch.where(count > 0, (0.5 + gain).clamp(0, 1), 0.0)


def ucb1_score(mean: Tensor, pulls: Tensor, log_t: Tensor, exploration: Tensor) -> Tensor:
    """``pulls`` counts those of this call too; +inf for an arm never pulled."""
    bonus = exploration * (2 * log_t).sqrt() / pulls.sqrt()
    return torch.where(pulls > 0, mean + bonus, math.inf)


def ucb_tuned_score(mean: Tensor, variance: Tensor, pulls: Tensor, log_t: Tensor) -> Tensor:
    share = log_t / pulls
    bonus = (share * (variance + (2 * share).sqrt()).clamp(max=0.25)).sqrt()
    return torch.where(pulls > 0, mean + bonus, math.inf)


def ucbspec_score(mean: Tensor, pulls: Tensor, log_t: Tensor, delta: Tensor) -> Tensor:
    """BanditSpec's score over the range L = K of its reward n_acc + 1; ``mean`` is of n_acc / K.

    The logarithm is not let below 0, so that no delta makes a score rise with its pulls.
    """
    arms = pulls.shape[-1]
    doubt = (arms / delta).log() + 2 * log_t + 0.5 * (1 + pulls).log()
    spread = (1 + 2 * torch.where(doubt > 0, doubt, 0.0)).sqrt()
    bonus = 0.5 * ((1 + pulls).sqrt() / pulls) * spread
    return torch.where(pulls > 0, mean + bonus, math.inf)


class Noise(NamedTuple):
    """Where the random numbers of one call are: one lane per batch row."""

    seed: Tensor  # [1]
    calls: Tensor  # [1], before this one
    batch: int

    def uniforms(self, word: Tensor) -> tuple[Tensor, Tensor]:
        """Two [B, *word.shape] uniforms of one block."""
        lane = torch.arange(self.batch, device=word.device).view(-1, *[1] * word.dim())
        lane, word = torch.broadcast_tensors(lane, word[None])
        round_, domain = (self.calls % 2**32).expand_as(word), torch.full_like(word, BANDIT)
        key = (self.seed % 2**32, (self.seed >> 32) % 2**32)
        words = philox4x32((lane, word % 2**32, round_, domain), key)
        return uniform_from_words(*words[:2]), uniform_from_words(*words[2:])


def first_draw(slots: int, arms: int, device: torch.device) -> Tensor:
    """[S, A] counter word of draw 0 of every slot and arm."""
    return torch.arange(slots * arms, device=device).view(slots, arms) * DRAWS


def normal(uniforms: tuple[Tensor, Tensor]) -> Tensor:
    """Box and Muller's first."""
    return (-2 * uniforms[0].log()).sqrt() * (2 * math.pi * uniforms[1]).cos()


def gamma(shape: Tensor, noise: Noise, word: Tensor) -> Tensor:
    """Gamma(shape, 1), shape >= 1: the first try that is accepted; shape - 1/3 if none is."""
    tries = word[..., None] + 2 * torch.arange(TRIES, device=word.device)
    d = shape[..., None] - 1 / 3
    c = 1 / (9 * d).sqrt()
    x, u = normal(noise.uniforms(tries)), noise.uniforms(tries + 1)[0]
    root = 1 + c * x
    v = root * root * root
    accepted = (v > 0) & (u.log() < x * x / 2 + d - d * v + d * v.log())
    first = accepted.int().argmax(-1, keepdim=True)
    return torch.where(accepted.any(-1), (d * v).gather(-1, first)[..., 0], d[..., 0])


def thompson_gaussian(arms: Arms, sigma: Tensor, noise: Noise, word: Tensor) -> Tensor:
    n = arms.count + 1
    return (0.5 + arms.reward_sum) / n + sigma / n.sqrt() * normal(noise.uniforms(word))


def thompson_beta(arms: Arms, noise: Noise, word: Tensor) -> Tensor:
    good = gamma(1 + arms.reward_sum.clamp(min=0), noise, word)
    missed = (arms.count - arms.reward_sum).clamp(min=0)
    return good / (good + gamma(1 + missed, noise, word + 2 * TRIES))


def epsilon_greedy(arms: Arms, epsilon: Tensor, noise: Noise, word: Tensor) -> Tensor:
    """[B, S] arms: any of them with probability epsilon, else the best mean."""
    explores, where = noise.uniforms(word[:, 0])
    size = arms.count.shape[-1]
    any_arm = (where * size).floor().clamp(max=size - 1).long()
    best = torch.where(arms.count > 0, arms.mean, math.inf).argmax(-1)
    return torch.where(explores < epsilon, any_arm, best)


def fixed_arm(param: Tensor) -> Tensor:
    """A parameter that is no arm at all is -1, never an overflow."""
    return torch.where((param >= 0) & (param < 2**31), param, -1.0).long()


def reward_of(
    reward: int, num_accepted: Tensor, length: Tensor, slots: int, alpha: Tensor
) -> Tensor:
    """[B] f64 in [0, 1]: n_acc/K, or blended with n_acc/n_draft; 0 when nothing was drafted."""
    accepted = num_accepted.double()
    if reward == THROUGHPUT:  # tokens and cost say it all
        return torch.zeros_like(accepted)
    simple = accepted / slots
    if reward == BLEND:
        simple = alpha * simple + (1 - alpha) * accepted / length.clamp(min=1)
    return torch.where(length > 0, simple, 0.0)


def overlap_reward(overlap: Tensor, drafted: Tensor) -> Tensor:
    """Sum over drafted slots of sum min(p_target, p_draft), over K; -1 where it is not known.

    ``overlap`` [B, K]; ``drafted`` [B, ...] ends the draft there.
    """
    slots = overlap.shape[1]
    slot = torch.arange(slots, device=overlap.device)
    inside = slot < drafted[..., None]
    known = overlap.double().clamp(min=0).view(-1, *[1] * (drafted.dim() - 1), slots)
    return in_order_sum(torch.where(inside, known, 0.0)) / slots


def slot_credit(
    reward: int, num_accepted: Tensor, length: Tensor, stop_reason: Tensor, slots: int
) -> tuple[Tensor, Tensor]:
    """Token level: [B, K] reward of every slot's arm, and whether the round taught it anything.

    Going on was right if the next token was accepted, stopping if this one was rejected.  Nothing
    is learnt where K or max_length cut the draft.  An arm that drafts nothing gets 0, else it
    would look untried for ever.
    """
    slot = torch.arange(slots, device=length.device)
    accepted, drafted = num_accepted[:, None], length[:, None]
    judged = (slot < drafted) & (slot <= accepted)
    if reward == TOKEN_ACCEPT:
        right = slot < accepted
    else:
        last = slot == drafted - 1
        right = torch.where(last, accepted == slot, accepted >= slot + 2)
        judged = judged & (~last | (stop_reason[:, None] == RULE))
    undrafted = (drafted <= 0) & (stop_reason[:, None] == PRE_DRAFT) & (slot == 0)
    return (right & judged).double(), judged | undrafted


def groups_of(group: Tensor | None, like: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    """Each row's group index (0 where it has none) and whether it has one."""
    if group is None:
        return torch.zeros_like(like), torch.ones_like(like, dtype=torch.bool)
    known = (group >= 0) & (group < groups)
    return torch.where(known, group, 0).long(), known
