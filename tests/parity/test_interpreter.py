"""Function bodies run by torch equal the numpy reference bit for bit."""

from __future__ import annotations

import onnx
import onnx_ir as ir
import pytest

torch = pytest.importorskip("torch")

from bqc.errors import BqcError  # noqa: E402
from bqc.train.interpreter import Interpreter  # noqa: E402
from tests.support.op_cases import Case, Sizes, bert_cases, expected, feeds, model, same_bits  # noqa: E402

SIZES = [
    Sizes(),
    Sizes(batch=1, length=1, heads=3, width=32, ffn=312, bits=4, block=64, seed=1),
    Sizes(batch=3, length=7, heads=2, width=40, ffn=48, bits=6, block=32, seed=2, spread=12),
    Sizes(batch=2, length=6, heads=2, width=26, ffn=40, bits=2, block=16, seed=7),
    Sizes(batch=2, length=5, heads=2, width=26, ffn=40, bits=3, block=16, seed=9),
    Sizes(batch=1, length=512, heads=1, width=16, ffn=16, bits=8, block=16, seed=6),
    Sizes(batch=1, length=2, heads=1, width=520, ffn=520, bits=8, block=1024, seed=8),
]
CASES = [case for sizes in SIZES for case in bert_cases(sizes)]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_body_in_torch(case: Case) -> None:
    run = Interpreter(ir.serde.deserialize_model(model(case)), torch.device("cpu"))
    with torch.autocast("cpu", torch.bfloat16):
        results = run({name: torch.from_numpy(x) for name, x in feeds(case).items()})
    for name, want in zip(results, expected(case), strict=True):
        assert same_bits(results[name].numpy(), want), f"{name} differs"


def test_an_unknown_operator_is_named() -> None:
    text = '<ir_version: 10, opset_import: ["": 21]> g (float[n] x) => (float[n] y) { [odd] y = Sin (x) }'
    run = Interpreter(ir.serde.deserialize_model(onnx.parser.parse_model(text)), torch.device("cpu"))
    with pytest.raises(BqcError, match="node odd is a Sin, which torch cannot run here"):
        run({"x": torch.ones(2)})
