"""The bandit's serial definition as plain loops over Python numbers, one row after the other."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from tapout_kernels.reference.bandit import POLICIES, REWARDS
from tapout_kernels.reference.stop import Slot, should_stop, stop_before_drafting

TABLES = ("count", "reward_sum", "reward_sq", "tokens", "cost")
UNTRIED = math.inf
HEDGES = (POLICIES["hedge"], POLICIES["normalhedge"])


def lists(args: dict[str, object]) -> dict[str, object]:
    """Every tensor as nested lists; sequence-level tables get one slot, as arms do."""
    plain = {k: v.tolist() if isinstance(v, Tensor) else v for k, v in args.items()}
    if args["count"].dim() == 2:
        for name in TABLES[:3]:
            plain[name] = [[[value] for value in arms] for arms in plain[name]]
        plain["arm"] = [[arm] for arm in plain["arm"]]
        if plain["arm_prob"] is not None:
            plain["arm_prob"] = [[[value] for value in arms] for arms in plain["arm_prob"]]
    return plain


def rows_of(args: dict, batch: int) -> Iterator[tuple[int, int, int]]:
    """(batch row, row of state, group) of the rows that take part."""
    for b in range(batch):
        row = b if args["rows"] is None else args["rows"][b]
        group = 0 if args["group"] is None else args["group"][b]
        live = args["live"] is None or args["live"][b]
        if live and 0 <= row < len(args["arm"]) and 0 <= group < len(args["count"]):
            yield b, row, group


def mean_of(args: dict, g: int, a: int, j: int) -> float:
    count = args["count"][g][a][j]
    if count == 0:
        return 0.0
    if args["reward"] != REWARDS["throughput"]:
        return args["reward_sum"][g][a][j] / count
    tokens, cost = args["tokens"][g], args["cost"][g]
    rate = sum(tokens) / sum(cost) if sum(cost) else 1.0
    gain = (tokens[a] - rate * cost[a]) / (2 * (args["slots"] + 1) * count)
    return min(1.0, max(0.0, 0.5 + gain))


def score_of(args: dict, g: int, a: int, j: int, pending: int, t: float) -> float:
    count, mean = args["count"][g][a][j], mean_of(args, g, a, j)
    n = count + pending
    if n == 0:
        return UNTRIED
    if args["policy"] == POLICIES["ucbspec"]:
        return ucbspec_score(args, g, a, n, t)
    if args["policy"] == POLICIES["ucb1"]:
        return mean + args["params"][1] * math.sqrt(2 * math.log(t) / n)
    second = args["reward_sq"][g][a][j] / count if count else 0.0
    spread = max(0.0, second - mean * mean) + math.sqrt(2 * math.log(t) / n)
    return mean + math.sqrt(math.log(t) / n * min(0.25, spread))


def ucbspec_score(args: dict, g: int, a: int, n: float, t: float) -> float:
    """As the paper has it, in tokens: the range L of n_acc + 1 is K."""
    arms, count, delta = len(args["count"][g]), args["count"][g][a][0], args["params"][1]
    mean = args["tokens"][g][a] / count if count else 1.0
    doubt = math.log(arms * t * t * math.sqrt(1 + n) / delta)
    return mean + args["slots"] / 2 * math.sqrt((1 + n) / n**2 * (1 + 2 * doubt))


def select(arguments: dict[str, object]) -> Tensor:
    """The arms after a call of ucb1, ucb_tuned or ucbspec: every row scores every arm afresh."""
    args = lists(arguments)
    batch = len(args["arm"]) if args["rows"] is None else len(args["rows"])
    rows = list(rows_of(args, batch))
    arms, slots = len(args["count"][0]), len(args["arm"][0])
    pulls = {}
    for _, row, g in rows:
        here = sum(group == g for _, _, group in rows)
        for j in range(slots):
            t = max(1.0, sum(args["count"][g][a][j] for a in range(arms)) + here)
            scores = [score_of(args, g, a, j, pulls.get((g, a, j), 0), t) for a in range(arms)]
            best = scores.index(max(scores))
            pulls[g, best, j] = pulls.get((g, best, j), 0) + 1
            args["arm"][row][j] = best
    return torch.tensor(args["arm"], dtype=torch.int32).view(arguments["arm"].shape)


def reward_of(args: dict, b: int, slots: int) -> float:
    accepted, drafted = args["num_accepted"][b], args["length"][b]
    if drafted == 0 or args["reward"] == REWARDS["throughput"]:
        return 0.0
    if args["reward"] == REWARDS["simple"]:
        return accepted / slots
    if args["reward"] == REWARDS["overlap"]:
        return sum(max(value, 0.0) for value in args["overlap"][b][:drafted]) / slots
    alpha = args["params"][0]
    return alpha * (accepted / slots) + (1 - alpha) * accepted / drafted


def credits(args: dict, b: int, arm: list[int], slots: int) -> Iterator[tuple[int, int, float]]:
    """(slot, arm, reward) of everything one round teaches."""
    accepted, drafted = args["num_accepted"][b], args["length"][b]
    if args["reward"] not in (REWARDS["decision"], REWARDS["token_accept"]):
        yield 0, arm[0], reward_of(args, b, slots)
    elif drafted == 0:
        if args["stop_reason"][b] == 3:
            yield 0, arm[0], 0.0
    else:
        for j in range(min(drafted, accepted + 1)):
            if args["reward"] == REWARDS["token_accept"]:
                yield j, arm[j], float(j < accepted)
            elif j < drafted - 1:
                yield j, arm[j], float(accepted >= j + 2)
            elif args["stop_reason"][b] == 1:
                yield j, arm[j], float(accepted == j)


def square_of(args: dict, row: int, a: int, j: int, r: float) -> float | None:
    """What goes to ``reward_sq``; None: the arm was not drawn, and teaches nothing."""
    if args["policy"] < POLICIES["exp3"]:
        return r * r
    chance = args["arm_prob"][row][a][j]
    return (1 - r) / chance if chance > 0 else None


def stop_of(arguments: dict, b: int, row: int, a: int) -> int:
    """After how many tokens rule ``a`` stops; one more than there are where it goes on."""
    kind = arguments["rule_kind"][a : a + 1].long()
    param, memory = (x.double()[None] for x in (arguments["rule_param"][a],
                                                arguments["memory"][row, a]))  # fmt: skip
    if stop_before_drafting(kind, param, memory):
        return 0
    stats = arguments["stats"][b : b + 1].double()
    for j in range(int(arguments["length"][b])):
        if should_stop(kind, Slot(torch.tensor([j]), stats, param, memory)):
            return j + 1
    return min(int(arguments["length"][b]) + 1, stats.shape[1])


def losses_of(arguments: dict, args: dict, b: int, row: int) -> list[float]:
    """Every rule's estimated loss, for ``normalhedge`` its regret."""
    arms, slots = len(args["arm_prob"][row]), arguments["draft_tokens"].shape[1]
    prob = [args["arm_prob"][row][a][0] for a in range(arms)]
    stops = [stop_of(arguments, b, row, a) for a in range(arms)]
    losses = []
    for stop in stops:
        own = min(stop, args["length"][b])
        short = {**args, "length": {b: own}, "num_accepted": {b: min(args["num_accepted"][b], own)}}
        chance = sum(w for w, other in zip(prob, stops, strict=True) if other >= stop)
        seen = stop <= args["length"][b] or args["stop_reason"][b] not in (1, 3)
        losses.append((1 - reward_of(short, b, slots)) / chance if seen and chance > 0 else 0.0)
    if args["policy"] == POLICIES["hedge"]:
        return losses
    epsilon = args["params"][1]
    weights = [(w - epsilon / arms) / (1 - epsilon) for w in prob]
    mean = sum(w * loss for w, loss in zip(weights, losses, strict=True))
    return [mean - loss for loss in losses]


def update(arguments: dict[str, object]) -> dict[str, Tensor]:
    """The tables after a call."""
    args = lists(arguments)
    keep, arms = args["params"][2], len(args["count"][0])
    for b, row, g in rows_of(args, len(args["length"])):
        if args["status"][b] != 0:
            continue
        arm, slots = args["arm"][row], arguments["draft_tokens"].shape[1]
        for j, a, r in credits(args, b, arm, slots):
            square = square_of(args, row, a, j, r) if 0 <= a < arms else None
            if square is not None:
                for name, value in (("count", 1.0), ("reward_sum", r), ("reward_sq", square)):
                    table = args[name][g]
                    for other in range(arms):
                        table[other][j] *= keep
                    if name != "reward_sq" or args["policy"] not in HEDGES:
                        table[a][j] += value
                if args["policy"] in HEDGES:
                    for other, value in enumerate(losses_of(arguments, args, b, row)):
                        args["reward_sq"][g][other][0] += value
        a = arm[min(max(args["length"][b] - 1, 0), len(arm) - 1)]
        if 0 <= a < arms:
            spent = 1 + args["cost_ratio"][0] * args["length"][b]
            for name, value in (("tokens", args["num_accepted"][b] + 1.0), ("cost", spent)):
                args[name][g] = [x * keep for x in args[name][g]]
                args[name][g][a] += value
    return {name: torch.tensor(args[name], dtype=torch.float64).view(arguments[name].shape)
            for name in TABLES}  # fmt: skip
