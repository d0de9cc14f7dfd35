"""Lossy rules gone wrong: what each program does instead, and the test that must notice.

``REFERENCE`` are mutants of ``tapout_kernels/reference`` (name -> check of helpers/checks.py and
edits), ``CORE`` and ``CPU`` those of the compiled library.
"""

from __future__ import annotations

import test_lossy as tests

from .killers import Killer, Mutant
from .mutants import Edit

_LOSSY = "lossy.py"
REFERENCE: dict[str, tuple[str, tuple[Edit, ...]]] = {
    "a lossy rule that accepts what the target excludes": ("drafts of lossy_ears", (
        Edit(_LOSSY, "good = good & (p_target_x > 0)", "good = good"),
    )),
    "typical whatever the entropy": ("drafts of lossy_typical", (
        Edit(_LOSSY, "(-entropy).exp()", "(-0 * entropy).exp()"),
    )),
    "typical with the larger of its limits": ("drafts of lossy_typical", (
        Edit(_LOSSY, ".clamp(max=TYPICAL_EPSILON)", ".clamp(min=TYPICAL_EPSILON)"),
    )),
    "typical that replaces from the residual": ("drafts of lossy_typical", (
        Edit(_LOSSY, "one, chosen, rule == LOSSY_EARS)", "one, chosen, True)"),
    )),
    "ears with the uncertainty of the drafted token": ("drafts of lossy_ears", (
        Edit(_LOSSY, "(1 - target.p_target[:, :slots].amax(-1))", "(1 - p_target_x)"),
    )),
    "ears that replaces from the target": ("drafts of lossy_ears", (
        Edit(_LOSSY, "one, chosen, rule == LOSSY_EARS)", "one, chosen, False)"),
    )),
    "consultant that forgets its doubt": ("drafts of lossy_consultant", (
        Edit(_LOSSY, "CONSULTANT_BETA * doubt +", "0 * doubt +"),
    )),
    "fly with a window that may pass the end": ("drafts of lossy_fly", (
        Edit(_LOSSY, "torch.nn.functional.pad(match, (0, FLY_WINDOW))",
             "torch.nn.functional.pad(match, (0, FLY_WINDOW), value=True)"),
    )),
    "fly with a window of five": ("drafts of lossy_fly", (
        Edit(_LOSSY, "FLY_THETA, FLY_WINDOW = 0.3, 6", "FLY_THETA, FLY_WINDOW = 0.3, 5"),
    )),
    "fly of a target that is sure": ("drafts of lossy_fly", (
        Edit(_LOSSY, "(entropy >= FLY_THETA * math.log(vocab))", "(entropy >= 0)"),
    )),
    "fly with the entropy in bits": ("drafts of lossy_fly", (
        Edit(_LOSSY, "FLY_THETA * math.log(vocab)", "FLY_THETA * math.log2(vocab)"),
    )),
    "adasd that goes by what was accepted alone": ("drafts of lossy_adasd", (
        Edit(_LOSSY, "(means[:, 0] + means[:, 1]) / 2", "means[:, 0]"),
    )),
    "adasd that trusts an unknown request": ("drafts of lossy_adasd", (
        Edit(_LOSSY, "/ 2, -1.0)", "/ 2, 9.0)"),
    )),
    "adasd that remembers no rejection": ("drafts of lossy_adasd", (
        Edit(_LOSSY, "& (rejected & live)[:, None]", "& (rejected & ~live)[:, None]"),
    )),
    "adasd by the divergence, not its root": ("drafts of lossy_adasd", (
        Edit(_LOSSY, "total.clamp(min=0).sqrt()", "total.clamp(min=0)"),
    )),
}  # fmt: skip

DRAFTS = {
    rule: Killer(tests.test_every_draft_is_judged_as_the_text_says, rule=rule)
    for rule in tests.LOSSY_RULES
}
CORE: dict[str, Mutant] = {
    "typical whatever the entropy": Mutant(
        (Edit("core/accept.h", "kTypicalDelta * exp(-entropy)", "kTypicalDelta"),),
        DRAFTS["lossy_typical"],
    ),
    "ears without its tolerance": Mutant(
        (Edit("core/accept.h", "kEarsBeta * (1.0 - top_prob)", "0.0 * top_prob"),),
        DRAFTS["lossy_ears"],
    ),
    "ears accepts what the target excludes": Mutant(
        (Edit("core/accept.h", "p_target > 0.0 && (uniform - tolerance) * p_draft < p_target",
              "(uniform - tolerance) * p_draft < p_target"),), DRAFTS["lossy_ears"],
    ),
    "consultant that forgets its doubt": Mutant(
        (Edit("core/accept.h", "kConsultantBeta * doubt", "0.0 * doubt"),),
        DRAFTS["lossy_consultant"],
    ),
    "fly of a target that is sure": Mutant(
        (Edit("core/accept.h", "entropy >= kFlyTheta * log(static_cast<double>(vocab))",
              "entropy >= 0.0"),), DRAFTS["lossy_fly"],
    ),
    "adasd that goes by what was accepted alone": Mutant(
        (Edit("core/accept.h", "0.5 * (memory[0] / memory[1] + memory[2] / memory[3])",
              "memory[0] / memory[1]"),), DRAFTS["lossy_adasd"],
    ),
    "a divergence of one side": Mutant(
        (Edit("core/accept.h", "(1.0 + d) * log1p(d) + (1.0 - d) * log1p(-d)",
              "2.0 * (1.0 + d) * log1p(d)"),), DRAFTS["lossy_adasd"],
    ),
}  # fmt: skip
CPU: dict[str, Mutant] = {
    "fly that does not look at what follows": Mutant(
        (Edit("cpu/lossy.h", "draft.bad || law_argmax(law) != draft.token", "draft.bad"),),
        DRAFTS["lossy_fly"],
    ),
    "fly looks ahead in the scratch of its row": Mutant(
        (Edit("cpu/lossy.h", "team.scratch += scratch_bytes(request.params.target.vocab);", ";"),),
        DRAFTS["lossy_fly"],
    ),
    "adasd that accepts what the target excludes": Mutant(
        (Edit("cpu/lossy.h", "law_probability(law, draft.token) > 0.0", "true"),),
        Killer(tests.test_at_temperature_0_all_are_greedy, rule="lossy_adasd"),
    ),
    "a lossy sample from the residual": Mutant(
        (Edit("cpu/lossy.h", "request.params.rule != Rule::kLossyEars", "false"),),
        DRAFTS["lossy_typical"],
    ),
    "an entropy of the first chunk": Mutant(
        (Edit("cpu/lossy.h", "kLn2 * law.scratch.mass[c]",
              "kLn2 * (c == 0 ? law.scratch.mass[c] : 0.0)"),),
        Killer(tests.test_an_entropy_is_that_of_the_whole_row),
    ),
}  # fmt: skip
