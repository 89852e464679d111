"""What ONNX Runtime runs and the standard forbids is put right, with a note."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from bqc.contract import Contract
from bqc.errors import BqcError
from bqc.ir.notes import note

__all__ = ["ImportMend"]

_NEWEST = 21


@dataclass(frozen=True)
class ImportMend(ir.passes.InPlacePass):
    """Make files valid that ONNX Runtime accepts as they are.

    Before: nodes in any order, `com.microsoft` or the default domain without an opset import, inputs without a shape
    After: nodes sorted, an opset import for each domain, inputs `[batch, sequence]`, every output once

    Sizes below zero, which stand for unknown ones, become unknown.

    A default domain without version is read as ONNX Runtime reads it: as the newest one (here 21).

    Raises:
        BqcError: the nodes form a cycle.
    """

    contract = Contract("exact")

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        graph = model.graph
        modified = _domains(model) | _inputs(model) | _outputs(model) | _sizes(model)
        if not _sorted(graph):
            try:
                graph.sort()
            except ValueError as error:
                raise BqcError("the model is not valid ONNX: its nodes form a cycle") from error
            note(model, "the nodes were not sorted")
            modified = True
        return ir.passes.PassResult(model, modified)


def _domains(model: ir.Model) -> bool:
    imports = model.graph.opset_imports
    if "ai.onnx" in imports:
        imports.setdefault("", imports.pop("ai.onnx"))
    used = {
        "" if n.domain == "ai.onnx" else n.domain for n in ir.traversal.RecursiveGraphIterator(model.graph)
    }
    missing = sorted(used - set(imports))
    for domain in missing:
        imports[domain] = 1 if domain else _NEWEST
        note(model, f"the opset of domain {domain or 'ai.onnx'!r} is not stated; read as {imports[domain]}")
    return bool(missing)


def _inputs(model: ir.Model) -> bool:
    """Token ids, masks and types are what an encoder takes; later passes run what reads them."""
    unknown = [value for value in model.graph.inputs if value.shape is None and not value.is_initializer()]
    for value in unknown:
        value.shape = ir.Shape(["batch", "sequence"])
        note(model, f"input {value.name!r} has no shape; read as [batch, sequence]")
    return bool(unknown)


def _sizes(model: ir.Model) -> bool:
    below = [
        value
        for value in (*model.graph.inputs, *model.graph.outputs)
        if value.shape is not None and any(isinstance(size, int) and size < 0 for size in value.shape)
    ]
    for value in below:
        assert value.shape is not None, "just asked"
        value.shape = ir.Shape([None if isinstance(n, int) and n < 0 else n for n in value.shape])
        note(model, f"{value.name!r} has a size below zero; read as unknown")
    return bool(below)


def _outputs(model: ir.Model) -> bool:
    outputs = model.graph.outputs
    twice = [at for at, value in enumerate(outputs) if value in list(outputs)[:at]]
    for at in reversed(twice):
        note(model, f"output {outputs[at].name!r} is listed twice; it is kept once")
        del outputs[at]
    return bool(twice)


def _sorted(graph: ir.Graph) -> bool:
    seen: set[ir.Node] = set()
    for node in graph:
        producers = (value.producer() for value in node.inputs if value is not None)
        if any(p is not None and p.graph is graph and p not in seen for p in producers):
            return False
        seen.add(node)
    return True
