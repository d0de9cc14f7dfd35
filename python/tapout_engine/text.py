"""Tokens into text as they arrive, cut before a stop string."""

from __future__ import annotations

from collections.abc import Sequence

from .engine import Tokenizer

_UNFINISHED = "\N{REPLACEMENT CHARACTER}"


class TextStream:
    """Text of one growing row.

    A token may end in the middle of a character, and a stop string may begin in one token and
    end in another, so text is released only once neither can change it.
    """

    def __init__(self, tokenizer: Tokenizer | None, stop: Sequence[str] = ()):
        self.tokenizer = tokenizer
        self.stop = tuple(stop)
        self.text = ""  # decoded so far; cut before the stop string once there is one
        self.stopped = False
        self._tokens: list[int] = []
        self._start = self._read = 0  # the window decoded again, and how much of it is text
        self._released = 0

    def push(self, token: int) -> bool:
        """Add a token; True when it completes a stop string."""
        self._tokens.append(token)
        if self.stop:
            self._decode()
        return self.stopped

    def finish(self) -> None:
        """No more tokens: what was held back is text after all."""
        if not self.stopped:
            self._decode(final=True)

    def release(self, final: bool = False) -> str:
        """Text that is certain and was not released before."""
        self._decode()
        end = len(self.text) if final or self.stopped else len(self.text) - self._held()
        piece, self._released = self.text[self._released : end], max(end, self._released)
        return piece

    def _decode(self, final: bool = False) -> None:
        """The tokens that are not text yet; an unfinished character stays behind unless final."""
        if self.tokenizer is None or self._read == len(self._tokens):
            return
        # Decoding from an earlier token on keeps spaces that depend on the token before.
        decode = self.tokenizer.decode
        before = decode(self._tokens[self._start : self._read])
        now = decode(self._tokens[self._start :])
        if final or not now.endswith(_UNFINISHED):
            self._append(now[len(before) :])
            self._start, self._read = self._read, len(self._tokens)

    def _append(self, piece: str) -> None:
        longest = max((len(stop) for stop in self.stop), default=1)
        search_from = max(0, len(self.text) - longest + 1)
        self.text += piece
        found = [self.text.find(stop, search_from) for stop in self.stop if stop]
        found = [at for at in found if at >= 0]
        if found:
            self.text, self.stopped = self.text[: min(found)], True

    def _held(self) -> int:
        """Length of the longest end of the text that may be the beginning of a stop string."""
        longest = max((len(stop) for stop in self.stop), default=1) - 1
        for size in range(min(longest, len(self.text)), 0, -1):
            if any(stop.startswith(self.text[-size:]) for stop in self.stop):
                return size
        return 0
