"""The ``replay`` command: from traces to tables, plots and rows."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence

from tapout_kernels.policies import LEVELS, POLICIES, check_policy, suits

from ..arms import Arm, parse_arms
from ..errors import EngineError
from ..progress import progress_bar
from .grid import Grid, open_player, tasks
from .grid import run as run_grid
from .play import UNKNOWN, Play, Player
from .report import report
from .streams import streams


def run(arguments: argparse.Namespace, say: Callable[..., None] = print) -> int:
    """Compare policies on ``arguments.traces``."""
    try:
        from .plots import plots
    except ModuleNotFoundError as error:
        raise EngineError(
            f"replay: {error.name} is not installed: pip install 'tapout-kernels[train]'"
        ) from None
    player = open_player(arguments.traces)
    arms = parse_arms(arguments.arms) if arguments.arms else player.default_arms()
    policies = plays(arms, arguments.policies, arguments.rewards, player)
    grid = Grid(
        tuple(arguments.traces), arms, policies, arguments.token_cost, arguments.cost_file,
        arguments.padded,
    )  # fmt: skip
    trace = player.trace
    names = list(streams(trace.meta.domains, trace.domain, 0))
    work = tasks(names, arguments.seeds, arguments.cost_ratios, arguments.batch)
    rows: list[dict] = []
    with progress_bar(len(work), "task", "replay") as bar:
        for found in run_grid(grid, work, min(arguments.jobs, len(work))):
            rows += found
            bar.update()
    rows.sort(key=lambda row: (names.index(row["stream"]), row["batch"], row["seed"]))
    arguments.out.mkdir(parents=True, exist_ok=True)
    labels = [arm.label for arm in player.check(Play("", arms)).report()]
    for row in rows:
        if row["way"] == "arm":
            row["label"] = labels[int(row["label"].removeprefix("arm "))]
    (arguments.out / "rows.json").write_text(json.dumps(rows) + "\n")
    (arguments.out / "README.md").write_text(report(player, rows, labels))
    plots(arguments.out, rows, labels)
    say(f"wrote {arguments.out}: {len(rows)} rows of {len(work)} tasks")
    return 0


def plays(
    arms: tuple[Arm, ...],
    policies: Sequence[str] | None,
    rewards: Sequence[str] | None,
    player: Player,
) -> tuple[Play, ...]:
    """Every policy with every reward that goes with it; None: all that suit the arms.

    Raises
    ------
    EngineError, ValueError
        For a policy, a reward or an arm that there is not, or that do not go together.
    """
    player.check(Play("", arms))
    level_of = {reward: level for level, names in LEVELS.items() for reward in names}
    if rewards is None:
        alone = len({arm[2] if len(arm) > 2 else () for arm in arms}) == 1
        known = [reward for reward in level_of if reward != UNKNOWN]
        rewards = [reward for reward in known if alone or level_of[reward] == "sequence"]
    unknown = sorted(set(rewards) - set(level_of))
    if unknown or not rewards:
        raise EngineError(
            f"replay: rewards must be among {', '.join(level_of)}, got {', '.join(unknown)}"
        )
    found: list[Play] = []
    for policy in policies or [name for name in POLICIES if name != "fixed"]:
        fitting = [reward for reward in rewards if suits(policy, level_of[reward], reward)]
        if policies and not fitting:
            check_policy(policy, level_of[rewards[0]], rewards[0])  # says what is wrong
        own = [Play(f"{policy}, {name}", arms, policy, name, level_of[name]) for name in fitting]
        own = [play for play in own if _playable(player, play, asked=policies is not None)]
        # A hedge over drafters learns of the text and reads no reward.
        over_drafters = bool(own) and player.check(own[0]).full_information
        found += own[:1] if over_drafters else own
    if not found:
        raise EngineError("replay: no policy suits these arms and rewards")
    return tuple(found)


def _playable(player: Player, play: Play, asked: bool) -> bool:
    """Whether the arms are such as the policy can play; an error if it was asked for."""
    try:
        player.check(play)
    except EngineError:
        if asked or play.level == "token":
            raise
        return False
    return True
