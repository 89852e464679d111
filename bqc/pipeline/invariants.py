"""What must hold of a model before and after every pass."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import onnx
import onnx_ir as ir

from bqc.errors import BqcError
from bqc.ir.anatomy import LAYER_KEY, ROLE_KEY
from bqc.ir.build import dims
from bqc.ir.skeleton import one_line, skeleton
from bqc.ops.registry import DOMAIN, OPERATORS
from bqc.passes._graph import attributes_of
from bqc.pipeline.trial import completed

__all__ = ["Before", "violations"]

Label = tuple[str, str]
Signature = list[tuple[str, str, list[int | str | None] | None]]


@dataclass
class Before:
    """What a pass may not lose: taken from the model before it runs.

    Attributes:
        inputs: name, type and shape of each, those that are initializers too left out.
        outputs: likewise.
        labels: layer and role of each labelled node.
        weights: layers and roles of labelled initializers.
    """

    inputs: Signature
    outputs: Signature
    labels: dict[ir.Node, Label]
    weights: set[Label]

    @classmethod
    def of(cls, model: ir.Model) -> Before:
        """Look at a model."""
        graph = model.graph
        labels = {node: _label(node) for node in graph if _is_labelled(node)}
        weights = {_label(value) for value in graph.initializers.values() if _is_labelled(value)}
        return cls(*_signatures(graph), labels, weights)

    def lost(self, model: ir.Model) -> Iterator[str]:
        """What is lost or changed, in words."""
        for kind, was, now in zip(
            ("inputs", "outputs"), (self.inputs, self.outputs), _signatures(model.graph), strict=True
        ):
            if [one[0] for one in was] != [one[0] for one in now]:
                yield f"{kind} are {_names(now)}, and were {_names(was)}"
            else:
                yield from (
                    f"{kind[:-1]} {a[0]} is {b[1]} {b[2]}, and was {a[1]} {a[2]}"
                    for a, b in zip(was, now, strict=True)
                    if a[1] != b[1]
                    or not (_same_shape(a[2], b[2]) or (kind == "outputs" and _width_known(a[2], b[2])))
                )
        yield from self._labels_lost(model)

    def _labels_lost(self, model: ir.Model) -> Iterator[str]:
        present = set(model.graph)
        for node, label in self.labels.items():
            if node in present and not _is_labelled(node):
                yield f"node {node.name!r} lost its labels {':'.join(label)}"
        made = {_label(node)[0] for node in present - self.labels.keys() if _is_labelled(node)}
        items: list[ir.Node | ir.Value] = [*present, *model.graph.initializers.values()]
        kept = {_label(item) for item in items if _is_labelled(item)}
        for label in sorted({*self.labels.values(), *self.weights} - kept):
            # Where nodes are fused the result has the labels of one of them; the mask goes into every layer's softmax.
            if label[0] not in made and label[1] != "attention.mask":
                yield f"no node is labelled {':'.join(label)} any more, and nothing took its place in layer {label[0]}"


def violations(model: ir.Model) -> dict[str, str]:
    """What is wrong with a model by itself: kind of rule -> the first case of it."""
    found: dict[str, str] = {}
    for kind, text in (
        *_names_twice(model),
        *_order(model.graph),
        *_operators(model.graph),
        *_invalid(model),
    ):
        found.setdefault(kind, text)
    return found


Problem = tuple[str, str]


def _names_twice(model: ir.Model) -> Iterator[Problem]:
    graph = model.graph
    made = [value for node in graph for value in node.outputs]
    values = dict.fromkeys([*graph.inputs, *graph.initializers.values(), *made])
    for what, names in (("value", _given(values)), ("node", _given(graph))):
        for name, count in Counter(names).items():
            if count > 1:
                yield f"unique {what} names", f"{count} {what}s are called {name!r}"


def _given(items: Iterable[ir.Value | ir.Node]) -> list[str]:
    return [item.name for item in items if item.name]


def _order(graph: ir.Graph) -> Iterator[Problem]:
    seen: set[ir.Node] = set()
    for node in graph:
        for value in node.inputs:
            producer = None if value is None else value.producer()
            if producer is not None and producer.graph is graph and producer not in seen:
                yield (
                    "topological order",
                    f"node {node.name!r} stands before {producer.name!r}, which it reads",
                )
        seen.add(node)


def _operators(graph: ir.Graph) -> Iterator[Problem]:
    """The checker knows no schema of `ai.bqc`; the registry does."""
    for node in graph:
        if node.domain != DOMAIN:
            continue
        operator = OPERATORS.get(node.op_type)
        if operator is None:
            yield "operators of ai.bqc", f"there is no operator {node.op_type}"
            continue
        unknown = attributes_of(node).keys() - operator.attributes.keys()
        if unknown or len(node.inputs) != len(operator.inputs):
            yield (
                "operators of ai.bqc",
                f"node {node.name!r} ({node.op_type}) has {len(node.inputs)} inputs of {len(operator.inputs)}"
                + (f" and no attribute {', '.join(sorted(unknown))}" if unknown else ""),
            )
            continue
        yield from _inferred(node)


def _inferred(node: ir.Node) -> Iterator[Problem]:
    inputs = [dims(value) for value in node.inputs if value is not None]
    if any(shape is None for shape in inputs):
        yield "shapes of ai.bqc", f"an input of node {node.name!r} ({node.op_type}) has no shape"
        return
    wanted = OPERATORS[node.op_type].infer([shape or [] for shape in inputs], attributes_of(node))
    for output, (dtype, shape) in zip(node.outputs, wanted, strict=True):
        if output.dtype != dtype or not _same_sizes(dims(output), list(shape)):
            yield (
                "shapes of ai.bqc",
                f"output {output.name!r} of {node.op_type} is {output.dtype} {dims(output)}, and should be "
                f"{dtype} {list(shape)}",
            )


def _invalid(model: ir.Model) -> Iterator[Problem]:
    try:
        onnx.checker.check_model(skeleton(completed(model))[0], full_check=True)
    except BqcError as error:
        yield "valid ONNX", str(error)
    except Exception as error:  # onnx has two kinds of its own, and raises others
        yield "valid ONNX", f"the ONNX checker says: {one_line(error)}"


def _signatures(graph: ir.Graph) -> tuple[Signature, Signature]:
    inputs = [value for value in graph.inputs if value.name not in graph.initializers]
    return _signature(inputs), _signature(dict.fromkeys(graph.outputs))  # one that is listed twice is one


def _signature(values: Iterable[ir.Value]) -> Signature:
    return [(value.name or "", str(value.dtype), dims(value)) for value in values]


def _names(signature: Signature) -> str:
    return ", ".join(one[0] for one in signature) or "none"


Shape = list[int | str | None] | None


def _same_shape(was: Shape, now: Shape) -> bool:
    """The same, or now known where it was not."""
    if was is None:
        return True
    return (
        now is not None
        and len(was) == len(now)
        and all(a in (None, b) for a, b in zip(was, now, strict=True))
    )


def _width_known(was: Shape, now: Shape) -> bool:
    """Has the last axis of `[batch, sequence, width]`, only named before, become a number?"""
    if was is None or now is None or len(was) != 3 or not isinstance(now[-1], int):
        return False
    return isinstance(was[-1], str) and _same_shape(was[:-1], now[:-1])


def _same_sizes(one: list[int | str | None] | None, other: list[int | str | None]) -> bool:
    """The same as far as both are numbers."""
    if one is None or len(one) != len(other):
        return False
    return all(
        a == b or not (isinstance(a, int) and isinstance(b, int)) for a, b in zip(one, other, strict=True)
    )


def _is_labelled(item: ir.Node | ir.Value) -> bool:
    return {LAYER_KEY, ROLE_KEY} <= item.metadata_props.keys()


def _label(item: ir.Node | ir.Value) -> Label:
    return item.metadata_props[LAYER_KEY], item.metadata_props[ROLE_KEY]
