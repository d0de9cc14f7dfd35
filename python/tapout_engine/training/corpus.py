"""Texts and prompts to train on, and those that must not be trained on."""

from __future__ import annotations

import ast
import gzip
import json
import re
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from ..errors import EngineError

WORDS = 8  # so many words in a row that a held-out text has too are one too many
TEXTS = (".txt", ".md", ".rst", ".py")
PROMPTS = (".jsonl", ".jsonl.gz", ".txt", ".py")
DOCSTRING = range(40, 601)  # characters of a docstring that makes a good prompt


def check_paths(text: Sequence[Path], prompts: Sequence[Path]) -> None:
    """Refuse what cannot be read, before anything slow.

    Raises
    ------
    EngineError
        For a path that is no folder and no file of a known kind.
    """
    for paths, suffixes in ((text, TEXTS), (prompts, PROMPTS)):
        list(_files(paths, suffixes))


def texts(paths: Sequence[Path]) -> Iterator[str]:
    """The content of text files, and of those in folders, in an order that is always the same."""
    for path in _files(paths, TEXTS):
        yield _read(path)


def prompts(paths: Sequence[Path]) -> Iterator[str]:
    """What a user might ask.

    A line of ``.jsonl`` (also ``.jsonl.gz``) is an object with ``prompt`` or ``turns``; paragraphs
    of ``.txt`` are prompts; of ``.py`` the head of each documented function is one: signature and
    docstring.
    """
    for path in _files(paths, PROMPTS):
        text = _read(path)
        if path.suffix == ".py":
            yield from function_heads(text)
        elif path.suffix == ".txt":
            yield from filter(None, (part.strip() for part in re.split(r"\n\s*\n", text)))
        else:
            yield from (_asked(path, *line) for line in _lines(path, text))


def function_heads(source: str) -> Iterator[str]:
    """Signature and docstring of the documented functions of a Python file."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return
    lines = source.split("\n")  # as the parser counts them: a form feed ends none
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            docstring = ast.get_docstring(node)
            if docstring and len(docstring) in DOCSTRING and len(node.body) > 1:
                head = lines[node.lineno - 1 : node.body[0].end_lineno]
                yield textwrap.dedent("\n".join(head)) + "\n"


class HeldOut:
    """Texts that a model will be judged by; what shares eight words in a row with one is refused.

    Examples
    --------
    >>> held_out = HeldOut(["Why is the sky blue during the day and red at sunset?"])
    >>> held_out.meets("asked: why is the sky blue during the day?")
    True
    >>> held_out.meets("The sky is blue.")
    False
    """

    def __init__(self, texts: Iterable[str]):
        self.grams = {gram for text in texts for gram in _grams(text)}
        self.dropped = 0

    @classmethod
    def of(cls, paths: Sequence[Path], *more: str) -> HeldOut:
        """Of files as :func:`prompts` reads them, every text field of a line included."""
        found = list(more)
        for path in held_out_files(paths):
            text = _read(path)
            if path.suffix == ".txt":
                found.append(text)
            else:
                for _, entry in _lines(path, text):
                    found += _strings(entry)
        return cls(found)

    def meets(self, text: str) -> bool:
        """Whether ``text`` shares eight words in a row with a held-out text."""
        return not self.grams.isdisjoint(_grams(text))

    def drop(self, texts: Iterable[str]) -> Iterator[str]:
        """Those that meet none; ``dropped`` counts the others."""
        for text in texts:
            if self.meets(text):
                self.dropped += 1
            else:
                yield text


def held_out_files(paths: Sequence[Path]) -> Iterator[Path]:
    """Those that :meth:`HeldOut.of` reads, of folders too."""
    return _files(paths, (".jsonl", ".jsonl.gz", ".txt"))


def _grams(text: str) -> Iterator[int]:
    words = re.findall(r"\w+", text.lower())
    for first in range(len(words) - WORDS + 1):
        yield hash(tuple(words[first : first + WORDS]))


def _lines(path: Path, text: str) -> Iterator[tuple[int, object]]:
    """Number and content of the lines of a ``.jsonl``; strings may hold other line ends."""
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                yield number, json.loads(line)
            except ValueError:
                raise _no_prompt(path, number, line) from None


def _asked(path: Path, number: int, entry: object) -> str:
    if isinstance(entry, dict):
        turns = entry.get("turns") or [None]
        prompt = entry.get("prompt", turns[0] if isinstance(turns, list) else None)
        if isinstance(prompt, str):
            return prompt
    raise _no_prompt(path, number, json.dumps(entry))


def _no_prompt(path: Path, number: int, got: str) -> EngineError:
    return EngineError(
        f"train-draft: {path}, line {number}: expected an object with prompt or turns, "
        f"got {got[:60]}"
    )


def _strings(value: object) -> list[str]:
    if isinstance(value, str):
        return [value]
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [text for part in parts for text in _strings(part)]


def _files(paths: Sequence[Path], suffixes: tuple[str, ...]) -> Iterator[Path]:
    for path in paths:
        if path.is_dir():
            yield from sorted(
                file for file in path.rglob("*") if file.is_file() and file.name.endswith(suffixes)
            )
        elif path.is_file() and path.name.endswith(suffixes):
            yield path
        else:
            raise EngineError(
                f"train-draft: expected a folder or a file ending in {', '.join(suffixes)}, "
                f"got {path}"
            )


def _read(path: Path) -> str:
    if path.suffix == ".gz":
        return gzip.decompress(path.read_bytes()).decode()
    return path.read_text(errors="replace")
