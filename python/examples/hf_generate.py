"""A Hugging Face model that drafts for itself, streaming: ``hf_generate.py [model directory]``."""

import sys

from tapout_engine import Controller, Request, SpeculativeDecoder
from tapout_engine.adapters.huggingface import HFModel, HFTokenizer
from tapout_engine.adapters.self_draft import skip_layers
from tapout_engine.loading import DEFAULT_TARGET, load
from tapout_engine.skipping import middle_layers


def main(model: str = DEFAULT_TARGET) -> None:
    loaded = load(model)
    tokenizer = HFTokenizer(loaded.tokenizer)
    skipped = middle_layers(loaded.model.config.num_hidden_layers)
    decoder = SpeculativeDecoder(
        target=HFModel(loaded.model),
        drafter=HFModel(skip_layers(loaded.model, skipped)),  # shares the weights
        controller=Controller(slots=6),
        tokenizer=tokenizer,
    )
    prompt = tokenizer.encode("What is speculative decoding, in one sentence?")
    request = Request(prompt, max_new_tokens=40, temperature=0.7, seed=1, eos=loaded.eos)
    print(f"{loaded.name}, drafting without layers {skipped}:")
    (result,) = decoder.generate(
        [request], stream=lambda row, tokens, text: print(text, end="", flush=True)
    )
    print(f"\n{len(result.tokens)} tokens in {result.rounds} rounds, accepted {result.accepted}")


if __name__ == "__main__":
    main(*sys.argv[1:])
