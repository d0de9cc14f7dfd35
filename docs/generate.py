"""Writes docs/ops/*.md from the docstrings of the public functions and classes.

``python docs/generate.py`` rewrites the pages; a test fails when they are out of date.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import tapout_kernels as tk
from tapout_kernels._schema import SCHEMAS

FOLDER = Path(__file__).parent / "ops"
PAGES: dict[str, tuple[str, object]] = {  # operator -> (what users call, the object)
    "row_stats": ("row_stats", tk.row_stats),
    "sample": ("sample", tk.sample),
    "proposal_reset": ("Proposal.reset", tk.Proposal.reset),
    "proposal_load": ("Proposal.from_tokens", tk.Proposal.from_tokens),
    "draft_step": ("draft_step", tk.draft_step),
    "verify": ("verify", tk.verify),
    "bandit_select": ("bandit_select", tk.bandit_select),
    "bandit_update": ("bandit_update", tk.bandit_update),
    "bandit_step": ("bandit_step", tk.bandit_step),
    "tree_attention": ("tree_attention", tk.tree_attention),
    "tree_layout": ("tree_layout", tk.tree_layout),
    "tree_mask": ("tree_mask", tk.tree_mask),
    "tree_mask_flat": ("tree_mask", tk.tree_mask),
    "tree_verify": ("tree_verify", tk.tree_verify),
    "tree_expand": ("tree_expand", tk.tree_expand),
    "tree_rerank": ("tree_rerank", tk.tree_rerank),
    "compact_kv": ("compact_kv", tk.compact_kv),
}
TYPES = (
    tk.SamplingParams, tk.RngState, tk.Proposal, tk.Verdict, tk.StopRules, tk.StopState,
    tk.BanditState, tk.DrafterRing, tk.DraftVocab, tk.TreeLayout, tk.FlatMask, tk.TreeProposal,
    tk.TreeVerdict, tk.TreeLevel, tk.TreeShape, tk.TreeDraft,
)  # fmt: skip
FUNCTIONS = (
    tk.mix64, tk.observe_drafters, tk.tree_template, tk.sequoia_tree, tk.warmup,
    tk.available_backends, tk.backend_report, tk.cpu_isa,
)  # fmt: skip
LISTS = ("Parameters", "Attributes", "Returns", "Raises")


def pages() -> dict[str, str]:
    """File name -> text."""
    found = {
        f"{op}.md": f"# `{name}`\n\n{_signature(name, thing)}{_body(thing, 2)}{_schema(op)}"
        for op, (name, thing) in PAGES.items()
    }
    found["types.md"] = _collection("Types", TYPES)
    found["functions.md"] = _collection("Other functions", FUNCTIONS)
    links = [f"- [`{name}`]({op}.md), operator `{op}`\n" for op, (name, _) in PAGES.items()]
    links += ["- [types](types.md)\n", "- [other functions](functions.md)\n"]
    note = "Generated from the docstrings by `python docs/generate.py`.\n\n"
    found["README.md"] = "# Operators\n\n" + note + "".join(links)
    return found


def _collection(title: str, things: tuple[object, ...]) -> str:
    parts = [f"# {title}\n"]
    for thing in things:
        parts.append(f"\n## `{thing.__name__}`\n\n{_signature(thing.__name__, thing)}")
        parts.append(_body(thing, 3))
        for name, method in _methods(thing):
            full = f"{thing.__name__}.{name}"
            parts.append(f"\n### `{full}`\n\n{_signature(full, method)}{_body(method, 4)}")
    return "".join(parts)


def _methods(thing: object) -> Iterator[tuple[str, object]]:
    if not inspect.isclass(thing):
        return
    for name in vars(thing):
        method = getattr(thing, name)
        if not name.startswith("_") and callable(method) and inspect.getdoc(method):
            yield name, method


def _signature(name: str, thing: object) -> str:
    lines: list[str] = []
    keyword_only = False
    for parameter in inspect.signature(thing).parameters.values():
        if parameter.name == "self":
            continue
        star = {parameter.VAR_POSITIONAL: "*", parameter.VAR_KEYWORD: "**"}.get(parameter.kind, "")
        keyword_only |= star == "*"
        if parameter.kind == parameter.KEYWORD_ONLY and not keyword_only:
            lines.append("*")
            keyword_only = True
        given = parameter.default is not parameter.empty
        default = f" = {parameter.default!r}" if given else ""
        lines.append(f"{star}{parameter.name}: {parameter.annotation}{default}")
    inside = "".join(f"\n    {line}," for line in lines)
    return f"```python\n{name}({inside}{chr(10) if lines else ''})\n```\n"


def _schema(op: str) -> str:
    return f"\n## Operator\n\n```\ntorch.ops.tapout_kernels.{op}{SCHEMAS[op]}\n```\n"


def _body(thing: object, level: int) -> str:
    """The docstring as Markdown, its sections as headings of ``level``."""
    text = inspect.getdoc(thing) or ""
    parts = re.split(r"^(\w[\w ]*)\n-+\n", text, flags=re.MULTILINE)
    out = [f"\n{_inline(parts[0]).strip()}\n"]
    for title, content in zip(parts[1::2], parts[2::2], strict=True):
        out.append(f"\n{'#' * level} {title}\n\n")
        if title in LISTS:
            out.append(_list(content))
        elif title == "Examples":
            out.append(f"```python\n{content.strip()}\n```\n")
        else:
            out.append(_inline(content).strip() + "\n")
    return "".join(out)


def _list(content: str) -> str:
    """``name : type`` with an indented description -> one bullet each."""
    out: list[str] = []
    for line in content.strip("\n").splitlines():
        if line and not line.startswith(" "):
            name, _, kind = line.partition(" : ")
            out.append(f"- **`{name}`**" + (f" ({_inline(kind)})" if kind else ""))
        elif line.strip():
            out.append(f"  {_inline(line.strip())}")
    return "\n".join(out) + "\n"


def _inline(text: str) -> str:
    text = re.sub(r":math:`([^`]*)`", r"$\1$", text)
    text = re.sub(r":(?:class|func|meth|mod):`~?([^`]*)`", r"`\1`", text)
    return re.sub(r"``([^`]*)``", r"`\1`", text)


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    for name, text in pages().items():
        (FOLDER / name).write_text(text)


if __name__ == "__main__":
    main()
