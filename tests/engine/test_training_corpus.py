"""Texts and prompts to train on, and what is kept out of them."""

from __future__ import annotations

import gzip
import json

import pytest

from tapout_engine import EngineError
from tapout_engine.training.corpus import HeldOut, function_heads, prompts, texts

EIGHT = "one two three four five six seven eight"
HEAD = '''\
def area(width, height):
    """The area of a rectangle, by its width and its height."""
'''
SOURCE = f'''\
import math
\f
{HEAD}    return width * height

def short():
    """Too short."""
    return 1

def bare(): return math.pi

class Shape:
    @property
    def inner(self):
        """A method of a class is a function too, if it is documented."""
        return 1

    def declared(self):
        """Nothing follows this docstring, so there is nothing to write."""
'''


def test_prompts_out_of_python_are_documented_heads():
    found = list(function_heads(SOURCE))
    assert len(found) == 2
    assert found[0] == HEAD
    assert found[1].startswith("def inner(self):\n    " + '"""A method')
    assert list(function_heads("def broken(:")) == []


def test_prompts_come_from_lines_paragraphs_and_functions(tmp_path):
    lines = [{"prompt": "one\u2028line"}, {"turns": ["two", "not this"]}]
    text = "\n".join(json.dumps(line, ensure_ascii=False) for line in lines) + "\n\n"
    (tmp_path / "a.jsonl").write_text(text)
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(text.encode()))
    (tmp_path / "c.txt").write_text("three\nmore\n \n\nfour\n")
    (tmp_path / "d.py").write_text(SOURCE)
    (tmp_path / "e.csv").write_text("not,read")
    asked = ["one\u2028line", "two"]
    found = list(prompts([tmp_path]))
    assert found[:6] == [*asked, *asked, "three\nmore", "four"]
    assert found[6:] == list(function_heads(SOURCE))
    assert list(prompts([tmp_path / "b.jsonl.gz"])) == asked


@pytest.mark.parametrize("line", ['{"text": "x"}', '{"prompt"', "7", '{"turns": []}'])
def test_lines_that_hold_no_prompt_are_named(tmp_path, line):
    path = tmp_path / "a.jsonl"
    path.write_text('{"prompt": "fine"}\n' + line + "\n")
    with pytest.raises(EngineError, match=r"train-draft: .*a\.jsonl, line 2: expected an object"):
        list(prompts([path]))


def test_texts_are_read_in_the_same_order_always(tmp_path):
    (tmp_path / "sub").mkdir()
    for name, text in (("z.md", "last"), ("a.txt", "first"), ("sub/b.py", "middle"), ("x.c", "no")):
        (tmp_path / name).write_text(text)
    (tmp_path / "bad.rst").write_bytes(b"caf\xe9")
    assert list(texts([tmp_path])) == ["first", "caf\ufffd", "middle", "last"]
    assert list(texts([tmp_path / "z.md", tmp_path / "a.txt"])) == ["last", "first"]


@pytest.mark.parametrize("read", [texts, prompts, HeldOut.of])
def test_a_path_that_cannot_be_read_is_named(tmp_path, read):
    (tmp_path / "a.csv").write_text("x")
    for path in (tmp_path / "a.csv", tmp_path / "none.txt"):
        with pytest.raises(
            EngineError, match=f"train-draft: expected a folder .*got .*{path.name}"
        ):
            list(read([path]) or ())


def test_eight_words_in_a_row_are_one_too_many():
    held_out = HeldOut([EIGHT + " nine", "short one"])
    assert held_out.meets("So: One, two -- THREE four five six seven eight!")
    assert held_out.meets("two three four five six seven eight nine")
    assert not held_out.meets("one two three four five six seven and eight")
    assert not held_out.meets("short one")
    assert not HeldOut([]).meets(EIGHT)
    assert list(held_out.drop(["a", EIGHT, "b", EIGHT])) == ["a", "b"]
    assert held_out.dropped == 2


def test_every_text_of_a_held_out_line_counts(tmp_path):
    def words(stem: str) -> str:
        return " ".join(f"{stem}{i}" for i in range(9))

    line = {"id": 3, "turns": [words("a"), words("b")], "answer": {"text": words("c")}}
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(json.dumps(line).encode()))
    (tmp_path / "b.txt").write_text(words("d"))
    held_out = HeldOut.of([tmp_path], words("e"))
    assert [stem for stem in "abcdef" if held_out.meets(words(stem))] == list("abcde")
