"""Tokens into text: characters split over tokens, spaces that depend on the token before."""

from __future__ import annotations

import pytest

from tapout_engine.text import TextStream


class Bytes:
    """A token is a byte."""

    def decode(self, tokens) -> str:
        return bytes(tokens).decode("utf-8", errors="replace")


class Words:
    """Joins with spaces, none before the first: a tail cannot be decoded by itself."""

    def decode(self, tokens) -> str:
        return " ".join(f"w{token}" for token in tokens)


def feed(stream: TextStream, tokens) -> list[str]:
    pieces = []
    for token in tokens:
        if stream.push(token):
            break
        pieces.append(stream.release())
    stream.finish()
    return [*pieces, stream.release(final=True)]


@pytest.mark.parametrize("text", ["héllo wörld", "日本語", "a🙂b", "\N{REPLACEMENT CHARACTER}x"])
def test_characters_are_whole(text):
    pieces = feed(TextStream(Bytes()), text.encode())
    assert "".join(pieces) == text
    if "\N{REPLACEMENT CHARACTER}" not in text:
        assert all("\N{REPLACEMENT CHARACTER}" not in piece for piece in pieces)


@pytest.mark.parametrize("each", [2, 3, 100])
@pytest.mark.parametrize(
    ("tokenizer", "tokens"), [(Bytes(), list("aé🙂b日".encode())), (Words(), list(range(9)))]
)
def test_text_is_the_same_however_many_tokens_come_at_once(tokenizer, tokens, each):
    rounds, silent, pieces = TextStream(tokenizer), TextStream(tokenizer), []
    for first in range(0, len(tokens), each):
        for token in tokens[first : first + each]:
            rounds.push(token)
            silent.push(token)
        pieces.append(rounds.release())
    rounds.finish()
    silent.finish()
    pieces.append(rounds.release(final=True))
    assert "".join(pieces) == rounds.text == silent.text == tokenizer.decode(tokens)


def test_nothing_is_decoded_before_somebody_asks():
    class Refusing:
        def decode(self, tokens) -> str:
            raise AssertionError(tokens)

    stream = TextStream(Refusing())
    assert not any(stream.push(token) for token in range(9))


def test_an_unfinished_character_is_text_in_the_end():
    assert "".join(feed(TextStream(Bytes()), "a🙂".encode()[:-1])).startswith("a")


def test_spaces_between_tokens_stay():
    assert "".join(feed(TextStream(Words()), [1, 2, 3, 4])) == "w1 w2 w3 w4"


@pytest.mark.parametrize(
    ("stop", "expected"),
    [
        (["END"], "abc"),
        (["cEND"], "ab"),
        (["xyz", "EN"], "abc"),
        (["ENDx", "D"], "abcEN"),
        ([], "abcENDe"),
        ([""], "abcENDe"),
        (["EE"], "abcENDe"),
    ],
)
def test_text_ends_before_the_stop_string(stop, expected):
    stream = TextStream(Bytes(), stop)
    pieces = feed(stream, b"abcENDe")
    assert "".join(pieces) == stream.text == expected


def test_nothing_that_may_begin_a_stop_string_is_released():
    stream = TextStream(Bytes(), ["END"])
    stream.push(ord("E"))
    assert stream.release() == ""
    stream.push(ord("N"))
    assert stream.release() == ""
    stream.push(ord("d"))
    assert stream.release() == "ENd"


def test_without_a_tokenizer_there_is_no_text():
    stream = TextStream(None)
    assert stream.push(3) is False
    stream.finish()
    assert stream.release(final=True) == ""
