"""Prompt lookup copies what followed the latest earlier occurrence of the longest n-gram."""

from __future__ import annotations

import pytest

from tapout_engine.adapters.history import History
from tapout_engine.adapters.prompt_lookup import PromptLookupDrafter


def propose(prompt, slots=4, **settings):
    drafter = PromptLookupDrafter(100, **settings)
    drafter.prefill([prompt])
    return drafter.propose(slots).tolist()[0]


@pytest.mark.parametrize(
    ("prompt", "draft"),
    [
        ([1, 2, 3], [-1, -1, -1, -1]),
        ([7], [-1, -1, -1, -1]),
        ([5, 5], [5, -1, -1, -1]),
        ([1, 2, 3, 9, 1, 2, 3], [9, 1, 2, 3]),
        # a longer match wins over a more recent shorter one
        ([1, 2, 3, 8, 3, 6, 1, 2, 3], [8, 3, 6, 1]),
        # the most recent of equal length wins
        ([3, 8, 3, 9, 3], [9, 3, -1, -1]),
    ],
)
def test_lookup(prompt, draft):
    assert propose(prompt) == draft


def test_ngram_sizes_are_respected():
    assert propose([3, 8, 3], min_ngram=2) == [-1] * 4
    assert propose([1, 2, 3, 8, 3, 6, 1, 2, 3], max_ngram=1) == [6, 1, 2, 3]
    with pytest.raises(ValueError, match="min_ngram must be in"):
        PromptLookupDrafter(10, max_ngram=1, min_ngram=2)


def test_committed_tokens_are_found_and_rows_are_separate():
    drafter = PromptLookupDrafter(100)
    drafter.prefill([[1, 2], [1]])
    drafter.commit([[3, 1], []])
    assert drafter.propose(3).tolist() == [[2, 3, 1], [-1, -1, -1]]


def test_history_drops_what_was_not_confirmed():
    row = History([1, 2, 3])
    assert row.feed([]) == [1, 2]
    assert row.feed([3, 7, 8]) == [3, 7, 8]
    assert row.commit([7, 9]) == 1, "8 was rejected; 9 is the new last token"
    assert row.cached == [1, 2, 3, 7]
    assert row.feed([9]) == [9]


def test_history_catches_up_after_a_fully_accepted_draft():
    row = History([1])
    row.feed([1])
    row.feed([4])
    assert row.commit([4, 5, 6]) == 0
    assert row.feed([6]) == [5, 6], "5 was drafted but never fed"


def test_history_of_a_finished_row_forgets_the_draft():
    row = History([1, 2])
    row.feed([2, 5, 5])
    assert row.commit([]) == 3
    assert row.cached == [1]
    assert row.feed([2]) == [2]
