"""A bug in one layer is found to the very rewrite, and shown by a few nodes: by the command line alone.

BQC_SEEDED_LAYERS=12 (tools/full_check) does it with a model as deep as BERT-base.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import onnx
import onnx_ir as ir
import pytest

from bqc.cli import main
from bqc.ir.synthetic import canonical_bert
from tests.support.seeded import install

LAYERS = int(os.environ.get("BQC_SEEDED_LAYERS", "4"))
WRONG = LAYERS * 2 // 3 - 1
SEEDED = f"spell-softmax{{wrong_layer={WRONG}}}"


def test_found_and_reduced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    install(monkeypatch, tmp_path / "site")
    model, found, small = tmp_path / "model.onnx", tmp_path / "found", tmp_path / "small.onnx"
    ir.save(canonical_bert(layers=LAYERS, hidden=32, ffn=64), model)

    began = time.perf_counter()
    pipeline = f"import-canonicalize,annotate-anatomy,{SEEDED},annotate-sensitivity"
    assert main(["bisect", str(model), "-p", pipeline, "-o", str(found), "--json"]) == 1
    assert time.perf_counter() - began < 120
    report = json.loads(capsys.readouterr().out)
    culprit = report["culprit"]
    assert (culprit["by"], culprit["number"]) == ("spell-softmax", [WRONG + 1, LAYERS])
    assert culprit["rewrite"]["where"] == f"{WRONG}:attention.softmax"
    assert report["rewrites"] > culprit["rewrite"]["index"]

    began = time.perf_counter()
    assert main(["reduce", str(found / "good.onnx"), "-p", SEEDED, "-o", str(small), "--json"]) == 0
    assert time.perf_counter() - began < 120
    report = json.loads(capsys.readouterr().out)
    assert report["nodes"][0] > 30 * LAYERS
    assert report["nodes"][1] <= 15
    reduced = onnx.load(small)
    onnx.checker.check_model(reduced, full_check=True)
    assert [node.op_type for node in reduced.graph.node] == ["Softmax"]
    assert main(["opt", str(small), "-p", SEEDED, "--verify-each", "--repro-dir", str(tmp_path / "r")]) == 1
