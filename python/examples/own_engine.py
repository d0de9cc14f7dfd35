"""The kernels in somebody else's engine: two functions and their state, no other layer.

Replace the two embeddings by your models; every length, arm and counter stays on the device.
"""

import torch

import tapout_kernels as tk

B, K, V = 3, 5, 1000  # requests, draft slots, vocabulary
torch.manual_seed(0)
target = torch.nn.Embedding.from_pretrained(2 * torch.randn(V, V))  # yours: ids -> logits
draft = torch.nn.Embedding.from_pretrained(target.weight + torch.randn(V, V))

rules = tk.StopRules(("max_confidence", {"threshold": 0.4}))
state = tk.StopState.of(B, rules)
sampling = tk.SamplingParams.of(B, temperature=0.8, top_p=0.95)
rng = tk.RngState.of([1, 2, 3])  # one key a request
proposal, verdict = tk.Proposal.empty(B, K, V), tk.Verdict.empty(B, K)


def decode_round(last: torch.Tensor) -> torch.Tensor:
    """Up to K+1 tokens for every request, from their last tokens [B]."""
    proposal.reset(rng, rules, state)
    token = last
    for _ in range(K):  # requests that stopped do nothing
        token = tk.draft_step(draft(token), proposal, sampling, rng, rules=rules, state=state)
    logits = target(proposal.input_ids(last))  # [B, K+1, V]
    return tk.verify(logits, proposal, sampling, rng, out=verdict).last_token


def main() -> None:
    last = torch.zeros(B, dtype=torch.int64)
    sequences: list[list[int]] = [[] for _ in range(B)]
    for _ in range(4):
        last = decode_round(last)
        for request, count in enumerate(verdict.num_emitted.tolist()):
            sequences[request] += verdict.tokens[request, :count].tolist()
    for request, sequence in enumerate(sequences):
        print(f"request {request}: {len(sequence)} tokens in 4 rounds: {sequence}")


if __name__ == "__main__":
    main()
