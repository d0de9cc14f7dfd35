"""The ``trace costs`` command: what a replay charges, measured at several batches, as JSON."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable

from ..progress import progress_bar
from ..prompts import DEMO_PROMPTS
from ..session import Session
from .command import drafters_of, made_with
from .costs import BEHIND, REPEATS, measure
from .recorder import Recorder

LARGE = 32  # from twice as many requests on a forward takes long enough to be measured once


def run(arguments: argparse.Namespace, say: Callable[..., None] = print) -> int:
    """Measure into ``arguments.out``; see docs/replay.md for the file."""
    session = Session(arguments.target, arguments.dtype, say, arguments.device)
    drafters = drafters_of(session, arguments)
    recorder = Recorder(session.target, drafters, arguments.slots)
    text = session.tokenizer.encode("\n".join(DEMO_PROMPTS.values()))
    tokens = (text * (arguments.context // len(text) + 1))[: max(BEHIND + 1, arguments.context)]
    batches = sorted({1, *arguments.batch})
    found = {}
    with progress_bar(len(batches), "batch", "costs") as bar:
        for batch in batches:
            repeats = REPEATS if batch == 1 else REPEATS // 3 if batch <= LARGE else 1
            found[batch] = measure(recorder, tokens, batch, repeats)
            bar.update()
    table = {
        "target": session.name, "drafters": list(drafters), "batch": batches,
        "verify": [found[batch]["verify_seconds"] for batch in batches],
        "draft": [found[batch]["draft_seconds"] for batch in batches],
        "catch_up": found[1]["catch_up_seconds"],
        "context": len(tokens), "made_with": made_with(),
    }  # fmt: skip
    arguments.out.write_text(json.dumps(table) + "\n")
    alone = 1e3 * found[1]["verify_seconds"][0]
    say(f"wrote {arguments.out}: a forward of one request without drafts took {alone:.2f} ms")
    return 0
