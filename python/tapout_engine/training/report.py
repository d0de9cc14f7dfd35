"""What a training run leaves beside the weights: a manifest, a model card and curves."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from .loop import Trainer
from .measure import Acceptance

SMOOTH = 50  # updates averaged in the loss curve


def write_manifest(path: Path, content: dict) -> None:
    """Everything that was done, for programs to check."""
    path.write_text(json.dumps(content, indent=1) + "\n")


def write_curves(folder: Path, trainer: Trainer) -> None:
    """``loss.png`` and ``acceptance.png``."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    for step in range(trainer.student.steps):
        points = [(at, losses[step]) for at, losses in trainer.losses if step < len(losses)]
        axes.plot([at for at, _ in points], _smooth([y for _, y in points]), label=f"slot {step}")
    axes.set(xlabel="positions trained on", ylabel="KL(target || draft), nats", yscale="log")
    axes.legend()
    figure.savefig(folder / "loss.png", dpi=110)
    plt.close(figure)

    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    for kind in trainer.judged:
        points = [(at, found[kind].greedy[0]) for at, found in trainer.measured]
        axes.plot(*zip(*points, strict=True), marker="o", label=f"{kind}, slot 0")
    axes.set(xlabel="positions trained on", ylabel="share of greedy drafts accepted", ylim=(0, 1))
    axes.legend()
    figure.savefig(folder / "acceptance.png", dpi=110)
    plt.close(figure)


def write_card(folder: Path, manifest: dict) -> None:
    """``README.md``, from the manifest alone."""
    sources = "\n".join(f"- {source}" for source in _sources(manifest))
    judged = ", ".join(f"{count} {kind}" for kind, count in manifest["judged"].items())
    held_out = "\n".join(
        f"- {file['name']} (sha256 {file['sha256'][:16]}…)" for file in manifest["held_out"]
    )
    (folder / "README.md").write_text(f"""\
# Draft {manifest["kind"]} for {manifest["target"]}

Proposes tokens for speculative decoding with `tapout_engine`; useless by itself. Licence:
Apache-2.0.

{manifest["description"]}

## Trained on

{sources}

{_kinds(manifest["data"])}

Hidden states and distributions of the target on these texts were the teacher. Making them took
{manifest["data_seconds"] / 60:.0f} min, training {manifest["training"]["seconds"] / 60:.0f} min
({manifest["training"]["updates"]} updates, {manifest["training"]["tokens"]} positions) on
{manifest["machine"]}.
{_origin(manifest["init_from"])}
## Not trained on

Texts that share eight words in a row with one of these were dropped
({manifest["dropped"]} were):

{held_out}

## Acceptance

On texts that were kept back ({judged}), given that every draft before was accepted:

{_acceptance_table(manifest["acceptance"])}

`manifest.json` has every setting; loss.png and acceptance.png the course.

{manifest["note"]}
""")


def _kinds(data: dict[str, dict[str, int]]) -> str:
    lines = [f"| {kind} | {found['texts']} | {found['tokens']} |" for kind, found in data.items()]
    return "\n".join(("| kind of text | texts | tokens |", "|---|---|---|", *lines))


def _origin(head: dict | None) -> str:
    """What is known of the head that training went on from."""
    if head is None:
        return ""
    lines = ["", f"It went on from the head `{head['name']}` (sha256 {head['sha256'][:16]}…)."]
    before = head["manifest"]
    if before is not None:
        lines += [f"That one had seen {before['training']['tokens']} positions of these texts:", ""]
        lines += [*(f"- {source}" for source in _sources(before)), "", _kinds(before["data"]), ""]
        lines += [before["note"], _origin(before.get("init_from"))]
    return "\n".join((*lines, ""))


def _sources(manifest: dict) -> list[str]:
    own = f"the target's own questions and answers, at temperatures {manifest['temperatures']}"
    read = [f"`{name}`, read" for name in manifest["text"]]
    asked = [f"prompts out of `{name}`, answered by the target" for name in manifest["prompts"]]
    return [own, *asked, *read]


def _acceptance_table(acceptance: dict[str, dict]) -> str:
    lines = []
    for kind, found in acceptance.items():
        for law, values in Acceptance(**found).__dict__.items():
            cells = " | ".join(f"{value:.3f}" for value in values)
            lines.append(f"| {kind}, {law} | {cells} |")
    slots = len(next(iter(acceptance.values()))["greedy"])
    header = "| | " + " | ".join(f"slot {slot}" for slot in range(slots)) + " |"
    return "\n".join((header, "|---" * (slots + 1) + "|", *lines))


def _smooth(values: Sequence[float]) -> list[float]:
    return [
        sum(values[max(0, at - SMOOTH + 1) : at + 1]) / min(at + 1, SMOOTH)
        for at in range(len(values))
    ]
