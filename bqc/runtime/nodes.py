"""How each node of a model would run here: by which kernel and why, as a function body, or by ONNX Runtime."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bqc.runtime.native import Kernel
from bqc.runtime.scan import DOMAIN, nodes
from bqc.runtime.session import created_kernels

__all__ = ["BODY", "ModelRun", "NodeRun", "node_runs"]

BODY = "body"
"""The level of a node without a kernel."""


@dataclass(frozen=True)
class NodeRun:
    """How one ``ai.bqc`` node runs.

    Attributes:
        node: its name.
        op_type: its operator.
        level: ISA level of its kernel, or ``body``: as a graph of standard operators, slower.
        by: the instructions that do most of its work; empty for a body.
        reason: why these, and no faster level.
    """

    node: str
    op_type: str
    level: str
    by: str
    reason: str


@dataclass(frozen=True)
class ModelRun:
    """How a model's nodes run.

    Attributes:
        path: the file.
        nodes: those of ``ai.bqc``, in file order.
        standard: operator -> how many nodes of the file are of any other domain; ONNX Runtime may fuse them.
    """

    path: str
    nodes: list[NodeRun]
    standard: dict[str, int]

    @property
    def complete(self) -> bool:
        """Whether every ``ai.bqc`` node has a kernel."""
        return all(node.level != BODY for node in self.nodes)

    def grouped(self) -> list[tuple[NodeRun, int]]:
        """A node of every kind of run, and how many run so; in file order."""
        counts: Counter[tuple[str, ...]] = Counter()
        first: dict[tuple[str, ...], NodeRun] = {}
        for node in self.nodes:
            key = (node.op_type, node.level, node.by, node.reason)
            first.setdefault(key, node)
            counts[key] += 1
        return [(node, counts[key]) for key, node in first.items()]

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)


def node_runs(path: str | Path) -> ModelRun:
    """Make a session on a model file, with the kernel library, and say what became of its nodes.

    Raises:
        BqcError: no such file, not a model that ONNX Runtime loads, or no kernel library.
    """
    created: dict[str, list[Kernel]] = defaultdict(list)
    for kernel in created_kernels(path):
        created[kernel.node].append(kernel)
    runs = []
    standard: Counter[str] = Counter()
    for node in nodes(path):
        if node.domain != DOMAIN:
            standard[node.op_type] += 1
        elif created[node.name]:
            kernel = created[node.name].pop(0)
            runs.append(NodeRun(node.name, node.op_type, kernel.isa, kernel.by, kernel.reason))
        else:
            runs.append(NodeRun(node.name, node.op_type, BODY, "", "the library has no kernel for it"))
    return ModelRun(str(path), runs, dict(standard.most_common()))
