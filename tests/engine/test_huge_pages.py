import mmap

import torch

from tapout_engine.models import huge_pages


def test_settled_tensors_are_contiguous_copies_that_do_not_overlap():
    plain = [torch.randn(3, 5).t(), torch.arange(7), torch.ones(9, dtype=torch.bfloat16)]
    settled = [huge_pages.settled(x) for x in plain]
    for x in settled:
        x += 1
    for before, after in zip(plain, settled, strict=True):
        assert torch.equal(after, before + 1)
        assert after.is_contiguous()
        assert after.data_ptr() % huge_pages.ALIGN == 0


def test_settles_more_than_a_chunk_and_nothing(monkeypatch):
    monkeypatch.setattr(huge_pages, "CHUNK", 256)
    many = torch.arange(1000)
    assert torch.equal(huge_pages.settled(many), many)
    assert huge_pages.settled(torch.empty(0, 4)).shape == (0, 4)
    assert torch.equal(huge_pages.settled(many[:8]), many[:8])


def test_a_kernel_that_has_none_gives_plain_memory(monkeypatch):
    class Refusing(mmap.mmap):
        def madvise(self, option):
            raise OSError

    monkeypatch.setattr(huge_pages.mmap, "mmap", Refusing)
    monkeypatch.setattr(huge_pages, "_rest", torch.empty(0, dtype=torch.uint8))
    assert torch.equal(huge_pages.settled(torch.arange(9)), torch.arange(9))


def test_without_huge_pages_only_the_layout_changes(monkeypatch):
    monkeypatch.setattr(huge_pages, "HERE", False)
    x = torch.randn(3, 5).t()
    settled = huge_pages.settled(x)
    assert settled.is_contiguous()
    assert torch.equal(settled, x)
