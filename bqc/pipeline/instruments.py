"""Watching passes: objects that are told before and after each one. The same serve `bqc opt` and `bqc.compile`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import onnx_ir as ir

if TYPE_CHECKING:
    from bqc.pipeline.running import Step

__all__ = ["Changes", "DumpFolder", "Instrument", "Printer"]


class Instrument:
    """Told of every pass; both methods do nothing unless overridden."""

    def before(self, name: str, model: ir.Model) -> None:
        """The pass is about to run."""

    def after(self, step: Step, model: ir.Model) -> None:
        """The pass has run."""


@dataclass
class Printer(Instrument):
    """Print the graph around passes; an empty collection means every pass."""

    show: Callable[[str, ir.Model], None]
    print_before: Collection[str] | None = None
    print_after: Collection[str] | None = None
    only_changes: bool = False

    def before(self, name: str, model: ir.Model) -> None:
        if self.print_before is not None and (not self.print_before or name in self.print_before):
            self.show(f"before {name}", model)

    def after(self, step: Step, model: ir.Model) -> None:
        if self.print_after is None or (self.print_after and step.name not in self.print_after):
            return
        if step.modified or not self.only_changes:
            self.show(f"after {step.name}", model)


@dataclass
class DumpFolder(Instrument):
    """Write the model after each pass that changed it: ``00-input.onnx``, ``03-fold-gelu.onnx``, ..."""

    folder: Path
    written: int = 0

    def before(self, name: str, model: ir.Model) -> None:
        if self.written == 0:
            self._write("input", model)

    def after(self, step: Step, model: ir.Model) -> None:
        if step.modified:
            self._write(step.name, model)
        else:
            self.written += 1

    def _write(self, name: str, model: ir.Model) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        stem = f"{self.written:02d}-{name}"
        ir.save(model, self.folder / f"{stem}.onnx", external_data=f"{stem}.data")
        self.written += 1


@dataclass
class Changes(Instrument):
    """Operators and initializer bytes that each pass added and removed."""

    rows: list[tuple[str, int, int, str]] = field(default_factory=list)
    """(pass, nodes after, bytes of initializers after, changes by operator)."""
    _before: Counter[str] = field(default_factory=Counter)

    def before(self, name: str, model: ir.Model) -> None:
        self._before = _operators(model)

    def after(self, step: Step, model: ir.Model) -> None:
        now = _operators(model)
        changed = {op: now[op] - self._before[op] for op in sorted(now | self._before)}
        text = " ".join(f"{op}{count:+d}" for op, count in changed.items() if count)
        size = sum(
            v.const_value.nbytes for v in model.graph.initializers.values() if v.const_value is not None
        )
        self.rows.append((step.name, step.nodes, size, text))


def _operators(model: ir.Model) -> Counter[str]:
    return Counter(f"{node.domain}.{node.op_type}".lstrip(".") for node in model.graph)
