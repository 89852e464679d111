"""How many rows the embedding tables behind a model's inputs have: the range of valid ids."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import onnx

from bqc.errors import BqcError

__all__ = ["LOOKUPS", "Tables"]

# What an exporter may put between an input and its Gather, or between a stored table and its Gather.
_TRANSPARENT = {"Cast", "Identity", "Reshape", "Unsqueeze", "Squeeze", "DequantizeLinear"}

# Inputs that hold ids and inputs that hold the tables they index, by operator.
_EMBEDDING = ((0, 3), (1, 5), (2, 7))
LOOKUPS = {
    "Gather": ((1, 0),),
    "BlockGather": ((0, 1),),
    "BlockGatherTiles": ((0, 1),),
    "EmbeddingLayerNorm": _EMBEDDING,
    "EmbeddingLayerNormTiles": _EMBEDDING,
    "SignGather": ((0, 1),),
    "HalfGather": ((0, 1),),
    "HalfGatherTiles": ((0, 1),),
    "IndexGather": ((0, 1),),
    "IndexGatherTiles": ((0, 1),),
    "SignEmbeddingLayerNorm": _EMBEDDING,
}
"""Operator -> (input with indices, input with the table)."""


class Tables:
    """The lookup tables of the model at ``path``, read without its external data.

    Attributes:
        rows: graph input -> rows of the table that its values index.
        positions: the longest sequence in tokens that every other table of the embedding allows, if any
            limits it.

    Raises:
        BqcError: the file is not a model.
    """

    def __init__(self, path: str | Path) -> None:
        try:
            graph = onnx.load(str(path), load_external_data=False).graph
        except Exception as error:  # protobuf's own error class moves between its versions
            raise BqcError(f"{path}: not an ONNX model, or a truncated one") from error
        self._producers = {name: node for node in graph.node for name in node.output}
        self._shapes = {tensor.name: list(tensor.dims) for tensor in graph.initializer}
        self._shapes.update(_constants(graph))
        inputs = {value.name for value in graph.input}
        self.rows: dict[str, int] = {}
        limits = []
        for node in graph.node:
            for ids, table in LOOKUPS.get(node.op_type, ()):
                rows = self._rows(node, table)
                if rows is None:
                    continue
                source = self._origin(node.input[ids])
                if source in inputs:
                    self.rows[source] = min(rows, self.rows.get(source, rows))
                elif rows > 2:  # a model without type ids looks a constant up in a table of one or two types
                    limits.append(rows)
        self.positions = min(limits, default=None)

    def _rows(self, lookup: onnx.NodeProto, table: int) -> int | None:
        shape = self._shapes.get(self._origin(lookup.input[table]), [])
        if len(shape) == 4 or lookup.op_type.endswith(
            "GatherTiles"
        ):  # tiles are padded, so that the node says it
            return next((attribute.i for attribute in lookup.attribute if attribute.name == "rows"), None)
        return shape[-2] if len(shape) in (2, 3) else None  # signs lie in planes

    def _origin(self, name: str) -> str:
        node = self._producers.get(name)
        while node is not None and node.op_type in _TRANSPARENT:
            name = node.input[0]
            node = self._producers.get(name)
        return name


def _constants(graph: onnx.GraphProto) -> Iterator[tuple[str, list[int]]]:
    """Outputs of Constant nodes that hold a tensor, and its shape."""
    for node in graph.node:
        if node.op_type == "Constant" and node.domain in ("", "ai.onnx"):
            yield from ((node.output[0], list(a.t.dims)) for a in node.attribute if a.name == "value")
