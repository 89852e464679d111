"""Every pass that says so changes nothing when it is run again at once, wherever it stands in the pipeline."""

from __future__ import annotations

import shutil
from collections import Counter
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path

import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx_ir.passes import common

from bqc.contract import contract_of
from bqc.errors import BqcError
from bqc.ir.anatomy import LAYER_KEY, role
from bqc.ir.counting import RewriteLog, counting
from bqc.ir.load import load
from bqc.ir.structure import structural_hash
from bqc.ir.synthetic import canonical_bert
from bqc.opt import scheme_pipeline
from bqc.passes import names, pass_class, pass_name
from bqc.passes.plan_recipe import PlanRecipe
from bqc.pipeline import Instrument, Step, run, watching
from bqc.pipeline.trial import snapshot
from bqc.plan import Plan
from tests.support import exporters_ort, graphs
from tests.support.edits import random_graph
from tests.support.exports import EXPORTS, Export

TINY = {"layers": 2, "hidden": 16, "heads": 2, "ffn": 24}


@dataclass
class Again(Instrument):
    """Runs a copy of the model through each pass once more."""

    changed: dict[str, bool] = field(default_factory=dict)
    """Pass -> whether that changed anything."""
    stated: dict[str, bool] = field(default_factory=dict)
    _passes: list[ir.passes.InPlacePass] = field(default_factory=list)

    def before(self, one: ir.passes.InPlacePass, model: ir.Model) -> None:
        self._passes.append(one)

    def after(self, step: Step, model: ir.Model) -> None:
        one = self._passes.pop()
        copy = snapshot(model)
        with counting(RewriteLog()):
            type(one).call(one, copy)
        self.changed[step.name] = self.changed.get(step.name, False) or state(copy) != state(model)
        contract = contract_of(one)
        assert contract is not None
        self.stated[step.name] = not contract.idempotent


def state(model: ir.Model) -> tuple[object, ...]:
    """What a model is, but for names, the order of nodes and lineage."""
    labels = Counter((node.op_type, node.metadata_props.get(LAYER_KEY), role(node)) for node in model.graph)
    ordered = snapshot(model)
    common.TopologicalSortPass()(ordered)
    metadata = dict(model.metadata_props)
    return structural_hash(ordered, values=True), labels, metadata, sorted(map(str, model.functions))


def check(model: ir.Model) -> None:
    again = Again()
    with watching([again]):
        run(model, scheme_pipeline("bbct"))
    wrong = [name for name, changed in again.changed.items() if changed and not again.stated[name]]
    assert wrong == []
    assert {name for name, stated in again.stated.items() if stated} == {
        "import-canonicalize",
        "quantize-activations",
    }
    assert again.changed["quantize-activations"]


@pytest.mark.parametrize(
    "sizes", [{}, {"gelu": "tanh", "head": "none"}, {"mask": False, "token_types": False}], ids=str
)
def test_canonical_models(sizes: dict[str, object]) -> None:
    check(canonical_bert(**{**TINY, **sizes}))  # type: ignore[arg-type]


@pytest.mark.parametrize("export", [EXPORTS[0], EXPORTS[3]], ids=str)
def test_exported_models(export: Export) -> None:
    check(load(export.path))


@pytest.mark.parametrize(
    "change",
    [
        exporters_ort.EXPORTERS["ort-optimizer-0"],
        graphs.EXPORTERS["functions"],
        graphs.EXPORTERS["float-mask"],
    ],
    ids=["ort-optimizer", "functions", "float-mask"],
)
def test_odd_models(change: object, tmp_path: Path) -> None:
    path = Path(shutil.copy(Export("torchscript", 14).path, tmp_path / "model.onnx"))
    check(load(change(path)))  # type: ignore[operator]


def test_a_recipe() -> None:
    model = canonical_bert(**TINY)
    names = [pass_name(one) for one in scheme_pipeline("bbct")]
    run(model, scheme_pipeline("bbct")[: names.index("plan-bbct") + 1])
    again = Again()
    with watching([again]):
        run(model, [PlanRecipe(Plan.of(model).to_yaml())])
    assert again.changed == {"plan-recipe": False}


TYPED = [name for name in names() if not any(f.default is MISSING for f in fields(pass_class(name)))]


@given(st.integers(0, 10_000), st.sampled_from(TYPED))
@settings(max_examples=150, deadline=None, derandomize=True)
def test_random_graphs(seed: int, name: str) -> None:
    """A pass that does something to a graph which is no encoder does it all at once."""
    one, model = pass_class(name)(), ir.from_proto(random_graph(seed))
    contract = contract_of(one)
    assert contract is not None
    try:
        with counting(RewriteLog()):
            one.call(model)
    except BqcError:  # it wants an encoder, or a plan
        return
    copy = snapshot(model)
    with counting(RewriteLog()):
        one.call(copy)
    assert not contract.idempotent or state(copy) == state(model)


@given(
    st.fixed_dictionaries(
        {
            "layers": st.just(1),
            "heads": st.sampled_from((1, 2, 4)),
            "ffn": st.sampled_from((16, 24)),
            "gelu": st.sampled_from(("none", "tanh")),
            "head": st.sampled_from(("classification", "none")),
            "mask": st.booleans(),
            "token_types": st.booleans(),
        }
    )
)
@settings(max_examples=4, deadline=None, derandomize=True)
def test_random_encoders(sizes: dict[str, object]) -> None:
    check(canonical_bert(hidden=16, **sizes))  # type: ignore[arg-type]
