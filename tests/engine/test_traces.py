"""What is recorded is what live decoding sees, and files that say anything else are refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from tapout_engine import Controller, EngineError, PlainDecoder, Request, SpeculativeDecoder
from tapout_engine.adapters.head import HeadDrafter
from tapout_engine.adapters.prompt_lookup import PromptLookupDrafter
from tapout_engine.adapters.static import StaticModel
from tapout_engine.adapters.toy import ToyLM
from tapout_engine.models.weights import decoder_of
from tapout_engine.traces import Trace, load_trace, save_trace
from tapout_engine.traces.costs import measure
from tapout_engine.traces.recorder import Recorder

from .conftest import tiny_llama
from .recording import record
from .test_head import guessing

VOCAB, SLOTS = 6, 4


def toys() -> dict:
    return {"draft": ToyLM(VOCAB, noise=0.6), "prompt-lookup": PromptLookupDrafter(VOCAB)}


def requests(temperature: float = 0.0, eos: tuple[int, ...] = ()) -> list[Request]:
    prompts = ([1, 2, 3, 1, 2, 3], [4, 4], [5, 1, 0], [2] * 7)
    return [
        Request(prompt, 20 + 5 * i, temperature, seed=3, eos=eos)
        for i, prompt in enumerate(prompts)
    ]


@pytest.fixture(scope="module")
def trace() -> Trace:
    recorder = Recorder(ToyLM(VOCAB), toys(), SLOTS)
    return record(recorder, requests(), ["a", "b", "a", "b"])


@pytest.mark.parametrize(("rule", "temperature"), [("greedy", 0.0), ("gumbel", 1.1)])
def test_the_tokens_are_those_of_plain_decoding(rule, temperature):
    asked = requests(temperature, eos=(0,))
    found = record(Recorder(ToyLM(VOCAB), toys(), SLOTS, rule), asked)
    plain = PlainDecoder(ToyLM(VOCAB), rule=rule)
    expected = [plain.generate([request])[0] for request in asked]
    ends = np.split(found.tokens, found.start[1:-1])
    assert [part.tolist() for part in ends] == [result.tokens for result in expected]
    assert found.key.tolist() == [result.key for result in expected]
    assert {result.finish_reason for result in expected} >= {"eos"}
    first = [len(request.prompt) for request in asked]
    assert found.position[found.start[:-1]].tolist() == first


def test_drafts_are_accepted_beyond_the_end():
    """What live decoding verifies past an end of sequence teaches the bandit: it is recorded."""
    asked = requests(eos=(0,))
    found = record(Recorder(ToyLM(VOCAB), {"same": ToyLM(VOCAB)}, SLOTS), asked)
    assert (found.accepted == SLOTS).all(), "a drafter that is the target is always right"
    longer = record(Recorder(ToyLM(VOCAB), {"same": ToyLM(VOCAB)}, SLOTS), requests())
    assert found.positions < longer.positions


def test_batches_record_what_requests_alone_do():
    def recorded(batch: int) -> Trace:
        recorder = Recorder(ToyLM(VOCAB), toys(), SLOTS, "gumbel")
        return record(recorder, requests(0.9, eos=(1,)), batch=batch)

    alone, together = recorded(1), recorded(3)
    for name in ("start", "key", "tokens", "budget", "drafts", "offered", "accepted", "stats"):
        np.testing.assert_array_equal(getattr(alone, name), getattr(together, name), name)


def test_what_has_ended_makes_room():
    """Requests that end early are replaced, and what is recorded does not depend on it."""
    asked = [Request([1 + i % 4, 2], 12 if i % 3 else 60, 0.9, seed=4) for i in range(12)]
    target, steps = ToyLM(VOCAB), []
    original = target.forward
    target.forward = lambda ids: (steps.append(len(ids)), original(ids))[1]
    recorder = Recorder(target, toys(), SLOTS, "gumbel")
    found = record(recorder, asked, batch=4)
    alone = record(Recorder(ToyLM(VOCAB), toys(), SLOTS, "gumbel"), asked)
    for name in ("start", "key", "tokens", "budget", "drafts", "offered", "accepted", "stats"):
        np.testing.assert_array_equal(getattr(alone, name), getattr(found, name), name)
    needed = sum(request.max_new_tokens + SLOTS - 1 for request in asked)
    assert needed <= sum(steps) < 1.5 * needed, "groups that wait for their longest need 2.16"


# ---- as in live decoding ------------------------------------------------------------------------


def llama_setup() -> tuple[StaticModel, dict]:
    """A target, a head that guesses it, itself without a layer, and prompt lookup."""
    model = tiny_llama(seed=1, layers=2, positions=1024)
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight *= 0.15
            layer.mlp.down_proj.weight *= 0.15
    target = StaticModel(decoder_of(model))
    drafters = {
        "head": HeadDrafter(guessing(target.decoder), target),
        "self": StaticModel(target.decoder.without([1])),
        "prompt-lookup": PromptLookupDrafter(target.vocab_size),
    }
    return target, drafters


class Watched(SpeculativeDecoder):
    """Remembers every draft: position, drafter, tokens, statistics."""

    def round(self, last, live, budget, room):
        position = int(self.rng.position)
        result = super().round(last, live, budget, room)
        for lane in self.drafted:
            if lane.proposal.live.any():
                n = int(lane.proposal.length)
                tokens, stats = lane.proposal.tokens[0, :n], lane.proposal.stats[0, :n]
                self.seen.append((position, lane.index, tokens.clone(), stats.clone()))
        return result


TURNS = tuple(
    ("fixed_length", {"n": n}, names)
    for n, names in ((4, ("head",)), (1, ("head",)), (3, ("self",)), (0, ("head",)),
                     (2, ("prompt-lookup", "head")), (3, ("head",)), (4, ("prompt-lookup", "self")))
)  # fmt: skip


@pytest.mark.parametrize(("rule", "temperature"), [("greedy", 0.0), ("gumbel", 0.7)])
def test_drafters_see_what_they_see_in_live_decoding(rule, temperature):
    """Also where several tokens were confirmed at once, or others drafted in between."""
    generator = torch.Generator().manual_seed(5)
    prompt = torch.randint(2, 96, (23,), generator=generator).tolist()
    request = Request(prompt, 60, temperature, seed=9)
    found = record(Recorder(*llama_setup(), SLOTS, rule), [request])
    decoder = Watched(
        *llama_setup(), Controller(TURNS, SLOTS, "epsilon_greedy", epsilon=1.0), rule=rule
    )
    decoder.seen = []
    result = decoder.generate([request])[0]
    assert found.tokens.tolist() == result.tokens
    assert set(result.arms) == set(range(len(TURNS)))
    assert max(result.accepted) > 1, "nothing is confirmed at once"
    accepted = iter(result.accepted)
    for position, lane, tokens, stats in decoder.seen:
        p, n = position - len(prompt), len(tokens)
        assert found.drafts[p, lane, :n].tolist() == tokens.tolist()
        # Forwards of other widths round differently; log-probabilities of a rare token most.
        np.testing.assert_allclose(found.stats[p, lane, :n], stats, rtol=1e-3, atol=1e-4)
        emitted = min(found.accepted[p, lane], n)
        assert min(emitted, found.positions - p) == next(accepted)


# ---- files --------------------------------------------------------------------------------------


def test_a_file_is_read_as_it_was_written(trace, tmp_path):
    save_trace(trace, tmp_path / "a.safetensors")
    read = load_trace(tmp_path / "a.safetensors")
    assert read.meta == trace.meta
    for name in ("start", "domain", "key", "tokens", "drafts", "stats", "accepted", "budget"):
        np.testing.assert_array_equal(getattr(read, name), getattr(trace, name))
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]


WRONG = [
    ({"accepted": lambda a: a + 1}, "accepted must be the number of drafts that are"),
    ({"tokens": lambda a: (a + 1) % VOCAB}, "accepted must be the number"),
    ({"tokens": lambda a: a.astype(np.int64)}, "tokens must be int32, got int64"),
    ({"stats": lambda a: a[:, :, :2]}, r"stats must be \[\d+, 2, 4, 8\], got \[\d+, 2, 2, 8\]"),
    ({"stats": lambda a: a * np.nan}, "stats must be finite"),
    ({"stats": lambda a: a + 7}, r"stats must be .*probabilities in \[0, 1\]"),
    ({"start": lambda a: a[::-1].copy()}, "start must be rising from 0 to"),
    ({"start": lambda a: a[:-1]}, r"start must be \[5\], got \[4\]"),
    ({"budget": lambda a: a + 9}, r"budget must be in \[0, 4\]"),
    ({"offered": lambda a: a * 0}, "drafts must be ids where offered"),
    ({"domain": lambda a: a + 5}, r"domain must be in \[0, 1\], got \[5, 6\]"),
    ({"prompt_length": lambda a: a * 0}, "prompt_length must be in"),
]


@pytest.mark.parametrize(("changes", "message"), WRONG)
def test_a_file_that_contradicts_itself_is_refused(trace, tmp_path, changes, message):
    arrays = {name: change(getattr(trace, name)) for name, change in changes.items()}
    save_trace(replace(trace, **arrays), tmp_path / "a.safetensors")
    with pytest.raises(EngineError, match=rf"^trace: .*a\.safetensors: {message}"):
        load_trace(tmp_path / "a.safetensors")


def rewritten(trace, tmp_path, without: str = "", **metadata: str):
    path = tmp_path / "a.safetensors"
    save_trace(trace, path)
    with safe_open(path, "numpy") as file:
        about = file.metadata() | metadata
    arrays = {name: array for name, array in load_file(path).items() if name != without}
    save_file(arrays, path, about)
    return path


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"without": "stats"}, "tensors must be accepted, .*stats.*, got"),
        ({"format": "other"}, "format must be 'tapout-trace', version 1, got 'other', version 1"),
        ({"version": "2"}, "version 1, got 'tapout-trace', version 2"),
        ({"meta": "{"}, "meta must be an object with target, .*, got {"),
        ({"meta": "{}"}, "meta must be an object with"),
    ],
)
def test_other_files_are_refused(trace, tmp_path, changes, message):
    with pytest.raises(EngineError, match=message):
        load_trace(rewritten(trace, tmp_path, **changes))


@pytest.mark.parametrize("name", ["always", "cost_ratio", "verify_seconds", "draft_seconds"])
def test_lists_of_the_metadata_have_their_length(trace, tmp_path, name):
    short = replace(trace.meta, **{name: getattr(trace.meta, name)[:-1]})
    save_trace(replace(trace, meta=short), tmp_path / "a.safetensors")
    with pytest.raises(EngineError, match=f"meta: {name} must be a list of"):
        load_trace(tmp_path / "a.safetensors")


def test_a_file_cut_off_is_refused(trace, tmp_path):
    path = tmp_path / "a.safetensors"
    save_trace(trace, path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(EngineError, match=r"trace: .*a\.safetensors cannot be read"):
        load_trace(path)


# ---- the recorder -------------------------------------------------------------------------------


def test_rules_whose_output_depends_on_the_draft_are_refused():
    with pytest.raises(EngineError, match="rule must be greedy or gumbel, got token"):
        Recorder(ToyLM(VOCAB), toys(), SLOTS, "token")


def test_logits_without_a_law_are_an_error():
    broken = ToyLM(VOCAB)
    broken.table = broken.table * float("nan")
    with pytest.raises(EngineError, match="logits of broken hold NaN"):
        record(Recorder(ToyLM(VOCAB), {"broken": broken}, SLOTS), requests()[:1])
    with pytest.raises(EngineError, match="the target's logits hold NaN"):
        record(Recorder(broken, toys(), SLOTS), requests()[:1])


def test_drafts_end_where_the_models_do():
    """No more is recorded than the models can read; budgets are those of live decoding."""
    target = ToyLM(VOCAB)
    target.max_length = 20
    found = record(Recorder(target, {"same": ToyLM(VOCAB)}, SLOTS), [Request([1, 2, 3], 99)])
    assert found.positions == 17
    assert found.budget.tolist() == [4] * 13 + [3, 2, 1, 0]
    assert (found.offered[:, 0] >= found.budget).all()
    assert (found.accepted[:, 0] >= found.budget).all()


def test_costs_are_measured_for_every_part():
    recorder = Recorder(*llama_setup(), SLOTS)
    found = measure(recorder, list(range(2, 60)))
    assert len(found["verify_seconds"]) == SLOTS + 1
    assert min(found["verify_seconds"]) > 0
    head, shallow, lookup = found["draft_seconds"]
    assert 0 < lookup < shallow
    assert head > 0
    assert found["catch_up_seconds"][2] == 0
    assert all(seconds < 0.1 for seconds in found["catch_up_seconds"])
    with pytest.raises(EngineError, match="more than 8 tokens"):
        measure(recorder, [2, 3])
