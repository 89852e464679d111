"""Every source opset becomes opset 21, IR version 10."""

from __future__ import annotations

from dataclasses import dataclass

import onnx
import onnx_ir as ir
from onnx_ir.passes import common

from bqc.contract import Contract
from bqc.errors import BqcError
from bqc.ir.notes import note
from bqc.ir.skeleton import check_valid, one_line, skeleton

__all__ = ["ImportOpset"]

_SINCE = {"LayerNormalization": 17, "Gelu": 20}
_MEND = "bqc.mend"


@dataclass(frozen=True)
class ImportOpset(ir.passes.InPlacePass):
    """Convert to one opset, whatever the exporter wrote.

    Before: opset 11, `Unsqueeze(x; axes=[1])`, `ReduceMean(x; axes=[-1])`, `Dropout(x; ratio)` ...
    After: opset 21, `Unsqueeze(x, axes)`, `ReduceMean(x, axes)` ...

    1. Initializers that are also listed as inputs (IR version 3) are constants.
    2. Mend: operators that carry a name before the opset that introduced it (exporters and optimizers do
       write LayerNormalization into opset 11 files) step aside: the converter does not know them there.
    3. Check and convert with the weights left out: large initializers become inputs for the time of it, so
       size does not matter and nothing is copied. Types of values between nodes that contradict the nodes are dropped.

    Raises:
        BqcError: a later opset or one below 1, invalid ONNX, or an operator the converter cannot bring to this opset.
    """

    contract = Contract("ulp")

    opset: int = 21
    """Of the standard operators."""
    ir_version: int = 10
    """Of the file."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        source = model.graph.opset_imports.get("", model.graph.opset_imports.get("ai.onnx", 1))
        modified = source != self.opset or model.ir_version != self.ir_version
        if source > self.opset:
            raise BqcError(
                f"the model is opset {source}, after {self.opset}: `import-later` comes before this pass"
            )
        if source < 1:
            raise BqcError(f"the model states opset {source}, which does not exist")
        common.RemoveInitializersFromInputsPass()(model)
        mended = [n for n in model.graph if n.domain in ("", "ai.onnx") and _SINCE.get(n.op_type, 0) > source]
        for node in mended:
            node.domain = _MEND
            model.graph.opset_imports[_MEND] = 1
            note(model, f"{node.op_type} is used before opset {_SINCE[node.op_type]}, which introduced it")
        model.ir_version = self.ir_version
        proto, large = skeleton(model)
        check_valid(proto)
        if source < self.opset:
            _convert(model.graph, proto, large, source, self.opset)
        for node in model.graph:
            if node.domain == _MEND:
                node.domain = ""
        model.graph.opset_imports.pop(_MEND, None)
        return ir.passes.PassResult(model, modified)


def _convert(
    graph: ir.Graph, proto: onnx.ModelProto, large: dict[str, ir.Value], source: int, target: int
) -> None:
    try:
        converted = ir.from_proto(_converted(proto, target))
    except Exception as error:
        raise BqcError(f"cannot convert from opset {source} to {target}: {one_line(error)}") from error
    _take_over(graph, converted.graph, large)
    graph.opset_imports.clear()
    graph.opset_imports.update(converted.graph.opset_imports)


def _converted(proto: onnx.ModelProto, target: int) -> onnx.ModelProto:
    try:
        return onnx.version_converter.convert_version(proto, target)
    except Exception:
        if not proto.graph.value_info:
            raise
        # Optimizers that change types leave those of values between nodes as they were.
        del proto.graph.value_info[:]
        return onnx.version_converter.convert_version(proto, target)


def _take_over(graph: ir.Graph, new: ir.Graph, large: dict[str, ir.Value]) -> None:
    """Put the converted nodes into `graph`; its inputs and large initializers stay the same objects."""
    nodes, outputs = list(new), list(graph.outputs)
    known: dict[str | None, ir.Value] = {v.name: v for v in (*graph.inputs, *large.values())}
    made = {v.name: v for node in nodes for v in node.outputs}
    small = [v for v in new.initializers.values() if v.name not in known]
    new.outputs.clear()
    new.remove(nodes)
    new.initializers.clear()
    graph.outputs.clear()
    for node in graph.all_nodes():  # those inside subgraphs read values of this graph too
        for at in range(len(node.inputs)):
            node.replace_input_with(at, None)
    graph.remove(list(graph))
    for name in [n for n in graph.initializers if n not in large]:
        del graph.initializers[name]
    for value in small:
        graph.register_initializer(value)
    graph.extend(nodes)
    for value in new.inputs:
        if value.name in known:
            value.replace_all_uses_with(known[value.name])
    for old in outputs:
        result = made.get(old.name) or known.get(old.name)
        if result is None:
            raise BqcError(f"output {old.name!r} was lost in the opset conversion")
        result.type, result.shape = old.type, old.shape
        graph.outputs.append(result)
