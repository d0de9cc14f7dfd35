"""What drafters learn from: the target's own words, its hidden states, and nothing held out."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tapout_engine import EngineError
from tapout_engine.models.weights import decoder_of
from tapout_engine.training import batches, data
from tapout_engine.training.batches import Batch, epoch, split
from tapout_engine.training.corpus import HeldOut
from tapout_engine.training.data import Collector, Sources
from tapout_engine.training.samples import ENOUGH, Sample, Turn, sample
from tapout_engine.training.shards import Shard, Shards

from .conftest import tiny_llama, tiny_tokenizer
from .test_training_corpus import EIGHT

END = 1
SIZE = 48
ENDS = frozenset(range(1, 14))  # often enough said for rows to end on their own


@pytest.fixture(scope="module")
def model():
    return tiny_llama(seed=2, layers=2)


@pytest.fixture(scope="module")
def decoder(model):
    return decoder_of(model)


def random_turn(seed: int, length: int, temperature: float, reply: Turn | None = None) -> Turn:
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(20, 96, (length,), generator=generator).tolist()
    return Turn(tuple(tokens), temperature, reply)


@torch.no_grad()
def hidden_of(model, tokens: torch.Tensor) -> torch.Tensor:
    return model.model(tokens[None], use_cache=False).last_hidden_state[0]


# ---- Samples ------------------------------------------------------------------------------------


@torch.no_grad()
def greedy(model, turn: Turn | None, length: int) -> tuple[list[int], bool]:
    """What :func:`sample` says at temperature 0, one text alone; and whether its turn ended."""
    tokens: list[int] = []
    while turn is not None:
        tokens += turn.tokens
        said = None
        while said not in ENDS:
            if len(tokens) >= length:
                return tokens[:length], False
            said = int(model(torch.tensor([tokens])).logits[0, -1].argmax())
            tokens.append(said)
        turn = turn.reply
    return tokens, True


def test_a_row_is_what_it_was_given_and_what_the_target_says_after(model, decoder):
    """Replies follow the end of a turn; what was fed along after the end of a row is cut."""
    turns = [
        random_turn(seed, 3 + 2 * (seed % 4), 0.0, random_turn(99, 4, 0.0) if seed % 3 else None)
        for seed in range(12)
    ]
    found, length = sample(decoder, turns, 40, ENDS, seed=0), 0
    expected = [greedy(model, turn, 40) for turn in turns]
    ended = 0
    for row, (tokens, over) in zip(found, expected, strict=True):
        length = max(length, len(row.tokens))
        if over and len(row.tokens) == len(tokens):
            ended += 1
        assert row.tokens.tolist() == tokens[: len(row.tokens)]
    for row, (tokens, _) in zip(found, expected, strict=True):
        assert len(row.tokens) == min(length, len(tokens))
    assert 12 - ended < ENOUGH * 12, "the batch ended with most of its rows"
    assert any(turn.reply and over for turn, (_, over) in zip(turns, expected, strict=True))


def test_hidden_states_are_those_of_a_fresh_forward(model, decoder):
    turns = [random_turn(seed, 2 + 5 * seed, 0.8, random_turn(7, 3, 0.0)) for seed in range(5)]
    found = sample(decoder, turns, 30, {END}, seed=3)
    for turn, row in zip(turns, found, strict=True):
        given = min(len(turn.tokens), len(row.tokens))
        assert row.tokens[:given].tolist() == list(turn.tokens[:given])
        assert row.hidden.shape == (len(row.tokens), SIZE)
        expected = hidden_of(model, row.tokens)
        torch.testing.assert_close(row.hidden, expected, rtol=1e-4, atol=1e-4)


def test_samples_depend_on_their_seed_only(decoder):
    turns = [random_turn(1, 4, 1.0)] * 4

    def tokens(seed: int) -> list[list[int]]:
        return [row.tokens.tolist() for row in sample(decoder, turns, 20, {END}, seed)]

    first = tokens(5)
    assert tokens(5) == first
    assert tokens(6) != first
    assert len({tuple(row) for row in first}) == 4, "rows of a batch have noise of their own"


def test_a_text_has_the_length_allowed_at_most(decoder):
    turns = [random_turn(1, 30, 0.0), random_turn(2, 3, 0.0)]
    found = sample(decoder, turns, 8, (), seed=0)
    assert found[0].tokens.tolist() == list(turns[0].tokens[:8])
    assert len(found[1].tokens) == 8


# ---- Shards and batches -------------------------------------------------------------------------


def numbered(lengths: list[int], first: int = 0) -> list[Sample]:
    """Texts whose every token is their number."""
    return [
        Sample(torch.full((n,), first + i), torch.full((n, 4), float(first + i)))
        for i, n in enumerate(lengths)
    ]


def test_a_shard_gives_back_its_texts(tmp_path):
    shards = Shards(tmp_path / "shards")
    written = numbered([3, 1, 5])
    assert shards.add(written, "own", 2.5) == 9
    assert shards.add(numbered([2]), "text", 1.0) == 2
    assert [path.name for path in shards.files()] == ["00000.safetensors", "00001.safetensors"]
    shard = Shard(shards.files()[0])
    assert (shard.kind, shard.seconds) == ("own", 2.5)
    for row, found in zip(written, shard.samples(), strict=True):
        assert found.tokens.dtype == torch.int64
        assert torch.equal(found.tokens, row.tokens)
        assert torch.equal(found.hidden, row.hidden.bfloat16())
    assert len(Shards(tmp_path / "shards")) == 2


@pytest.mark.parametrize(
    ("rows", "shared"),
    [([[1, 2, 3], [1, 2, 4, 4]], 2), ([[1, 2], [1, 2, 3]], 2), ([[5, 1], [6, 1]], 0)],
)
def test_what_all_texts_begin_with_is_known(tmp_path, rows, shared):
    shards = Shards(tmp_path)
    shards.add([Sample(torch.tensor(row), torch.zeros(len(row), 4)) for row in rows], "own", 0)
    assert Shard(shards.files()[0]).shared == shared


def test_padding_and_openings_are_not_taught():
    batch = Batch.of(numbered([12, 20, 9]), skip=[3, 10, 30])
    assert batch.tokens.shape == (3, 20)
    assert batch.hidden.shape == (3, 20, 4)
    taught = [row.nonzero()[:, 0].tolist() for row in batch.taught]
    assert taught == [list(range(8, 12)), list(range(10, 20)), []]
    assert batch.tokens[1].eq(1).all()
    assert batch.hidden[0, :12].eq(0).all()
    assert batch.hidden[2, :9].eq(2).all()


@pytest.fixture
def shards(tmp_path) -> Shards:
    """Thirteen files of two kinds, each text with a number of its own."""
    found, draw = Shards(tmp_path / "many"), torch.Generator().manual_seed(0)
    for index in range(13):
        lengths = torch.randint(1, 40, (5,), generator=draw).tolist()
        found.add(numbered(lengths, 5 * index), "own" if index % 3 else "text", 1.0)
    return found


def numbers(found: list[Batch]) -> list[int]:
    """Of the texts of some batches; a first token is no padding."""
    return [int(row[0]) for batch in found for row in batch.tokens]


def test_an_epoch_has_every_text_once(shards):
    found = list(epoch(shards.files(), tokens=64, seed=3))
    assert sorted(numbers(found)) == list(range(65))
    for batch in found:
        assert len(batch.tokens) == 1 or batch.tokens.numel() <= 64
        for row, taught in zip(batch.tokens, batch.taught, strict=True):
            assert not taught.any() or row[taught].eq(row[0]).all()
    again = numbers(list(epoch(shards.files(), tokens=64, seed=3)))
    assert again == numbers(found)
    assert numbers(list(epoch(shards.files(), tokens=64, seed=4))) != again


def test_texts_to_judge_by_are_not_trained_on(shards, monkeypatch):
    train, judged = split(shards)
    assert [path.name for path in shards.files() if path not in train] == [
        "00000.safetensors", "00001.safetensors"
    ]  # fmt: skip
    assert set(judged) == {"text", "own"}
    assert sorted(numbers(judged["text"])) == list(range(5))
    assert sorted(numbers(judged["own"])) == list(range(5, 10))
    monkeypatch.setattr(batches, "JUDGED", 40)
    few = split(shards)[1]["own"]
    assert 40 <= sum(int(row.ne(0).sum()) for batch in few for row in batch.tokens) < 100


def test_too_few_batches_to_train_on_are_refused(tmp_path):
    shards = Shards(tmp_path / "few")
    with pytest.raises(EngineError, match=r"train-draft: .*at least two .* got 0"):
        split(shards)
    shards.add(numbered([3]), "own", 1.0)
    with pytest.raises(EngineError, match=r"train-draft: .*at least two .* got 1"):
        split(shards)


# ---- Collecting ---------------------------------------------------------------------------------


def chatty():
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = "{% for m in messages %}<s>U{{ m.content }}</s>A{% endfor %}"
    return tokenizer


@pytest.fixture
def small(monkeypatch):
    """Small batches, and a clock on which each takes a second."""
    sizes = {"BATCH": 4, "LENGTH": 24, "ASKED": 14, "CHUNK": 10, "SHORT": 3, "READ": 2}
    for name, value in sizes.items():
        monkeypatch.setattr(data, name, value)
    ticks = iter(range(10**6))
    monkeypatch.setattr(data, "perf_counter", lambda: float(next(ticks)))


@pytest.fixture
def files(tmp_path) -> dict[str, list[Path]]:
    """Prompts for two batches and a bit, text for three and a bit; one of each is held out."""
    asked = [f"q{i}{'x' * (i % 5)}" for i in range(9)] + [EIGHT, *(30 * c for c in "stuvwxyz")]
    (tmp_path / "asked.txt").write_text("\n\n".join(asked))
    (tmp_path / "read.md").write_text("abcdefghij" * 6 + "left")
    (tmp_path / "secret.md").write_text(f"{EIGHT} " * 3)
    return {
        "prompt": [tmp_path / "asked.txt"], "text": [tmp_path / "read.md", tmp_path / "secret.md"]
    }  # fmt: skip


def collected(decoder, files, folder: Path, seconds: float, tokenizer=None) -> list[Shard]:
    sources = Sources(**files, held_out=HeldOut([EIGHT]))
    collector = Collector(decoder, tokenizer or chatty(), [END], sources, seed=5)
    shards, told = Shards(folder), []
    before = len(shards)
    collector.collect(shards, seconds, lambda *what: told.append(what))
    assert len(told) == len(shards) - before
    return [Shard(path) for path in shards.files()]


def test_kinds_take_turns_until_one_has_no_more(small, files, decoder, tmp_path):
    found = collected(decoder, files, tmp_path / "out", 12)
    kinds = [shard.kind for shard in found]
    both = ["own", "prompt", "own", "prompt", "text"]
    assert kinds == [*both, "own", "prompt", "own", "text", "own", "own", "text"]
    assert all(shard.seconds == 1 for shard in found)


def test_prompts_and_texts_are_used_once_and_held_out_ones_never(small, files, decoder, tmp_path):
    tokenizer = chatty()
    found = collected(decoder, files, tmp_path / "out", 20)
    said = {kind: [] for kind in ("own", "prompt", "text")}
    for shard in found:
        said[shard.kind] += [tokenizer.decode(row.tokens) for row in shard.samples()]
    assert all(text.startswith("<s>U") and "</s>A" in text for text in said["prompt"])
    asked = [text.removeprefix("<s>U").partition("</s>A")[0] for text in said["prompt"]]
    assert sorted(asked) == [f"q{i}{'x' * (i % 5)}" for i in range(9)]
    assert said["text"] == ["abcdefghij"] * 6 + ["left"]
    assert not any(HeldOut([EIGHT]).meets(text) for texts in said.values() for text in texts)


@pytest.mark.parametrize(("count", "first"), [(0, 0), (1, 1), (3, 1), (9, 2), (16, 4), (50, 4)])
def test_at_most_a_quarter_is_kept_back_to_judge_by(count, first):
    judged, rest = data._kept_back(iter(range(count)), 4)
    assert judged == list(range(first))
    assert list(rest) == list(range(first, count))


def test_few_prompts_teach_too(small, decoder, tmp_path):
    (tmp_path / "asked.txt").write_text("\n\n".join(f"q{i}" for i in range(4)))
    found = collected(decoder, {"prompt": [tmp_path / "asked.txt"]}, tmp_path / "out", 4)
    assert [len(shard.spans) for shard in found if shard.kind == "prompt"] == [1, 3]


def test_a_batch_that_was_dropped_whole_is_a_file_without_texts(small, decoder, tmp_path):
    shards = Shards(tmp_path)
    assert shards.add([], "text", 1.0, dropped=4) == 0
    shards.add(numbered([3, 5]), "text", 1.0)
    shards.add(numbered([4]), "text", 1.0)
    empty = Shard(shards.files()[0])
    assert (empty.spans, empty.shared, list(empty.samples()), empty.dropped) == ([], 0, [], 4)
    train, judged = split(shards)
    assert train == shards.files()[2:]
    assert sum(batch.taught.shape[0] for batch in judged["text"]) == 2


def test_own_questions_begin_as_a_user_does_and_are_answered(small, decoder, tmp_path, monkeypatch):
    monkeypatch.setattr(data, "OPENERS", ("", "Why"))
    monkeypatch.setattr(data, "LENGTH", 120)
    monkeypatch.setattr(data, "BATCH", 16)
    ends = [END, *range(20, 40)]
    tokenizer = chatty()
    collector = Collector(decoder, tokenizer, ends, Sources(), seed=1)
    collector.collect(Shards(tmp_path), 1, lambda *_: None)
    (shard,) = [Shard(path) for path in Shards(tmp_path).files()]
    answered = 0
    for row, found in enumerate(shard.samples()):
        tokens = found.tokens.tolist()
        opener = tokenizer("<s>U" + ("Why" if row % 2 else "")).input_ids
        assert tokens[: len(opener)] == opener[: len(tokens)]
        said = tokens[len(opener) :]
        at = next((i for i, token in enumerate(said) if token in ends), None)
        if at is not None and len(said) > at + 1:
            assert said[at + 1] == tokenizer("A").input_ids[0]
            answered += 1
    assert answered > 4


def test_without_a_chat_format_the_target_just_speaks(small, decoder, tmp_path):
    (shard,) = collected(decoder, {}, tmp_path, 1, tiny_tokenizer())
    assert shard.kind == "own"
    assert all(row.tokens[0] == 0 for row in shard.samples())


def test_shards_hold_the_targets_states(small, files, model, tmp_path):
    """In bf16, of a target in bf16."""
    half = copy.deepcopy(model).to(torch.bfloat16)
    for shard in collected(decoder_of(half).pack(4), files, tmp_path / "out", 5):
        for row in shard.samples():
            assert row.hidden.dtype == torch.bfloat16
            expected = hidden_of(model, row.tokens)
            found = row.hidden.float()
            # Rounding to 8 bits, a few times a layer; any other text's states are as far as 1.
            assert (found - expected).norm() < 0.1 * expected.norm()


def test_a_run_that_was_cut_off_goes_on_as_if_it_had_not_been(small, files, decoder, tmp_path):
    whole = collected(decoder, files, tmp_path / "whole", 9)
    for seconds in (2, 6, 6, 9):
        collected(decoder, files, tmp_path / "parts", seconds)
        (tmp_path / "parts/00002.partial").write_text("what a crash leaves")
    assert len(whole) == 9
    for shard in whole:
        part = Shard(tmp_path / "parts" / shard.path.name)
        assert (part.kind, part.seconds, part.spans) == (shard.kind, shard.seconds, shard.spans)
        assert load_file(part.path).keys() == load_file(shard.path).keys()
        for name, tensor in load_file(shard.path).items():
            assert torch.equal(load_file(part.path)[name], tensor), f"{part.path}: {name}"


def test_what_the_target_says_itself_is_dropped_where_it_is_held_out(small, tmp_path):
    class Told:
        """A tokenizer that reads the same held-out words out of one text only."""

        def __init__(self):
            self.tokenizer, self.texts = chatty(), 0

        def __getattr__(self, name):
            return getattr(self.tokenizer, name)

        def __call__(self, *arguments, **settings):
            return self.tokenizer(*arguments, **settings)

        def decode(self, tokens):
            self.texts += 1
            return f"and {EIGHT}" if self.texts == 2 else "something else"

    decoder = decoder_of(tiny_llama(seed=2, layers=1))
    held_out = HeldOut([EIGHT])
    collector = Collector(decoder, Told(), [END], Sources(held_out=held_out))
    collector.collect(Shards(tmp_path), 1, lambda *_: None)
    (path,) = Shards(tmp_path).files()
    assert len(list(Shard(path).samples())) == 3
    assert Shard(path).dropped == 1
