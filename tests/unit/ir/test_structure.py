"""Structural equality: names and order do not matter, computation does."""

from __future__ import annotations

import onnx_ir as ir
import pytest

from bqc.ir.structure import difference, same_structure, structural_hash
from bqc.ir.synthetic import canonical_bert


def renamed(model: ir.Model) -> ir.Model:
    for value in list(model.graph.initializers.values()):
        name = value.name
        del model.graph.initializers[name or ""]
        value.name = f"other.{name}"
        model.graph.register_initializer(value)
    for n, node in enumerate(model.graph):
        node.name = f"n{n}"
        for out in node.outputs:
            if not out.is_graph_output():
                out.name = f"v{n}"
    return model


def test_names_do_not_matter() -> None:
    a, b = canonical_bert(), renamed(canonical_bert())
    assert structural_hash(a) == structural_hash(b)
    assert structural_hash(a, values=True) == structural_hash(b, values=True)
    assert same_structure(a, b, tolerance=0.0)


def test_values_count_where_asked_for() -> None:
    a, b = canonical_bert(seed=0), canonical_bert(seed=1)
    assert same_structure(a, b)
    assert structural_hash(a, values=True) != structural_hash(b, values=True)
    assert "differ by" in (difference(a, b, tolerance=1e-5) or "")


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"layers": 1}, "operators differ"),
        ({"gelu": "tanh"}, "is Gelu"),
        ({"heads": 4}, "nothing in the other"),
    ],
)
def test_computation_matters(options: dict[str, object], what: str) -> None:
    a, b = canonical_bert(), canonical_bert(**options)  # type: ignore[arg-type]
    assert what in (difference(a, b) or "")


def test_operand_order_matters() -> None:
    a, b = canonical_bert(), canonical_bert()
    node = next(n for n in b.graph if n.op_type == "Sub")
    first, second = node.inputs
    node.replace_input_with(0, second)
    node.replace_input_with(1, first)
    assert not same_structure(a, b)


def chosen(then: str, other: str) -> ir.Model:
    """``If(flag, then(x, y), other(x, y))``, each branch a node that reads two inputs of the outer graph."""
    text = f"""<ir_version: 9, opset_import: ["" : 18]>
    g (bool flag, float[n] x, float[n] y) => (float[n] z) {{
        z = If (flag) <
            then_branch = t () => (float[n] p) {{ p = {then} }},
            else_branch = e () => (float[n] q) {{ q = {other} }}
        >
    }}"""
    return ir.from_onnx_text(text)


@pytest.mark.parametrize(
    "other",
    [
        ("Add(x, y)", "Sub(y, x)"),
        ("Add(x, y)", "Add(x, y)"),
        ("Sub(x, y)", "Add(x, y)"),
        ("Relu(x)", "Relu(y)"),
    ],
)
def test_branches_count_with_what_they_capture(other: tuple[str, str]) -> None:
    plain = chosen("Add(x, y)", "Sub(x, y)")
    assert structural_hash(plain) == structural_hash(chosen("Add(x, y)", "Sub(x, y)"))
    assert structural_hash(plain) != structural_hash(chosen(*other))
    assert structural_hash(chosen("Relu(x)", "Relu(y)")) != structural_hash(chosen("Relu(x)", "Relu(x)"))
