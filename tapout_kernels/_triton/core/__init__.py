"""The semantics, one module each, as in ``csrc/core``: functions of values, nothing of tensors."""
