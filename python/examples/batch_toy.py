"""A batch whose rows accept different numbers of drafts, have different lengths and parameters."""

from tapout_engine import Controller, PlainDecoder, Request, SpeculativeDecoder
from tapout_engine.adapters.toy import ToyLM


def main() -> None:
    target, drafter = ToyLM(), ToyLM(noise=0.5)  # the drafter speaks the target's language badly
    requests = [
        Request([1], max_new_tokens=30),
        Request([2, 3, 4], max_new_tokens=20),
        Request([5] * 6, max_new_tokens=25, temperature=0.8, seed=7),
        Request([8, 9], max_new_tokens=30, temperature=1.0, top_k=10, seed=7),
    ]
    decoder = SpeculativeDecoder(target, drafter, Controller(slots=5))
    results = decoder.generate(requests)
    for row, result in enumerate(results):
        print(f"row {row}: {len(result.tokens)} tokens in {result.rounds} rounds")
        print(f"  accepted of drafted: {list(zip(result.accepted, result.drafted, strict=True))}")
    plain = PlainDecoder(target).generate(requests)
    equal = all(a.tokens == b.tokens for a, b in zip(results[:2], plain[:2], strict=True))
    print(f"the two greedy rows equal plain greedy decoding: {equal}")
    for arm in decoder.controller.report():
        print(f"{arm.label:<42} pulled {arm.pulls:3}, mean reward {arm.value:.2f}")


if __name__ == "__main__":
    main()
