"""What the kernels are compared with on a GPU, in the same run and over the same buffers.

Plain PyTorch, eager and compiled; and, where their sources are in a folder (never a requirement,
never committed), FlashInfer's chain kernel with the softmaxes and renormalisations it needs and
vLLM's Model Runner V2 rejection kernels with the float32 copy its sampler makes.

python bench/gpu_peers.py FOLDER   # compiles what a peer compiles on first use, says what is ready
"""

from __future__ import annotations

import importlib
import importlib.metadata
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

import baselines
import torch
from torch import Tensor

Prepared = Callable[[], object]


class Peer(NamedTuple):
    """``prepare(*inputs, **filters)`` does what an engine has done long before."""

    prepare: Callable[..., Prepared]  # the call that is timed
    read: Callable[..., tuple[Tensor, Tensor]]  # its result, as bench/baselines.py has it

    def call(self, *inputs: Tensor, **filters: float) -> tuple[Tensor, Tensor]:
        return self.read(self.prepare(*inputs, **filters)())


def plain(function: Callable[..., tuple[Tensor, Tensor]], device: str = "cuda") -> dict[str, Peer]:
    """A function of bench/baselines.py, eager and compiled."""
    functions = {"eager": function, "compile": baselines.compiled(function, device)}
    return {name: Peer(partial(partial, f), lambda result: result) for name, f in functions.items()}


def load(
    folder: Path | None, limit_s: int = 60, device: str = "cuda"
) -> tuple[dict[str, Peer], dict[str, str]]:
    """The peers that run here, and why the others do not."""
    peers, missing = {}, {}
    if folder is not None:
        sys.path.append(str(folder))
    for name, make in {"flashinfer": _flashinfer, "vllm": _vllm}.items():
        if folder is None:
            missing[name] = "its sources were not given (--peers)"
            continue
        try:
            with _limit(limit_s):
                peers[name] = make()
                _try(peers[name], device)
        except Exception as error:  # whatever another project's import or build raises
            peers.pop(name, None)
            missing[name] = f"{type(error).__name__}: {error}".splitlines()[0][:200]
    return peers, missing


def versions(names: list[str]) -> dict[str, str]:
    modules = {"flashinfer": "flashinfer-python"}
    found = {}
    for name in names:
        try:
            found[f"{name}_version"] = importlib.metadata.version(modules.get(name, name))
        except importlib.metadata.PackageNotFoundError:
            found[f"{name}_version"] = getattr(sys.modules.get(name), "__version__", "unknown")
    return found


def _try(peer: Peer, device: str) -> None:
    logits = torch.zeros(2, 3, 128, device=device)
    tokens = torch.zeros(2, 2, dtype=torch.int64, device=device)
    accepted, _ = peer.call(logits, logits[:, :2].contiguous(), tokens)
    accepted.tolist()  # an error inside a kernel shows here


@contextmanager
def _limit(seconds: int) -> Iterator[None]:
    """Raises in the main thread: a build that hangs must not take the benchmark with it."""

    def expire(*_: object) -> None:
        raise TimeoutError(f"not ready within {seconds} s")

    before = signal.signal(signal.SIGALRM, expire)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def _flashinfer() -> Peer:
    sampling = importlib.import_module("flashinfer.sampling")

    def probabilities(logits: Tensor, top_k: int = 0, top_p: float = 1.0) -> Tensor:
        probs = torch.softmax(logits, -1, dtype=torch.float32)  # one kernel, cast included
        if not top_k:
            return probs
        rows = sampling.top_k_renorm_probs(probs.flatten(0, 1), top_k)
        return sampling.top_p_renorm_probs(rows, top_p).view_as(probs)

    def prepare(target: Tensor, draft: Tensor, tokens: Tensor, **filters: float) -> Prepared:
        ids = tokens.int()

        def run() -> tuple[Tensor, Tensor, Tensor]:
            # A seed and an offset of its own: a generator could not be captured in a graph.
            return sampling.chain_speculative_sampling(
                probabilities(draft, **filters), ids, probabilities(target, **filters),
                seed=1, offset=0,
            )  # fmt: skip

        return run

    def read(result: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        tokens, _, emitted = result
        count = emitted.long()
        return count, tokens.long().gather(-1, count[:, None])[:, 0]

    return Peer(prepare, read)


def _vllm() -> Peer:
    name = "vllm.v1.worker.gpu.spec_decode.rejection_sampler_utils"
    rejection_sample = importlib.import_module(name).rejection_sample

    def prepare(target: Tensor, draft: Tensor, tokens: Tensor, **filters: float) -> Prepared:
        batch, slots = tokens.shape
        processed = _vllm_processing(batch * (slots + 1), target.device, **filters)
        ints = partial(torch.arange, dtype=torch.int32, device=target.device)
        fixed = {
            "draft_logits": _vllm_draft(draft, **filters),
            "draft_sampled": torch.nn.functional.pad(tokens, (1, 0)).flatten(),
            "cu_num_logits": ints(batch + 1) * (slots + 1),
            "pos": torch.arange(slots + 1, device=target.device).repeat(batch),
            "idx_mapping": ints(batch),
            "expanded_idx_mapping": ints(batch).repeat_interleave(slots + 1),
            "expanded_local_pos": ints(slots + 1).repeat(batch),
            "temperature": torch.ones(batch, device=target.device),
            "seed": torch.arange(batch, device=target.device),
            "num_speculative_steps": slots,
        }
        rows = target.flatten(0, 1)
        return lambda: rejection_sample(target_logits=processed(rows), **fixed)

    def read(result: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        tokens, emitted = result
        count = emitted.long() - 1
        return count, tokens.gather(-1, count[:, None])[:, 0]

    return Peer(prepare, read)


def _vllm_processing(rows: int, device: torch.device, **filters: float) -> Callable:
    """What its sampler does to the target's logits: a float32 copy, filtered in place."""
    if not filters:
        return lambda logits: logits.to(torch.float32, copy=True)
    name = "vllm.v1.sample.ops.topk_topp_sampler"
    apply = importlib.import_module(name).apply_top_k_top_p
    top_k = torch.full((rows,), filters["top_k"], dtype=torch.int32, device=device)
    top_p = torch.full((rows,), filters["top_p"], dtype=torch.float32, device=device)
    return lambda logits: apply(logits.to(torch.float32, copy=True), top_k, top_p)


def _vllm_draft(draft: Tensor, **filters: float) -> Tensor:
    """Its drafter keeps the logits it drew from: filtered while drafting, so not timed here."""
    rows = draft.shape[0] * draft.shape[1]
    kept = _vllm_processing(rows, draft.device, **filters)(draft.flatten(0, 1))
    return kept.view_as(draft) if filters else draft


def main() -> None:
    peers, missing = load(Path(sys.argv[1]), limit_s=140)
    for name, version in versions(list(peers)).items():
        print(f"{name.removesuffix('_version')} {version}: ready")
    for name, why in missing.items():
        print(f"{name}: {why}")


if __name__ == "__main__":
    main()
