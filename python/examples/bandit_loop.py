"""A bandit finds the draft length by itself: selecting, rewarding, and what it has learned.

The "engine" here is a coin: each drafted token is accepted with probability 0.7.
"""

import torch

import tapout_kernels as tk

B, K, ROUNDS, ACCEPTED = 8, 8, 300, 0.7
LENGTHS = (0, 1, 3, 8)


def main() -> None:
    generator = torch.Generator().manual_seed(0)
    rules = tk.StopRules(*(("fixed_length", {"n": n}) for n in LENGTHS))
    state = tk.StopState.of(B, rules)
    bandit = tk.BanditState.create(len(rules), slots=K, policy="ucb1", reward="simple")
    rng, verdict = tk.RngState.of(range(B)), tk.Verdict.empty(B, K)
    proposal = tk.Proposal.empty(B, K)
    drafts = torch.zeros(B, K, dtype=torch.int64)

    for _ in range(ROUNDS):
        tk.bandit_select(bandit, out=state.arm)
        tk.Proposal.from_tokens(drafts, rng, rules=rules, state=state, out=proposal)
        coin = torch.rand(B, K, generator=generator) < ACCEPTED
        run = coin.long().cumprod(dim=1).sum(dim=1).int()  # accepted if all K were drafted
        verdict.num_accepted.copy_(torch.minimum(run, proposal.length))
        tk.bandit_update(bandit, state.arm, proposal, verdict, rules=rules, state=state)

    print(f"reward: accepted / {K}; every draft token is accepted with probability {ACCEPTED}")
    means = bandit.reward_sum[0] / bandit.count[0]
    for arm, (pulls, mean) in enumerate(zip(bandit.count[0].tolist(), means.tolist(), strict=True)):
        print(f"{rules.label(arm):<20} pulled {pulls:5.0f} times, mean reward {mean:.3f}")


if __name__ == "__main__":
    main()
