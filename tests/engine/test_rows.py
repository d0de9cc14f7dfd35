"""How requests end: budget, EOS, stop strings, streaming, and rows that go wrong."""

from __future__ import annotations

import json

import pytest
import torch

from tapout_engine import (
    Controller,
    EngineError,
    PlainDecoder,
    Request,
    SpeculativeDecoder,
    summarise,
)
from tapout_engine.adapters.toy import ToyLM

FIXED_5 = (("fixed_length", {"n": 5}),)


class Letters:
    """Token i is a letter, some tokens are two; 60 and above are special."""

    def decode(self, tokens) -> str:
        return "".join(self.letter(token) for token in tokens if token < 60)

    def letter(self, token: int) -> str:
        return chr(97 + token % 26) * (2 if token >= 50 else 1)


def perfect(**settings) -> SpeculativeDecoder:
    """Every draft is accepted: rounds of 6 tokens."""
    return SpeculativeDecoder(ToyLM(), ToyLM(), Controller(FIXED_5, slots=5), Letters(), **settings)


def collect(pieces: list[str]):
    return lambda row, tokens, text: pieces.append(text)


def plain(request: Request):
    return PlainDecoder(ToyLM(), Letters()).generate([request])[0]


@pytest.mark.parametrize("limit", [1, 2, 5, 6, 7, 12, 13])
def test_max_new_tokens_is_exact(limit):
    result = perfect().generate([Request([3], limit)])[0]
    assert result.tokens == plain(Request([3], 40)).tokens[:limit]
    assert result.finish_reason == "length"
    assert max(result.drafted) <= limit - 1


def test_eos_inside_an_accepted_block_cuts_it():
    full = plain(Request([3], 40)).tokens
    at = next(i for i in range(7, 11) if full[i] not in full[:i])
    result = perfect().generate([Request([3], 40, eos=(full[at],))])[0]
    assert result.tokens == full[: at + 1]
    assert result.finish_reason == "eos"
    assert result.drafted[-1] == 5, "the block went on past the end of sequence"
    assert result.accepted == [5, at - 5], "drafts that are not in the tokens do not count"
    assert result.text == Letters().decode(full[:at])


def test_rows_that_end_stop_while_others_go_on():
    full = plain(Request([3], 40)).tokens
    results = perfect().generate([Request([3], 40, eos=(full[0],)), Request([3], 40)])
    assert results[0].tokens == full[:1]
    assert results[0].rounds == 1
    assert results[1].tokens == full
    assert results[1].rounds == 7


@pytest.mark.parametrize("at", range(2, 16))
@pytest.mark.parametrize("length", [1, 2, 5])
def test_stop_string_across_tokens_and_blocks(at, length):
    full = plain(Request([3], 40))
    stop = full.text[at : at + length]
    expected = full.text[: full.text.index(stop)]
    pieces = []
    result = perfect().generate(
        [Request([3], 40, stop=[stop])], lambda row, tokens, text: pieces.append(text)
    )[0]
    assert result.text == expected
    assert "".join(pieces) == expected
    assert result.finish_reason == "stop"
    # The token that completed the stop string is the last one kept.
    assert stop in Letters().decode(result.tokens)
    assert stop not in Letters().decode(result.tokens[:-1])
    assert result.tokens == plain(Request([3], 40, stop=[stop])).tokens


def test_a_stop_string_that_never_comes_loses_no_text():
    full = plain(Request([3], 40))
    never = full.text[-3:] + "?"
    pieces = []
    result = perfect().generate(
        [Request([3], 40, stop=[never])], lambda row, tokens, text: pieces.append(text)
    )[0]
    assert result.text == full.text == "".join(pieces)


def test_streaming_is_in_order_and_complete_for_every_row():
    events = []
    batch = [Request([i], 10 + 7 * i) for i in range(3)]
    drafter = ToyLM(noise=0.6)
    decoder = SpeculativeDecoder(ToyLM(), drafter, Controller(), Letters())
    results = decoder.generate(batch, lambda row, tokens, text: events.append((row, tokens, text)))
    for row, result in enumerate(results):
        mine = [event for event in events if event[0] == row]
        assert [t for _, tokens, _ in mine for t in tokens] == result.tokens
        assert "".join(text for _, _, text in mine) == result.text
        assert len(mine) == result.rounds
    rows = [row for row, _, _ in events]
    assert rows[:6] == [0, 1, 2, 0, 1, 2], "round by round, rows in order"


def test_result_counts_what_happened():
    result = SpeculativeDecoder(ToyLM(), ToyLM(noise=0.6), Controller(slots=4), Letters()).generate(
        [Request([5], 30)]
    )[0]
    assert len(result.tokens) == sum(result.accepted) + result.rounds == 30
    assert all(0 <= a <= d <= 4 for a, d in zip(result.accepted, result.drafted, strict=True))
    assert set(result.stop_reasons) <= {"rule", "max_length"}
    parts = result.times.to_dict()
    total = parts.pop("total")
    assert total == pytest.approx(sum(parts.values()), rel=1e-6)
    assert all(seconds >= 0 for seconds in parts.values())
    assert json.loads(json.dumps(result.to_dict()))["rounds"] == result.rounds


def test_summary_counts_a_shared_batch_time_once():
    results = perfect().generate([Request([3], 12), Request([4], 12)])
    summary = summarise(results)
    assert summary.tokens == 24
    assert summary.seconds == results[0].times.total
    assert summary.acceptance == [1.0] * 5
    assert summary.mean_accepted == 5.0


class Broken(ToyLM):
    """Row 1's logits are spoiled from its n-th forward on."""

    def __init__(self, spoil: float, after: int):
        super().__init__()
        self.spoil, self.after, self.calls = spoil, after, 0

    def forward(self, input_ids):
        logits = super().forward(input_ids).clone()
        self.calls += 1
        if self.calls > self.after:
            logits[1] = self.spoil
        return logits


@pytest.mark.parametrize(
    ("spoil", "message"), [(float("nan"), "NaN"), (float("-inf"), "-inf"), (float("inf"), "+inf")]
)
@pytest.mark.parametrize("decode", ["plain", "speculative"])
def test_a_bad_target_row_ends_with_an_error_and_the_others_go_on(spoil, message, decode):
    target = Broken(spoil, after=2)
    decoder = (
        PlainDecoder(target)
        if decode == "plain"
        else SpeculativeDecoder(target, ToyLM(), Controller(FIXED_5, slots=5))
    )
    good, bad = decoder.generate([Request([3], 30), Request([4], 30)])
    assert bad.finish_reason == "error"
    assert message in bad.error
    assert len(bad.tokens) == (2 if decode == "plain" else 12)
    assert good.tokens == plain(Request([3], 30)).tokens


class NanDrafter(ToyLM):
    """Loses its mind at its third step of every round."""

    def step(self, token):
        logits = super().step(token).clone()
        self.steps = getattr(self, "steps", 0) + 1
        return logits.fill_(float("nan")) if self.steps % 3 == 0 else logits


def test_bad_draft_logits_end_the_draft_and_are_reported():
    decoder = SpeculativeDecoder(ToyLM(), NanDrafter(), Controller(FIXED_5, slots=5))
    result = decoder.generate([Request([3], 30)])[0]
    assert result.tokens == plain(Request([3], 30)).tokens
    assert "bad_logits" in result.stop_reasons
    assert max(result.drafted) == 2


class WildDrafter:
    """Proposes a token that does not exist."""

    vocab_size = 64

    def prefill(self, prompts):
        self.batch = len(prompts)

    def commit(self, emitted):
        pass

    def propose(self, slots):
        return torch.full((self.batch, slots), 64)


def test_an_impossible_draft_ends_the_row_with_an_error():
    decoder = SpeculativeDecoder(ToyLM(), WildDrafter(), Controller(FIXED_5, slots=5))
    result = decoder.generate([Request([3], 30)])[0]
    assert result.finish_reason == "error"
    assert "outside the vocabulary" in result.error
    assert result.tokens == plain(Request([3], 1)).tokens, "what was emitted is the target's own"


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (Request([], 5), "prompt must hold at least one token"),
        (Request([64], 5), r"outside \[0, 64\)"),
        (Request([-1], 5), r"outside \[0, 64\)"),
        (Request([1], 0), "max_new_tokens must be at least 1, got 0"),
        (Request([1], 5, temperature=-1.0), "temperature must be at least 0"),
        (Request([1], 5, temperature=float("nan")), "temperature must be at least 0"),
        (Request([1], 5, top_k=-1), r"top_k must be an integer in \[0, 2\*\*31\), got -1"),
        (Request([1], 5, top_k=2**31), "top_k must be an integer"),
        (Request([1], 5, top_k=2.0), "top_k must be an integer"),
        (Request([1], 5, top_p=0.0), r"top_p must be in \(0, 1\], got 0.0"),
        (Request([1], 5, top_p=1.01), "top_p must be in"),
        (Request([1], 5, top_p=float("nan")), "top_p must be in"),
        (Request([1], 5, seed=2**64), "seed must fit 64 bits"),
    ],
)
def test_requests_that_cannot_be_decoded_are_refused(request_, message):
    with pytest.raises(EngineError, match=message):
        perfect().generate([Request([1], 5), request_])


def test_stop_strings_need_a_tokenizer():
    with pytest.raises(EngineError, match="need a decoder with a tokenizer"):
        PlainDecoder(ToyLM()).generate([Request([1], 5, stop=["x"])])


def test_no_requests_is_an_error():
    with pytest.raises(EngineError, match="at least one request"):
        perfect().generate([])
