"""The command line on a tiny model directory."""

from __future__ import annotations

import io
import json
import shutil
import sys
from collections.abc import Callable
from types import SimpleNamespace

import pytest

from tapout_engine import SpeculativeDecoder
from tapout_engine.adapters.static import StaticModel
from tapout_engine.cli import main
from tapout_kernels import _library
from tapout_kernels.policies import HEDGES, POLICIES

from .conftest import run_python, tiny_llama, tiny_tokenizer


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def cli(capsys, monkeypatch) -> Callable[..., SimpleNamespace]:
    """The command line in this process: exit code and what it printed."""

    monkeypatch.setattr(_library, "CUDA_DEVICES", {"cuda"})  # nothing is emulated for users

    def run(*arguments, text_in: str = "") -> SimpleNamespace:
        monkeypatch.setattr("sys.stdin", io.StringIO(text_in))
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        printed = capsys.readouterr()
        return SimpleNamespace(returncode=code, stdout=printed.out, stderr=printed.err)

    return run


@pytest.fixture
def generate(cli, model_dir) -> Callable[..., SimpleNamespace]:
    """``generate`` on the tiny model, 20 tokens."""

    def run(*arguments, target=model_dir, **settings) -> SimpleNamespace:
        limit = ("--max-new-tokens", "20")
        return cli("generate", "--target", target, *limit, *arguments, **settings)

    return run


def test_env_reports_backends_and_versions():
    result = run_python("-m", "tapout_engine", "env")
    assert result.returncode == 0
    assert "reference" in result.stdout
    assert "transformers" in result.stdout


@pytest.mark.parametrize("policy", POLICIES)
def test_every_policy_finds_a_reward_that_suits_it(generate, policy):
    """Hedges take one drafter, or an arm of one rule for each, which default tables have not."""
    draft = "self" if policy in HEDGES else "auto"
    result = generate("--prompt", "abcabc", "--bandit", policy, "--draft", draft, "--json")
    assert result.returncode == 0, result.stderr
    assert sum(arm["pulls"] for arm in json.loads(result.stdout)["arms"]) > 0


@pytest.mark.parametrize(
    ("draft", "policy"),
    [("auto", "thompson_gaussian"), ("self", "ucb1"), ("prompt-lookup", "ucb1")],
)
def test_the_default_policy_suits_the_drafter(generate, draft, policy):
    result = generate("--prompt", "abcabc", "--draft", draft, "--json")
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["bandit"] == policy


def test_a_hedge_over_drafters(generate):
    arms = "draft/fixed_length:n=2,prompt-lookup/fixed_length:n=2"
    result = generate("--prompt", "abcabc", "--bandit", "hedge", "--arms", arms, "--json")
    assert result.returncode == 0, result.stderr
    assert sum(arm["pulls"] for arm in json.loads(result.stdout)["arms"]) > 0


def test_text_output_has_the_table(generate):
    result = generate("--prompt", "abcabc", "--compare", "--skip-layers", "1")
    assert result.returncode == 0, result.stderr
    for words in ("tokens/s", "speedup", "accepted/round", "pulls", "acceptance per slot",
                  "survival(threshold=0.6)", "equal to plain greedy decoding: yes"):  # fmt: skip
        assert words in result.stdout
    assert result.stderr == "", "no progress bar where standard error is no terminal"


@pytest.mark.parametrize("draft", ["self", "prompt-lookup", "path"])
def test_json_is_valid_and_complete(draft, generate, model_dir):
    draft = model_dir if draft == "path" else draft
    result = generate("--prompt", "abcabc", "--draft", draft, "--json", "--compare")
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout)
    assert report["result"]["tokens"] == report["plain"]["tokens"]
    assert report["divergence"] is None
    assert report["speedup"] > 0
    assert len(report["result"]["tokens"]) <= 20
    assert sum(arm["pulls"] for arm in report["arms"]) == report["result"]["rounds"]


def test_arms_may_name_the_drafters_they_are_for(generate):
    arms = "prompt-lookup|draft/svip,draft/fixed_length:n=2"
    result = generate("--prompt", "abcabc", "--draft", "auto", "--arms", arms, "--json")
    assert result.returncode == 0, result.stderr
    labels = [arm["label"] for arm in json.loads(result.stdout)["arms"]]
    assert labels == ["prompt-lookup|draft/svip(threshold=0.6)", "draft/fixed_length(n=2)"]


def test_prompts_come_from_a_file_or_standard_input(generate, tmp_path):
    file = tmp_path / "prompt.txt"
    file.write_text("abcabc")
    runs = [
        generate("--json", "--prompt", "abcabc"),
        generate("--json", "--file", file),
        generate("--json", text_in="abcabc"),
    ]
    texts = [json.loads(run.stdout)["result"]["text"] for run in runs]
    assert texts[0]
    assert texts == texts[:1] * 3


def test_seeds_and_sampling_flags(generate):
    def tokens(*flags):
        run = generate("--prompt", "abc", "--json", *flags)
        return json.loads(run.stdout)["result"]["tokens"]

    sampled = ("--temperature", "1.5", "--seed")
    assert tokens(*sampled, "1") == tokens(*sampled, "1")
    assert tokens(*sampled, "1") != tokens(*sampled, "2")
    assert tokens(*sampled, "1", "--top-k", "1") == tokens()
    assert tokens(*sampled, "1", "--rule", "greedy") == tokens()


def test_streamed_text_is_the_text(generate):
    whole = json.loads(generate("--prompt", "abc", "--json").stdout)["result"]["text"]
    streamed = generate("--prompt", "abc", "--stream").stdout
    assert streamed.startswith(whole + "\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "required: command"),
        (["nonsense"], "invalid choice"),
        (["generate", "--slots", "0"], "at least 1, got '0'"),
        (["generate", "--max-new-tokens", "x"], "at least 1, got 'x'"),
        (["generate", "--rule", "typical"], "invalid choice: 'typical'"),
        (["generate", "--skip-layers", "a"], "expected layers as 3,5,7"),
        (["generate", "--prompt", "a", "--file", "b"], "got both"),
        (["generate", "--file", "/no/such/file"], "No such file"),
        (["generate", "--prompt", " "], "must hold some text"),
        (["generate", "--prompt", "a", "--arms", "svipp"], "rule must be one of"),
        (["generate", "--prompt", "a", "--arms", "svip:h=1"], "svip takes threshold, got h"),
        (["generate", "--prompt", "a", "--arms", "n=4"], "must begin with the name of a rule"),
        (["generate", "--prompt", "a", "--backend", "abacus"], "abacus"),
        (["generate", "--prompt", "a", "--backend", "cuda"], "cuda"),
        (["generate", "--prompt", "a", "--target", "/no/model"], "model directory, got /no/model"),
    ],
)
def test_errors_are_one_line_and_exit_code_2(arguments, message, cli):
    assert_error(cli(*arguments), message)


def test_errors_that_need_a_model(generate, model_dir, tmp_path):
    prompt = ("--prompt", "abc")
    assert_error(generate(*prompt, "--draft", "/no/model"), "got /no/model")
    assert_error(generate(*prompt, "--skip-layers", "9"), "skip must be layers of")
    assert_error(generate(*prompt, "--temperature", "-1"), "temperature must be")
    other = tmp_path / "other"
    tiny_llama(seed=3, vocab=90).save_pretrained(other)
    tiny_tokenizer(90).save_pretrained(other)
    assert_error(generate(*prompt, "--draft", other), "must share the vocabulary")
    broken = tmp_path / "broken"
    shutil.copytree(model_dir, broken)
    (broken / "model.safetensors").write_bytes(b"nothing")
    assert_error(generate(*prompt, target=broken), "cannot be loaded")


@pytest.mark.parametrize("command", ["generate", "demo"])
@pytest.mark.parametrize("missing", ["transformers", "tqdm"])
def test_a_missing_package_is_named_with_what_to_install(command, missing, model_dir):
    arguments = ["--prompt", "a", "--target", str(model_dir)] if command == "generate" else []
    code = (
        f"import sys; sys.modules[{missing!r}] = None; sys.argv[1:] = {[command, *arguments]}; "
        "from tapout_engine.cli import main; sys.exit(main())"
    )
    result = run_python("-c", code)
    message = f"{missing} is not installed: pip install 'tapout-kernels[engine]'"
    assert result.returncode == 2
    assert result.stderr == f"tapout_engine: error: {message}\n"


def test_a_wrong_instruction_set_is_one_line():
    result = run_python(
        "-m", "tapout_engine", "generate", "--prompt", "a", TAPOUT_CPU_ISA="abacus"
    )  # fmt: skip
    assert_error(result, "TAPOUT_CPU_ISA must be one of")


def test_comparing_warms_both_models_up_before_the_clocks(generate, monkeypatch):
    used, warm = [], []
    forward, decode = StaticModel.forward, SpeculativeDecoder.generate

    def note_forward(self, input_ids):
        used.append(self)
        return forward(self, input_ids)

    def note_decode(self, *arguments):
        models = {self.target, self.lanes[0].drafter}
        warm.append(models <= set(used))
        return decode(self, *arguments)

    monkeypatch.setattr(StaticModel, "forward", note_forward)
    monkeypatch.setattr(SpeculativeDecoder, "generate", note_decode)
    assert generate("--prompt", "abc", "--compare").returncode == 0
    assert warm == [False, True], "a short run of everything, then the one that is timed"


def test_the_progress_bar_is_for_terminals(generate, monkeypatch):
    monkeypatch.setattr("sys.stderr", Terminal())
    generate("--prompt", "abc")
    assert "speculative: " in sys.stderr.getvalue()
    monkeypatch.setattr("sys.stderr", Terminal())
    generate("--prompt", "abc", "--json")
    assert sys.stderr.getvalue() == ""


def assert_error(result, message: str) -> None:
    assert result.returncode == 2, result.stdout + result.stderr
    assert result.stdout == ""
    assert result.stderr.startswith("tapout_engine: error: ")
    assert result.stderr.count("\n") == 1, result.stderr
    assert message in result.stderr


def test_a_loop_that_asks_no_host_answers_the_same(generate):
    options = ("--prompt", "abcdef", "--draft", "self", "--temperature", "0.4", "--json")
    runs = [generate(*options), generate(*options, "--loop", "auto")]
    results = [json.loads(run.stdout)["result"] for run in runs]
    for result in results:
        del result["times"]
    assert results[0] == results[1]
    assert len(results[0]["tokens"]) > 5
    text = generate("--prompt", "abcdef", "--loop", "eager").stdout
    assert "K 8; loop eager" in text
    assert "draft self" in text


@pytest.mark.parametrize(
    ("options", "message"),
    [(("--loop", "graph"), "mode: graph needs a GPU, got cpu"),
     (("--loop", "eager", "--tree", "eagle2"), "--loop is for chains"),
     (("--loop", "eager", "--draft", "prompt-lookup"), "must have a static cache")],
)  # fmt: skip
def test_a_loop_that_cannot_run_is_refused(generate, options, message):
    result = generate("--prompt", "abc", *options)
    assert result.returncode == 2
    assert message in result.stderr
