"""How one row's cache follows its sequence."""

from __future__ import annotations

from collections.abc import Sequence


class History:
    """A row's confirmed tokens, and the tokens its cache holds an entry for.

    Between rounds the cache holds a prefix of the confirmed tokens without the last one; during
    a round it also holds what was drafted. ``commit`` says how many entries were in vain.
    """

    def __init__(self, prompt: Sequence[int]):
        self.tokens = list(prompt)
        self.cached: list[int] = []

    def feed(self, new: Sequence[int]) -> list[int]:
        """Tokens to run so that the cache ends with ``new``: what it missed comes first."""
        run = self.tokens[len(self.cached) : -1] + list(new)
        self.cached += run
        return run

    def commit(self, emitted: Sequence[int]) -> int:
        """Confirm tokens; returns the number of entries to drop from the cache's end."""
        # Accepted drafts were fed as they are, so only the end can be wrong.
        self.tokens += emitted
        keep = min(len(self.cached), len(self.tokens) - 1)
        drop = len(self.cached) - keep
        del self.cached[keep:]
        return drop
