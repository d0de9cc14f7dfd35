"""A thin engine on top of ``tapout_kernels``: real models, drafters, and a bandit between them.

::

    from tapout_engine import Controller, PlainDecoder, Request, SpeculativeDecoder

    decoder = SpeculativeDecoder(target, drafter, Controller(), tokenizer)
    result, = decoder.generate([Request(tokenizer.encode("Hello"))])

``target`` and ``drafter`` are whatever follows the protocols of :mod:`tapout_engine.engine`;
:mod:`tapout_engine.adapters` has Hugging Face models, prompt lookup, self-drafting and a toy.
"""

from .arms import LENGTH_ARMS, TAPOUT_ARMS, parse_arms
from .controller import ArmReport, Controller
from .decode import SpeculativeDecoder
from .depth import DepthController
from .engine import (
    AutoregressiveDrafter,
    BlockDrafter,
    Target,
    Tokenizer,
    TreeDrafter,
    TreeTarget,
)
from .errors import EngineError
from .plain_decode import PlainDecoder
from .requests import Request, Result, Times
from .summary import Summary, summarise
from .tree_decode import TreeDecoder

__all__ = [
    "LENGTH_ARMS", "TAPOUT_ARMS", "ArmReport", "AutoregressiveDrafter", "BlockDrafter",
    "Controller", "DepthController", "EngineError", "PlainDecoder", "Request", "Result",
    "SpeculativeDecoder", "Summary", "Target", "Times", "Tokenizer", "TreeDecoder", "TreeDrafter",
    "TreeTarget", "parse_arms", "summarise",
]  # fmt: skip
