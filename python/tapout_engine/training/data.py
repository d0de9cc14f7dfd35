"""From texts and prompts to what a drafter learns from: the target's words and hidden states."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, cycle, islice
from pathlib import Path
from time import perf_counter

import torch
from torch.nn.utils.rnn import pad_sequence

from ..models import Decoder
from .corpus import HeldOut, prompts, texts
from .samples import Sample, Turn, sample
from .shards import Shard, Shards

BATCH = 128  # texts sampled together
LENGTH = 256  # tokens of a sampled text, at most
ASKED = 160  # tokens of a prompt, at most
SHORT = 32  # tokens of a text that is too short to read
CHUNK = 512  # tokens of a text that is only read: the longer, the dearer
READ = 4  # texts read together
CURIOSITY = 0.9  # the temperature of own questions
ANSWERS = (0.0, 0.8)  # those of answers, in turn
SHARES = ("own", "prompt", "own", "prompt", "text")  # kinds of batches, in turn

MARK = "<user>"  # stands for a user's words in the chat format
# How own questions begin; the empty opener leaves the first word to the model too.
OPENERS = (
    "", "", "", "", "What", "How", "Why", "Who", "Can you", "Explain", "Describe", "Write",
    "Write a Python function", "Write a short story", "Give me", "List", "Summarize", "Compose",
    "Tell me", "In a paragraph",
)  # fmt: skip


@dataclass(frozen=True)
class Sources:
    """What to learn from besides the target's own questions, and what not."""

    text: Sequence[Path] = ()
    prompt: Sequence[Path] = ()
    held_out: HeldOut = field(default_factory=lambda: HeldOut([]))


class Collector:
    """Makes batch after batch, each a shard; which one comes next depends on their number only.

    Parameters
    ----------
    decoder : Decoder
        The target.
    tokenizer : transformers.PreTrainedTokenizerBase
    ends : collection of int
        Tokens that end the target's turn.
    sources : Sources
    seed : int
    """

    def __init__(self, decoder: Decoder, tokenizer, ends: Sequence[int], sources: Sources, seed=0):
        self.decoder, self.tokenizer, self.ends = decoder, tokenizer, frozenset(ends)
        self.held_out = sources.held_out
        self.seed = seed
        self.before, self.after = _chat(tokenizer)
        made = {
            "own": self._questions(),
            "prompt": self._prompts(sources.prompt),
            "text": self._chunks(sources.text),
        }
        given = {"own": True, "prompt": sources.prompt, "text": sources.text}
        self.batches = {kind: batches for kind, batches in made.items() if given[kind]}

    def collect(
        self, shards: Shards, seconds: float, told: Callable[[str, int, float], None]
    ) -> None:
        """Add shards until making them has taken ``seconds``, earlier runs included.

        ``told(kind, tokens, spent)`` after each.
        """
        kinds = cycle(kind for kind in SHARES if kind in self.batches)
        made = [Shard(path).seconds for path in shards.files()]
        spent, index = 0.0, 0
        while spent < seconds:
            kind = next(kinds)
            batch = next(self.batches[kind], None)
            if batch is None:  # every prompt has been asked, every text been read
                continue
            if index < len(made):
                spent += made[index]
            else:
                begin = perf_counter()
                samples = self._read(batch) if kind == "text" else self._sampled(batch, index)
                took = perf_counter() - begin
                spent += took
                dropped = len(batch) - len(samples)
                told(kind, shards.add(samples, kind, took, dropped), spent)
            index += 1

    def _questions(self) -> Iterator[list[Turn]]:
        """The user's part of a chat is the target's too."""
        turns = [self._question(row) for row in range(BATCH)]
        while True:
            yield turns

    def _question(self, row: int) -> Turn:
        if not self.after:  # without a chat format any text is its own
            return Turn(self._ids(self.before), 1.0)
        # The end of the question is the first token of what follows it; the target says it itself.
        answer = Turn(self._ids(self.after)[1:], ANSWERS[row // len(OPENERS) % len(ANSWERS)])
        return Turn(self._ids(self.before + OPENERS[row % len(OPENERS)]), CURIOSITY, answer)

    def _prompts(self, paths: Sequence[Path]) -> Iterator[list[Turn]]:
        found = list(self.held_out.drop(prompts(paths)))
        random.Random(self.seed).shuffle(found)
        asked = (self._ids(self._asked(prompt)) for prompt in found)
        judged, asked = _kept_back((ids for ids in asked if len(ids) <= ASKED), BATCH)
        yield from filter(None, [_turns(judged)])
        waiting: list[tuple[int, ...]] = []
        while more := list(islice(asked, 8 * BATCH)):  # of many, those that are alike in length
            waiting = sorted(waiting + more, key=len)
            least = BATCH if len(more) == 8 * BATCH else 1
            while len(waiting) >= least:
                part, waiting = waiting[:BATCH], waiting[BATCH:]
                yield _turns(part)
        yield from filter(None, [_turns(waiting)])

    def _chunks(self, paths: Sequence[Path]) -> Iterator[list[tuple[int, ...]]]:
        found = list(self.held_out.drop(texts(paths)))
        random.Random(self.seed).shuffle(found)
        parts = (
            ids[at : at + CHUNK]
            for ids in map(self._ids, found)
            for at in range(0, len(ids), CHUNK)
        )
        judged, rest = _kept_back((part for part in parts if len(part) >= SHORT), BATCH // 2)
        yield from filter(None, [judged])
        while batch := list(islice(rest, BATCH // 2)):
            yield batch

    def _sampled(self, turns: list[Turn], index: int) -> list[Sample]:
        found = sample(self.decoder, turns, LENGTH, self.ends, self.seed + index)
        return [s for s in found if not self.held_out.meets(self.tokenizer.decode(s.tokens))]

    @torch.no_grad()
    def _read(self, chunks: list[tuple[int, ...]]) -> list[Sample]:
        samples = []
        for first in range(0, len(chunks), READ):
            parts = [torch.tensor(chunk) for chunk in chunks[first : first + READ]]
            ids = pad_sequence(parts, batch_first=True).to(self.decoder.embedding.device)
            start = torch.zeros(len(ids), dtype=torch.int64, device=ids.device)
            hidden = self.decoder(ids, start, self.decoder.cache(*ids.shape), ids.shape[1])
            samples += [
                Sample(part, row[: len(part)]) for part, row in zip(parts, hidden, strict=True)
            ]
        return samples

    def _ids(self, text: str) -> tuple[int, ...]:
        return tuple(self.tokenizer(text, add_special_tokens=False).input_ids)

    def _asked(self, prompt: str) -> str:
        return self.before + prompt + self.after


def _kept_back(items: Iterator, most: int) -> tuple[list, Iterator]:
    """The first batch, which is to judge by, and the rest: a quarter of them at most."""
    ahead = list(islice(items, 4 * most))
    first = min(len(ahead), max(1, len(ahead) // 4))
    return ahead[:first], chain(ahead[first:], items)


def _turns(asked: Sequence[tuple[int, ...]]) -> list[Turn]:
    return [Turn(ids, ANSWERS[row % len(ANSWERS)]) for row, ids in enumerate(asked)]


def _chat(tokenizer) -> tuple[str, str]:
    """What a chat format writes before a user's words and after them."""
    if tokenizer.chat_template is None:
        return tokenizer.bos_token or tokenizer.eos_token or "\n", ""
    chat = tokenizer.apply_chat_template(
        [{"role": "user", "content": MARK}], tokenize=False, add_generation_prompt=True
    )
    before, _, after = chat.partition(MARK)
    return before, after
