"""Watching passes: objects that are told before and after each one. The same serve `bqc opt` and `bqc.compile`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import onnx_ir as ir

from bqc.errors import BqcError
from bqc.passes import pass_name

if TYPE_CHECKING:
    from bqc.pipeline.running import Step

__all__ = ["Change", "Changes", "DumpFolder", "Instrument", "Printer"]

Pass = ir.passes.InPlacePass


class Instrument:
    """Told of every pass, and of the passes inside it; the methods do nothing unless overridden."""

    def begins(self, model: ir.Model) -> None:
        """A pipeline, or a part of one, is about to run over the model."""

    def before(self, one: Pass, model: ir.Model) -> None:
        """The pass is about to run."""

    def after(self, step: Step, model: ir.Model) -> None:
        """The pass has run."""

    def failed(self, one: Pass, model: ir.Model, error: Exception) -> None:
        """The pass, or one inside it, has raised; the error goes on afterwards."""


@dataclass
class Printer(Instrument):
    """Print the graph around passes; an empty collection means every pass."""

    show: Callable[[str, ir.Model], None]
    print_before: Collection[str] | None = None
    print_after: Collection[str] | None = None
    only_changes: bool = False

    def before(self, one: Pass, model: ir.Model) -> None:
        name = pass_name(one)
        if self.print_before is not None and (not self.print_before or name in self.print_before):
            self.show(f"before {name}", model)

    def after(self, step: Step, model: ir.Model) -> None:
        if self.print_after is None or (self.print_after and step.name not in self.print_after):
            return
        if step.modified or not self.only_changes:
            self.show(f"after {step.name}", model)


@dataclass
class DumpFolder(Instrument):
    """Write the model after each pass that changed it: ``00-input.onnx``, ``03-fold-gelu.onnx``, ...

    Raises BqcError if the folder cannot be written.
    """

    folder: Path
    written: int = 0

    def before(self, one: Pass, model: ir.Model) -> None:
        if self.written == 0:
            self._write("input", model)

    def after(self, step: Step, model: ir.Model) -> None:
        if step.modified:
            self._write(step.name, model)
        else:
            self.written += 1

    def _write(self, name: str, model: ir.Model) -> None:
        stem = f"{self.written:02d}-{name}"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            ir.save(model, self.folder / f"{stem}.onnx", external_data=f"{stem}.data")
        except OSError as error:
            raise BqcError(f"{self.folder}: cannot be written: {error.strerror or error}") from None
        self.written += 1


@dataclass
class Change:
    """What one pass did to the size of a model.

    Attributes:
        step: the pass; None while it is running.
        nodes: of the main graph, before and after.
        bytes: of initializers, before and after.
        operators: nodes added and removed by operator, as ``Gelu+2 Erf-2``.
    """

    step: Step | None
    nodes: tuple[int, int]
    bytes: tuple[int, int]
    operators: str = ""


@dataclass
class Changes(Instrument):
    """What every pass changed, in the order in which they began."""

    rows: list[Change] = field(default_factory=list)
    _open: list[tuple[Change, Counter[str]]] = field(default_factory=list)

    def before(self, one: Pass, model: ir.Model) -> None:
        nodes, size = len(model.graph), _bytes(model)
        self.rows.append(Change(None, (nodes, nodes), (size, size)))
        self._open.append((self.rows[-1], _operators(model)))

    def after(self, step: Step, model: ir.Model) -> None:
        row, before = self._open.pop()
        now = _operators(model)
        changed = {op: now[op] - before[op] for op in sorted(now | before)}
        row.step = step
        row.nodes, row.bytes = (row.nodes[0], step.nodes), (row.bytes[0], _bytes(model))
        row.operators = " ".join(f"{op}{count:+d}" for op, count in changed.items() if count)


def _operators(model: ir.Model) -> Counter[str]:
    return Counter(f"{node.domain}.{node.op_type}".lstrip(".") for node in model.graph)


def _bytes(model: ir.Model) -> int:
    return sum(v.const_value.nbytes for v in model.graph.initializers.values() if v.const_value is not None)
