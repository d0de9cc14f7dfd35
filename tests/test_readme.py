"""The README's quick start runs as printed."""

import re
from pathlib import Path

import torch

README = Path(__file__).parents[1] / "README.md"


def test_quick_start_runs_and_emits_valid_tokens():
    (source,) = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert len([line for line in source.splitlines() if line.strip()]) <= 25
    scope: dict = {}
    exec(compile(source, "README.md", "exec"), scope)
    rounds = 20
    last = torch.zeros(scope["B"], dtype=torch.int64)
    with torch.no_grad():
        for _ in range(rounds):
            last = scope["decode_round"](last)
            assert ((last >= 0) & (last < scope["V"])).all()
    assert scope["bandit"].count.sum() == scope["B"] * (rounds + 1)
    assert (scope["rng"].position > rounds).all()
