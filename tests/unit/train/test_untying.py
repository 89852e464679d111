"""Weights that happen to be equal are stored once by exporters, and are trained each for itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

torch = pytest.importorskip("torch")

from bqc.errors import BqcError  # noqa: E402
from bqc.ir import import_model  # noqa: E402
from bqc.ir.anatomy import label  # noqa: E402
from bqc.ir.text import from_text  # noqa: E402
from bqc.train import module  # noqa: E402
from bqc.train.prepared import prepare  # noqa: E402
from bqc.train.untying import untie  # noqa: E402
from tests.support import families  # noqa: E402
from tests.support.exports import batches, session  # noqa: E402
from tests.support.families import EXPORTERS, Cell, network_of  # noqa: E402

FAMILIES = ("bert", "albert")


def fresh(family: str) -> Cell:
    """A cell of its own: the files of others have drawn weights."""
    return Cell(family, "classification", changes=(("initializer_range", 0.03),))


@pytest.fixture
def as_transformers_makes_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(families, "draw_weights", lambda network: None)


def feeds() -> dict[str, torch.Tensor]:
    found = next(iter(batches({"input_ids", "attention_mask", "token_type_ids"})))
    return {name: torch.from_numpy(value) for name, value in found.items()}


def gradients(network: Any, logits: torch.Tensor) -> list[float]:
    """Norms of the gradients of all parameters, in ascending order."""
    torch.nn.functional.cross_entropy(logits, torch.arange(len(logits)) % 2).backward()
    found = [p.grad for p in network.parameters() if p.grad is not None]
    return sorted(float(gradient.double().norm()) for gradient in found)


@pytest.mark.usefixtures("as_transformers_makes_them")
@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_of_a_fresh_model_are_those_of_transformers(family: str) -> None:
    path = EXPORTERS["torchscript"](fresh(family))
    ours, theirs, inputs = module(path).eval(), network_of(fresh(family)), feeds()
    expected = gradients(theirs, theirs(*(inputs[name] for name in theirs.names)))
    found = gradients(ours, ours(**inputs)["logits"])
    assert len(found) == len(expected)
    assert found == pytest.approx(expected, rel=1e-3, abs=1e-6)


@pytest.mark.usefixtures("as_transformers_makes_them")
@pytest.mark.parametrize("family", FAMILIES)
def test_a_step_and_the_way_back(family: str, tmp_path: Path) -> None:
    path = EXPORTERS["torchscript"](fresh(family))
    model, _ = import_model(path)
    ours, inputs = module(model).eval(), feeds()
    gradients(ours, ours(**inputs)["logits"])
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter -= 0.1 * parameter.grad
    again, _ = import_model(path)
    for graph in (model, again):
        ours.write_back(graph)
        ir.save(graph, tmp_path / "trained.onnx")
        given = {name: value.numpy() for name, value in inputs.items()}
        logits = session(tmp_path / "trained.onnx").run(["logits"], given)[0]
        assert logits == pytest.approx(ours(**inputs)["logits"].detach().numpy(), abs=1e-5)
    norms = [node for node in model.graph if node.op_type == "LayerNormalization"]
    apart = {node.inputs[1].const_value.numpy().tobytes() for node in norms}  # type: ignore[union-attr]
    assert len(apart) == (5 if family == "bert" else 3)  # ALBERT's two layers are one


@pytest.mark.usefixtures("as_transformers_makes_them")
def test_a_prepared_model_has_them_apart() -> None:
    model, _ = import_model(EXPORTERS["torchscript"](fresh("bert")))
    ready = prepare(model, "bbct", {"weight_bits": 4, "block": 16})
    net = module(ready.graph, weights=ready.plan.weights, lower=ready.lowered)  # type: ignore[union-attr]
    assert len([name for name in net.initializers() if name.startswith("bqc.")]) > 10
    frozen = module(ready.graph, frozen=["1:*"])
    kept = {name for name, p in frozen.initializers().items() if not p.requires_grad}
    assert len(kept) == 16
    net.eval()(**feeds())


def linears(text: str) -> ir.Model:
    model = from_text(text)
    for node in model.graph:
        label(node, node.outputs[0].name[-1], "ffn.output")  # type: ignore[index]
    return model


def test_matrices_of_one_number_are_untied_and_others_are_not() -> None:
    model = linears(
        """<ir_version: 10, opset_import: ["" : 21]>
f (float[B,S,2] x) => (float[B,S,2] y3)
<float[2,2] zero = {0, 0, 0, 0}, float[2,2] own = {1, 2, 3, 4}, float[2] b = {1, 1}> {
   float[B,S,2] p0 = MatMul (x, zero)
   float[B,S,2] y0 = Add (p0, b)
   float[B,S,2] p1 = MatMul (y0, zero)
   float[B,S,2] y1 = Add (p1, b)
   float[B,S,2] p2 = MatMul (y1, own)
   float[B,S,2] y2 = Add (p2, b)
   float[B,S,2] p3 = MatMul (y2, own)
   y3 = Add (p3, b)
}
"""
    )
    untie(model)
    read = {node.outputs[0].name: node.inputs[1].name for node in model.graph}  # type: ignore[union-attr]
    assert len({read["p0"], read["p1"]}) == 2
    assert read["p2"] == read["p3"] == "own"
    assert len({read["y0"], read["y1"], read["y2"]}) == 3
    assert read["y2"] == read["y3"]
    before = set(model.graph.initializers)
    untie(model)
    assert set(model.graph.initializers) == before
    data = [value.const_value.numpy() for value in model.graph.initializers.values()]  # type: ignore[union-attr]
    assert sum(bool(np.all(one == 0)) for one in data) == 2


def test_write_back_says_what_to_pass() -> None:
    path = EXPORTERS["torchscript"](fresh("bert"))
    with pytest.raises(BqcError, match=r"pass the model that bqc\.ir.import_model returned"):
        module(path).write_back(ir.load(path))
