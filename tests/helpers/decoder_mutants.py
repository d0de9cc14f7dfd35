"""Kernels of the engine's decoder gone wrong, and the test that must notice."""

from __future__ import annotations

import torch
from engine import test_native as rows
from engine import test_native_layer as layer

from .killers import Killer, Mutant
from .mutants import Edit

F32 = torch.float32
PRODUCT = Killer(rows.test_products_are_exact_ones_rounded, size=(33, 15), dtype=F32, biased=True)
PAIRS = Killer(
    rows.test_products_are_exact_ones_rounded, size=(33, 15), dtype=torch.bfloat16, biased=True
)
ROUNDED = Killer(
    rows.test_products_of_rounded_weights_are_exact_ones_rounded, size=(33, 15), dtype=F32
)
HALVES = Killer(
    rows.test_sums_are_rounded_to_the_nearest_or_to_the_even_of_two, dtype=torch.bfloat16
)
NORM = Killer(rows.test_norms_are_exact_ones_rounded, size=33, dtype=F32, more=True)
COPIES = Killer(rows.test_rows_are_copied_from_where_they_are_to_where_they_belong, dtype=F32)
HEAD = Killer(rows.test_inputs_of_a_head_are_two_norms_side_by_side, rows=5, dtype=F32)
ZEROS = Killer(rows.test_a_norm_of_zeros_is_zero_and_of_nothing_nothing)
PLAIN, NORMS, TREES, BYTES = (
    Killer(layer.test_a_layer_is_what_pytorch_computes, name=name, dtype=F32)
    for name in ("plain", "norms", "trees", "eight bits")
)
NO_SLOT = Killer(layer.test_a_token_that_has_no_slot_is_not_stored)
GATES = Killer(layer.test_gates_of_any_size_are_bounded)

_LAYER, _AROUND = "cpu/decoder_layer.cpp", "cpu/around_attention.h"
CPU: dict[str, Mutant] = {
    "a product without its bias": Mutant(
        (Edit("cpu/linear.cpp", "add16(y, load_part16(params.bias + begin, left))", "y"),), PRODUCT
    ),
    "weights of eight bits without their scale": Mutant(
        (Edit("cpu/linear.cpp", "mul16(y, load_part16(params.scale + begin, left))", "y"),), ROUNDED
    ),
    "blocks of rows that all read the first": Mutant(
        (Edit("cpu/linear.cpp", "x += row * inputs;", "x += 0 * inputs;"),), PRODUCT
    ),
    "the first of two inputs taken twice": Mutant(
        (Edit("cpu/linear.cpp", "kWhich == 0 ? load_first16(from) : load_second16(from)",
              "load_first16(from)"),), PAIRS,
    ),
    "the rest of the rows one too early": Mutant(
        (Edit("cpu/linear.cpp", "params.rows - rest",
              "params.rows - rest - (params.rows > rest)"),), PRODUCT,
    ),
    "sums halfway between two rounded up": Mutant(
        (Edit("cpu/half.h", "0x7FFFu + (bits >> 16 & 1u)", "0x8000u"),), HALVES
    ),
    "what is added before a norm forgotten": Mutant(
        (Edit(_AROUND, "load_part16(delta + i, size - i)", "set16(0.0f)"),), NORM
    ),
    "a norm of whole vectors alone": Mutant(
        (Edit(_AROUND, "total = fmaf(to_f32(x[i]), to_f32(x[i]), total);", "total += 0.0f;"),), NORM
    ),
    "a head's inputs from the first token": Mutant(
        (Edit("cpu/head_inputs.cpp", "params.ids[row]", "params.ids[0]"),), HEAD
    ),
    "a state normed as a token": Mutant(
        (Edit("cpu/head_inputs.cpp", "params.state_norm", "params.token_norm"),), HEAD
    ),
    "a norm without its epsilon": Mutant((Edit(_AROUND, "mean + eps", "mean"),), ZEROS),
    "heads turned one way only": Mutant(
        (Edit(_AROUND, "mul16(a, part(sin + half))", "mul16(a, part(sin))"),), PLAIN
    ),
    "silu of large negative numbers over e^87": Mutant(
        (Edit(_AROUND, "return div16(own, add16(exp2_16(own, rate), set16(1.0f)));",
              "return div16(x, add16(exp2_16(own, rate), set16(1.0f)));"),), GATES,
    ),
    "every product with the scale of the first": Mutant(
        (Edit(_LAYER, "if (scale) scale += outputs;", ";"),), BYTES
    ),
    "requests with the past of the first": Mutant(
        (Edit(_LAYER, "params.past + b", "params.past"),), PLAIN
    ),
    "requests of one token each": Mutant(
        (Edit(_LAYER, "params.start[b] * size", "b * size"),), PLAIN
    ),
    "masks as wide as the request": Mutant(
        (Edit(_LAYER, "b * params.width * words", "b * own.tokens * words"),), TREES
    ),
    "keys normed as queries": Mutant(
        (Edit(_LAYER, "head < params.heads ? params.q_norm : params.k_norm", "params.q_norm"),),
        NORMS,
    ),
    "rows that source has not left as they were": Mutant(
        (Edit("cpu/copy_rows.cpp", "memset(to, 0, params.bytes);", ";"),), COPIES
    ),
    "rows copied to where they came from": Mutant(
        (Edit("cpu/copy_rows.cpp", "params.place ? params.place[i] : i",
              "params.take ? params.take[i] : i"),),
        COPIES,
    ),
    "tokens without a slot kept in the last": Mutant(
        (Edit(_LAYER, "params.slot[token]",
              "params.slot[token] < params.slots ? params.slot[token] : params.slots - 1"),),
        NO_SLOT,
    ),
}  # fmt: skip
