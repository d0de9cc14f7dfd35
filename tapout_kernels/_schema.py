"""Every operator's signature, once: its schema.

Operators mutate tensors they are given and return nothing; the public functions in
``tapout_kernels.ops`` allocate.  ``SCHEMAS`` feeds ``torch.library`` (:mod:`._library`);
what each tensor must look like is in :mod:`._specs`.
"""

from __future__ import annotations

SAMPLING = "Tensor? temperature, Tensor? top_k, Tensor? top_p, Tensor? min_p"
RULES = "Tensor? rule_kind, Tensor? rule_param, Tensor? arm, Tensor? memory"

SCHEMAS: dict[str, str] = {
    "row_stats": (
        f"(Tensor logits, {SAMPLING}, Tensor? token_mask, Tensor? token, Tensor(a!) stats) -> ()"
    ),
    "sample": (
        f"(Tensor logits, {SAMPLING}, Tensor? token_mask, Tensor seed, Tensor? live, "
        "Tensor? rows, int rule, Tensor(a!) rng_round, Tensor(b!) position, "
        "Tensor(c!) tokens) -> ()"
    ),
    "proposal_reset": (
        "(Tensor? max_length, Tensor? prediction, Tensor? live, Tensor? rows, Tensor? rule_kind, "
        "Tensor? rule_param, Tensor? arm, Tensor(a!)? memory, Tensor(b!) rng_round, "
        "Tensor(c!) tokens, Tensor(d!) length, Tensor(e!) out_max_length, Tensor(f!) active, "
        "Tensor(g!) out_live, Tensor(h!) round, Tensor(i!) num_active, Tensor(j!) stats, "
        "Tensor(k!) stop_reason) -> ()"
    ),
    "proposal_load": (
        f"(Tensor source, Tensor? source_length, Tensor(a!)? logits, {SAMPLING}, "
        f"Tensor? token_mask, Tensor? d2t, Tensor? t2d, Tensor? rows, {RULES}, "
        "Tensor max_length, Tensor(b!) tokens, Tensor(c!) length, Tensor(d!) active, "
        "Tensor(e!) num_active, Tensor(f!) stats, Tensor(g!) stop_reason) -> ()"
    ),
    "draft_step": (
        f"(Tensor logits, {SAMPLING}, Tensor? token_mask, Tensor? d2t, Tensor? accept_estimate, "
        f"Tensor seed, Tensor position, Tensor round, Tensor max_length, Tensor? rows, {RULES}, "
        "int rule, Tensor? logits_row, Tensor(a!) tokens, Tensor(b!) length, Tensor(c!) active, "
        "Tensor(d!) num_active, Tensor(e!)? kept_logits, Tensor(f!) stats, "
        "Tensor(g!) stop_reason, Tensor(h!) next_token) -> ()"
    ),
    "verify": (
        f"(Tensor target_logits, Tensor? row_start, {SAMPLING}, Tensor? token_mask, Tensor seed, "
        "Tensor? rows, Tensor draft_tokens, Tensor length, Tensor live, Tensor round, "
        "Tensor? draft_logits, Tensor? logits_row, Tensor? t2d, Tensor stats, int rule, "
        "bool raw_logprobs, Tensor(a!) position, Tensor(b!) tokens, Tensor(c!) num_accepted, "
        "Tensor(d!) num_emitted, Tensor(e!) last_token, Tensor(f!) status, "
        "Tensor(g!) accept_prob, Tensor(h!)? overlap, Tensor(i!)? logprobs, "
        "Tensor(j!)? lossy_memory) -> ()"
    ),
    "bandit_select": (
        "(Tensor count, Tensor reward_sum, Tensor reward_sq, Tensor tokens, Tensor cost, "
        "Tensor params, Tensor seed, Tensor? group, Tensor? live, Tensor? rows, int policy, "
        "int reward, int slots, Tensor(a!) calls, Tensor(b!) arm, Tensor(c!)? arm_prob) -> ()"
    ),
    "bandit_update": (
        "(Tensor arm, Tensor? rows, Tensor draft_tokens, Tensor length, Tensor stats, "
        "Tensor live, Tensor stop_reason, Tensor num_accepted, Tensor? overlap, Tensor status, "
        "Tensor? group, Tensor params, Tensor cost_ratio, int policy, int reward, "
        "Tensor? rule_kind, Tensor? rule_param, Tensor? arm_prob, Tensor(a!) count, "
        "Tensor(b!) reward_sum, Tensor(c!) reward_sq, Tensor(d!) tokens, Tensor(e!) cost, "
        "Tensor(f!)? memory) -> ()"
    ),
    "bandit_step": (
        "(Tensor arm, Tensor? rows, Tensor draft_tokens, Tensor length, Tensor stats, "
        "Tensor live, Tensor stop_reason, Tensor num_accepted, Tensor? overlap, Tensor status, "
        "Tensor? group, Tensor params, Tensor cost_ratio, Tensor? rule_kind, "
        "Tensor? rule_param, Tensor seed, Tensor? next_live, int policy, int reward, "
        "Tensor(a!) count, Tensor(b!) reward_sum, Tensor(c!) reward_sq, Tensor(d!) tokens, "
        "Tensor(e!) cost, Tensor(f!)? memory, Tensor(g!) calls, Tensor(h!) next_arm, "
        "Tensor(i!)? arm_prob) -> ()"
    ),
    "tree_layout": (
        "(Tensor parents, Tensor? position, Tensor(a!) size, Tensor(b!) valid, Tensor(c!) depth, "
        "Tensor(d!) position_ids, Tensor(e!) first_child, Tensor(f!) next_sibling, "
        "Tensor(g!) ancestors) -> ()"
    ),
    "tree_mask": "(Tensor ancestors, Tensor(a!) mask) -> ()",
    "tree_mask_flat": (
        "(Tensor ancestors, Tensor past, bool root, Tensor(a!) mask, Tensor(b!) written, "
        "Tensor(c!) start) -> ()"
    ),
    "tree_verify": (
        f"(Tensor target_logits, {SAMPLING}, Tensor? token_mask, Tensor seed, Tensor? rows, "
        "Tensor draft_tokens, Tensor first_child, Tensor next_sibling, Tensor valid, Tensor live, "
        "Tensor round, Tensor? draft_logits, Tensor? logits_row, Tensor? t2d, Tensor stats, "
        "int rule, Tensor(a!) position, Tensor(b!) tokens, Tensor(c!) path, "
        "Tensor(d!) num_accepted, Tensor(e!) num_emitted, Tensor(f!) last_token, "
        "Tensor(g!) status) -> ()"
    ),
    "tree_attention": (
        "(Tensor query, Tensor keys, Tensor values, Tensor past, Tensor? block_table, "
        "Tensor? tree_mask, int among, float scale, Tensor(a!) mixed) -> ()"
    ),
    "tree_expand": (
        f"(Tensor logits, {SAMPLING}, Tensor? token_mask, Tensor? d2t, Tensor seed, Tensor? rows, "
        "Tensor round, Tensor beam, Tensor child_start, Tensor? next_node, Tensor? threshold, "
        "int children, bool drawn, Tensor(a!) active, Tensor(b!) depth, Tensor(c!) tokens, "
        "Tensor(d!) parents, Tensor(e!) score, Tensor(f!)? kept_logits, Tensor(g!)? stats, "
        "Tensor(h!)? next_beam, Tensor(i!)? next_row, Tensor(j!)? next_token) -> ()"
    ),
    "tree_rerank": (
        "(Tensor tokens, Tensor parents, Tensor score, Tensor(a!) out_tokens, "
        "Tensor(b!) out_parents, Tensor(c!) node) -> ()"
    ),
    "compact_kv": (
        "(Tensor path, Tensor num_accepted, Tensor start, Tensor? block_table, Tensor(a!) cache, "
        "Tensor(b!)? length) -> ()"
    ),
}

# What the engine's decoder calls on a CPU with the native library: no public functions, and one
# kernel each.
DECODER_SCHEMAS: dict[str, str] = {
    "linear": "(Tensor x, Tensor panels, Tensor? scale, Tensor? bias, Tensor(a!) y) -> ()",
    "rms_norm": (
        "(Tensor(a!) x, Tensor? delta, Tensor weight, float eps, Tensor(b!) normed) -> ()"
    ),
    "copy_rows": "(Tensor source, Tensor? take, Tensor? place, Tensor(a!) out) -> ()",
    "head_inputs": (
        "(Tensor ids, Tensor embedding, Tensor states, Tensor token_norm, Tensor state_norm, "
        "float eps, Tensor(a!) normed) -> ()"
    ),
    "decoder_layer": (
        "(Tensor(a!) x, Tensor cos, Tensor sin, Tensor slot, Tensor start, Tensor past, "
        "Tensor? tree_mask, int among, Tensor(b!) keys, Tensor(c!) values, Tensor before, "
        "Tensor qkv, Tensor? qkv_bias, Tensor? q_norm, Tensor? k_norm, Tensor out, "
        "Tensor between, Tensor gate_up, Tensor down, Tensor? scale, int heads, float eps) -> ()"
    ),
}
