"""Whole decoding on a GPU: plain, a fixed length, and TapOut at several batch sizes.

The target is drawn at random unless ``--target`` names a model, and drafts with its own layers,
most of them left out: what is accepted then says nothing of trained models, what a round costs
does. One JSON row for each way and batch size; parts of a round are host seconds, ``host_us`` what
the host spends in one, waits included.

    python bench/gpu_decode.py --out gpu.jsonl

``--loops`` adds the graph loop in every mode that can run, and a fixed length of 6 replayed back
to back; ``--draft 100m`` has another model draft, drawn at random too: next to nothing is accepted
then, and what is compared is rounds.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import torch
from harness import environment, gpu_environment

from tapout_engine import Controller, EngineError, PlainDecoder, Request, SpeculativeDecoder
from tapout_engine.adapters.models import model_of, num_layers, relative_cost, shallower
from tapout_engine.arms import TAPOUT_ARMS
from tapout_engine.graph_loop import MODES, GraphDecoder, chosen_mode
from tapout_engine.loading import load
from tapout_engine.profiling import watching
from tapout_engine.summary import summarise

# Shapes of Llama 3.2 1B, of a drafter for it, and of a model for trying this out.
SIZES = {
    "1b": {
        "vocab_size": 128256, "hidden_size": 2048, "intermediate_size": 8192,
        "num_hidden_layers": 16, "num_attention_heads": 32, "num_key_value_heads": 8,
    },
    "100m": {
        "vocab_size": 128256, "hidden_size": 512, "intermediate_size": 2048,
        "num_hidden_layers": 8, "num_attention_heads": 8, "num_key_value_heads": 4,
    },
    "tiny": {
        "vocab_size": 128, "hidden_size": 32, "intermediate_size": 64,
        "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2,
    },
}  # fmt: skip
KEPT = 2  # layers of the drafter: the first and the last
PROMPT = 64
LONG = 6  # the fixed length of a round without a host


def random_model(size: str, dtype: torch.dtype, device: str):
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(**SIZES[size], max_position_embeddings=4096, tie_word_embeddings=True)
    with torch.device(device):
        return LlamaForCausalLM(config).eval().to(dtype)


def drafter_of(target, arguments: argparse.Namespace):
    """The target's own layers, or a model of its own."""
    if arguments.draft == "layers":
        layers = num_layers(target)
        drafter = shallower(target, range(KEPT // 2, layers - KEPT // 2))
    else:
        dtype = getattr(torch, arguments.dtype)
        drafter = model_of(random_model(arguments.draft, dtype, arguments.device))
    drafter.cost = relative_cost(drafter, target)
    return drafter


def loops(target, drafter, batch: int, arguments: argparse.Namespace) -> dict[str, GraphDecoder]:
    """The graph loop in the modes that run here, and K drafts whatever they say."""

    def loop(mode: str, slots: int, arms, **policy) -> GraphDecoder:
        controller = Controller(arms, slots, device=target.device, **policy)
        capacity = PROMPT + arguments.tokens
        return GraphDecoder(
            target, drafter, controller, rows=batch, capacity=capacity, mode=mode
        )  # fmt: skip

    found = {}
    for mode in MODES[1:]:
        try:
            chosen_mode(mode, target.device)
        except EngineError as error:
            print(f"left out: {error}")
            continue
        found[f"TapOut, {mode}"] = loop(mode, arguments.slots, TAPOUT_ARMS)
    mode = "replay" if target.device.type == "cuda" else "eager"
    arms = (("fixed_length", {"n": LONG}),)
    found[f"fixed, {LONG}, {mode}"] = loop(mode, LONG, arms, policy="fixed")
    return found


def rows(model, arguments: argparse.Namespace) -> Iterator[dict]:
    target = model_of(model)
    drafter = drafter_of(target, arguments)
    fixed = (("fixed_length", {"n": 4}),)

    def speculative(arms, **policy) -> SpeculativeDecoder:
        controller = Controller(arms, arguments.slots, device=target.device, **policy)
        return SpeculativeDecoder(target, drafter, controller, early_exit=arguments.early_exit)

    for batch in arguments.batch:
        requests = [
            Request(prompt, arguments.tokens)
            for prompt in torch.randint(target.vocab_size, (batch, PROMPT)).tolist()
        ]
        decoders = {
            "plain": PlainDecoder(target),
            "fixed, 4": speculative(fixed, policy="fixed"),
            "TapOut": speculative(TAPOUT_ARMS),
        }
        if arguments.loops:
            decoders |= loops(target, drafter, batch, arguments)
        for way, decoder in decoders.items():
            decoder.generate([Request(request.prompt, 8) for request in requests])  # warm
            with watching(decoder) as watch:
                total = summarise(decoder.generate(requests))
            if way == "plain":
                plain = total.tokens_per_second
            speedup = total.tokens_per_second / plain
            host = 1e6 * watch.seconds / watch.rounds
            yield {"batch": batch, "way": way, "speedup": speedup, "host_us": host, **asdict(total)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--target", help="directory of a model (default: random weights)")
    add("--size", default="1b", choices=SIZES, help="of random weights")
    add("--batch", nargs="+", type=int, default=[1, 8, 32])
    add("--tokens", type=int, default=128)
    add("--slots", type=int, default=8)
    add("--early-exit", action="store_true", help="ask after each draft step who drafts on")
    add("--loops", action="store_true", help="also the graph loop, in every mode")
    add("--draft", default="layers", choices=("layers", "100m", "tiny"), help="of random weights")
    add("--dtype", default="bfloat16")
    add("--device", default="cuda")
    add("--out", type=Path)
    arguments = parser.parse_args()
    if arguments.target:
        loaded = load(arguments.target, arguments.dtype, device=arguments.device)
        name, model = loaded.name, loaded.model
    else:
        name = f"random weights, {arguments.size}"
        model = random_model(arguments.size, getattr(torch, arguments.dtype), arguments.device)
    machine = gpu_environment() if arguments.device.startswith("cuda") else environment()
    about = {**machine, "case": "decode", "target": name, "dtype": arguments.dtype,
             "early_exit": arguments.early_exit, "draft": arguments.draft}  # fmt: skip
    for row in rows(model, arguments):
        print(
            f"batch {row['batch']:3} {row['way']:16} {row['tokens_per_second']:9.1f} tok/s "
            f"{row['speedup']:5.2f} accepted {row['mean_accepted']:.2f} of "
            f"{row['mean_drafted']:.2f}",
            flush=True,
        )
        if arguments.out:
            with arguments.out.open("a") as file:
                print(json.dumps({**row, **about}), file=file)


if __name__ == "__main__":
    main()
