"""Files that earlier versions of torch write: run by the Python of an environment that has one, transformers, onnx
and pytest (and no bqc).

    TORCH_1_13_VENV/bin/python -m tools.other_exporters.old_torch_files FILES

Every TorchScript opset of that torch, and its first dynamo exporter (`torch.onnx.dynamo_export`, which keeps a
function a module) where it has one.
"""

from __future__ import annotations

import argparse
import tempfile
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import onnx
import torch
import transformers

from tests.support.families import FAMILIES, HEADS, draw_weights
from tools.other_exporters.folder import Folder

SUPPORTED = ("bert", "distilbert", "roberta", "electra", "mpnet", "albert")
TRIED = ("classification", "masked-lm", "bare")
NEWEST = 17
"""Of the opsets that TorchScript exports to."""


def main() -> None:
    """Export every family with every head at every opset."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    folder = Folder(parser.parse_args().folder, "torch", "transformers", "onnx")
    short = ".".join(torch.__version__.split("+")[0].split(".")[:2])
    with tempfile.TemporaryDirectory() as name:
        for family in SUPPORTED:
            for head in TRIED:
                for opset in _opsets():
                    folder.add(
                        f"torch-{short}-opset-{opset}", family, head, partial(_traced, Path(name), opset)
                    )
                if hasattr(torch.onnx, "dynamo_export"):
                    folder.add(f"torch-{short}-dynamo", family, head, partial(_first_dynamo, Path(name)))


def _opsets() -> range:
    from torch.onnx import symbolic_helper

    known = getattr(symbolic_helper, "_onnx_stable_opsets", None)
    if known is None:
        from torch.onnx import _constants

        known = [_constants.ONNX_MAX_OPSET]
    return range(9, min(NEWEST, max(known)) + 1)


def _traced(root: Path, opset: int, family: str, head: str) -> Path:
    module, arguments = _module(family, head)
    path = root / f"{family}-{head}-{opset}.onnx"
    outputs = HEADS[head][1]
    axes = {name: {0: "batch", 1: "sequence"} for name in (*module.names, *outputs)}
    if head == "classification":
        axes["logits"] = {0: "batch"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module,
            arguments,
            str(path),
            opset_version=opset,
            dynamic_axes=axes,
            input_names=list(module.names),
            output_names=list(outputs),
        )
    return path


def _first_dynamo(root: Path, family: str, head: str) -> Path:
    module, arguments = _module(family, head)
    path = root / f"{family}-{head}-dynamo.onnx"
    options = torch.onnx.ExportOptions(dynamic_shapes=True)
    torch.onnx.dynamo_export(module, *arguments, export_options=options).save(str(path))
    _rename_inputs(path, module.names)
    return path


def _rename_inputs(path: Path, names: tuple[str, ...]) -> None:
    """That exporter calls them after the arguments of the outermost module (`l_ids_`), and cannot be told otherwise."""
    model = onnx.load(str(path))
    renamed = dict(zip((value.name for value in model.graph.input), names, strict=True))
    for value in model.graph.input:
        value.name = renamed[value.name]
    for node in model.graph.node:
        node.input[:] = [renamed.get(name, name) for name in node.input]
    onnx.save(model, str(path))


def _module(family: str, head: str) -> tuple[Any, tuple[Any, ...]]:
    kind, settings = FAMILIES[family]
    torch.manual_seed(0)
    config = transformers.CONFIG_MAPPING[kind](**settings)
    network = getattr(transformers, HEADS[head][0]).from_config(config).eval()
    if hasattr(network, "pooler"):
        network.pooler = None
    draw_weights(network)
    types = family in ("bert", "electra", "albert")
    module = _Encoder(network, HEADS[head][1], types)
    ones = torch.ones((2, 7), dtype=torch.int64)
    return module, (ones * 3, ones, *([ones * 0] if types else []))


class _Encoder(torch.nn.Module):
    def __init__(self, network: Any, outputs: tuple[str, ...], types: bool) -> None:
        super().__init__()
        self.model = network
        self.outputs = outputs
        self.names = ("input_ids", "attention_mask", *(["token_type_ids"] if types else []))

    def forward(self, ids: Any, mask: Any, types: Any = None) -> Any:
        """The first of the outputs that the head has; all heads tried here have one."""
        third = {} if types is None else {"token_type_ids": types}
        found = self.model(input_ids=ids, attention_mask=mask, return_dict=True, **third)
        return found[self.outputs[0]]


if __name__ == "__main__":
    main()
