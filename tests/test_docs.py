"""The generated pages are those of this version, and the words name what exists."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

from tapout_kernels._schema import SCHEMAS
from tapout_kernels.reference.bandit import POLICIES
from tapout_kernels.reference.stop import STOP_RULES

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"


def generator():
    spec = importlib.util.spec_from_file_location("generate", DOCS / "generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_pages_are_up_to_date():
    pages = generator().pages()
    assert {path.name for path in (DOCS / "ops").iterdir()} == set(pages)
    for name, text in pages.items():
        assert (DOCS / "ops" / name).read_text() == text, f"{name}: run `make docs`"


def test_every_operator_has_a_page_with_its_schema():
    for op, schema in SCHEMAS.items():
        text = (DOCS / "ops" / f"{op}.md").read_text()
        assert schema in text
        assert "## Raises" in text


def test_contracts_name_tests_that_exist():
    named = set(re.findall(r"`(test_\w+)`", (DOCS / "contracts.md").read_text()))
    missing = [name for name in named if not (ROOT / f"tests/{name}.py").exists()]
    assert not missing


@pytest.mark.parametrize("names", [[rule.name for rule in STOP_RULES], list(POLICIES)])
def test_algorithms_has_every_rule_and_policy(names):
    text = (DOCS / "algorithms.md").read_text()
    assert [name for name in names if f"| `{name}` |" not in text] == []


def test_links_between_pages_lead_somewhere():
    for page in [ROOT / "README.md", *DOCS.rglob("*.md")]:
        for link in re.findall(r"\]\((?!http)([^)#]+)", page.read_text()):
            assert (page.parent / link).exists(), f"{page.name}: {link}"
