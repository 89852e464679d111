"""What a module under training computes once it is lowered, without writing it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import onnx_ir as ir
import torch
from torch import Tensor

from bqc.train.interpreter import Interpreter

if TYPE_CHECKING:
    from bqc.train.module import OnnxModule

__all__ = ["Deployed"]


class Deployed:
    """The compiled graph of a module, lowered again whenever a parameter has changed."""

    def __init__(self, lower: Callable[[OnnxModule], ir.Model]) -> None:
        self._lower = lower
        self._lowered: dict[str, Tensor] = {}
        self._run: Interpreter | None = None

    def __call__(self, module: OnnxModule, feeds: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Outputs by name, bit for bit those of the compiled model. Raises BqcError as lowering does."""
        parameters = {name: parameter.detach() for name, parameter in module.initializers().items()}
        if self._run is None or not _same(parameters, self._lowered):
            device = next(iter(feeds.values())).device
            self._run = Interpreter(self._lower(module), device)
            self._lowered = {name: parameter.clone() for name, parameter in parameters.items()}
        return self._run(feeds)


def _same(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> bool:
    return all(x.device == b[name].device and torch.equal(x, b[name]) for name, x in a.items())
