"""The documentation is complete, up to date and linked."""

from __future__ import annotations

import importlib.util
import re
import subprocess
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from bqc.cli.app import VERBS
from bqc.formats import __all__ as formats
from bqc.ops.registry import OPERATORS
from bqc.passes import pass_name
from bqc.schemes import scheme_class
from tests.support.op_cases import Case, Sizes, bert_cases, expected

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = sorted([*DOCS.rglob("*.md"), *ROOT.glob("*.md"), *ROOT.glob("models/*/README.md")])
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


@pytest.fixture(scope="module")
def operator_docs() -> ModuleType:
    """``tools/operator_docs.py``, which is no part of the package."""
    spec = importlib.util.spec_from_file_location("operator_docs", ROOT / "tools" / "operator_docs.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def anchors(page: Path) -> set[str]:
    """The headings of a page, as links name them."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    heads = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


def test_operator_pages_are_up_to_date(operator_docs: ModuleType) -> None:
    assert operator_docs.stale() == [], "run python tools/operator_docs.py"


@pytest.mark.parametrize("case", bert_cases(Sizes()), ids=str)
def test_documented_types_are_the_real_ones(operator_docs: ModuleType, case: Case) -> None:
    operator = OPERATORS[case.op]
    for name, array in zip(operator.inputs, case.inputs, strict=True):
        dtype, shape, _ = operator_docs.described(operator, name)
        assert array.dtype in map(np.dtype, dtype.split(" or ")), name
        assert shape[0] == "..." or array.ndim == len(shape), name
    for (name, dtype, _), array in zip(operator_docs.outputs(operator), expected(case), strict=True):
        assert array.dtype == np.dtype(dtype), name


@pytest.mark.parametrize(
    ("operator", "bits"),
    [
        ("SparseLinearGelu", "8 or 4"),
        ("SparseDequantizeTiles", "8 or 4"),
        ("BlockQuantizeValues", "8, 6 or 4"),
        ("RaggedBlockQuantizeValues", "8, 6 or 4"),
        ("BlockLinear", "8, 6, 4, 3 or 2"),
    ],
)
def test_documented_bits_are_those_of_the_family(operator_docs: ModuleType, operator: str, bits: str) -> None:
    assert f"| `bits` | `8` | bits of the codes: {bits} |" in operator_docs.page(OPERATORS[operator])


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_a_page(verb: str) -> None:
    assert (DOCS / "verbs" / f"{verb}.md").read_text(encoding="utf-8").startswith(f"# bqc {verb}\n")


def test_every_format_and_scheme_has_a_page() -> None:
    titles = {page.read_text(encoding="utf-8").splitlines()[0] for page in (DOCS / "formats").glob("*.md")}
    assert {f"# {name}" for name in formats if name != "Blocks"} <= titles
    for page in (DOCS / "schemes").glob("*.md"):
        assert scheme_class(page.stem)
    assert (DOCS / "schemes" / "bbct.md").is_file()


def test_the_pipeline_of_bbct_is_as_its_page_says() -> None:
    scheme = scheme_class("bbct")()
    names = [pass_name(one) for one in [*scheme.plan(), *scheme.lower()]]
    text = (DOCS / "schemes" / "bbct.md").read_text(encoding="utf-8")
    assert ", ".join(names) in " ".join(text.split())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    for target in LINK.findall(text):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), target
        assert not anchor or anchor in anchors(file), target


def test_every_page_is_in_the_index() -> None:
    listed = {
        (DOCS / link.partition("#")[0]).resolve()
        for link in LINK.findall((DOCS / "index.md").read_text("utf-8"))
    }
    pages = {page.resolve() for page in DOCS.rglob("*.md") if page.parent.name != "operators"}
    assert pages - listed - {DOCS / "index.md"} == set()


@pytest.mark.parametrize("script", sorted(ROOT.glob("models/**/make.sh")), ids=lambda path: path.parent.name)
def test_scripts_without_arguments_say_how_they_are_used(script: Path) -> None:
    done = subprocess.run(["sh", script], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith(f"usage: {script} ")
