"""Running a model from the layer on that a change touches: what comes before stays as it was."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import onnxruntime

from bqc.ir.anatomy import nodes_of

__all__ = ["Cut", "Resumed", "entrance", "hidden_states", "part_of_graph"]

Feeds = Mapping[str, npt.NDArray[np.generic]]


def entrance(model: ir.Model, layer: str) -> str | None:
    """The hidden state that enters a layer of the encoder; None where it is no such layer."""
    query = next((n for n in nodes_of(model, layer, "attention.query") if n.op_type == "MatMul"), None)
    value = None if query is None else query.inputs[0]
    return None if value is None else value.name


def part_of_graph(model: ir.Model, start: str | None, end: str | None) -> ir.Model | None:
    """The graph from its inputs to the value ``end``, or from ``start`` to its outputs.

    None if something else than ``start`` and the graph's inputs would have to be known.
    """
    inputs = [value.name or "" for value in model.graph.inputs]
    outputs = [end] if end is not None else [value.name or "" for value in model.graph.outputs]
    given = inputs if start is None else [*inputs, start]
    try:
        graph = ir.convenience.extract(model.graph, given, outputs)
    except ValueError:
        return None
    read = {value for node in graph for value in node.inputs}
    kept = [value for value in graph.inputs if value in read]
    graph.inputs.clear()
    graph.inputs.extend(kept)
    return ir.Model(graph, ir_version=model.ir_version)


@dataclass(frozen=True)
class Cut:
    """A model cut in two.

    Attributes:
        start: the hidden state where it is cut.
        file: the graph from there on.
        hidden: that state for every batch that will be run, by `Resumed.key`.
    """

    start: str
    file: Path
    hidden: Mapping[bytes, npt.NDArray[np.generic]]


class Resumed:
    """A session on the end of a model that is fed like one on the whole.

    Args:
        whole: a session on the whole model, for its inputs, outputs and metadata.
        rest: a session on ``cut.file``.
        cut: where it starts, and from what.
    """

    def __init__(
        self, whole: onnxruntime.InferenceSession, rest: onnxruntime.InferenceSession, cut: Cut
    ) -> None:
        self.get_inputs, self.get_outputs = whole.get_inputs, whole.get_outputs
        self.get_modelmeta = whole.get_modelmeta
        self._rest, self._cut = rest, cut
        self._names = [value.name for value in rest.get_inputs() if value.name != cut.start]

    def run(self, names: Sequence[str], feeds: Feeds) -> list[Any]:
        """The outputs of these names, as the whole model gives them."""
        hidden = self._cut.hidden[self.key(feeds)]
        known: dict[str, Any] = {name: feeds[name] for name in self._names}
        outputs: list[Any] = self._rest.run(list(names), {**known, self._cut.start: hidden})
        return outputs

    @staticmethod
    def key(feeds: Feeds) -> bytes:
        """What tells batches apart."""
        return b"".join(_bytes(feeds[name]) for name in sorted(feeds))


def _bytes(array: npt.NDArray[np.generic]) -> bytes:
    return repr(array.shape).encode() + array.tobytes()


def hidden_states(
    prefix: onnxruntime.InferenceSession, start: str, batches: Iterable[Feeds]
) -> dict[bytes, npt.NDArray[np.generic]]:
    """The hidden state of every batch, by `Resumed.key`."""
    names = [value.name for value in prefix.get_inputs()]
    return {
        Resumed.key(feeds): prefix.run([start], {name: feeds[name] for name in names})[0] for feeds in batches
    }
