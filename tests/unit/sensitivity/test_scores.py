"""Scores against what they are defined to be, computed another way."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

from bqc.errors import BqcError
from bqc.evaluate.tasks import find_task
from bqc.formats import BlockShift
from bqc.sensitivity import Sensitivity, analyze
from bqc.sensitivity.kl import mean_divergence
from bqc.sensitivity.mse import mean_squared_difference
from bqc.sensitivity.options import Options
from bqc.sensitivity.parts import fake_quantize
from bqc.sensitivity.subject import Subject, from_task
from tests.support.tiny_task import write_bert

W8, W4 = BlockShift(8, 16), BlockShift(4, 16)
FEW = Options(examples=12, subsets=2)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bert(tmp_path_factory.mktemp("bert"))


def scored(
    model: Path, metric: str, parts: tuple[str, ...] = ("weight",), options: Options = FEW
) -> Sensitivity:
    task = None if metric == "weight-error" else find_task("sst2")
    return analyze(
        model, metric, (W8, W4), parts=parts, task=task, data=model.parent, options=options, threads=1
    )


def outputs(
    path: Path, sentences: Path, name: str | None = None, fmt: BlockShift | None = None
) -> np.ndarray:
    """Logits of the sentences by ONNX Runtime alone, one at a time, after rounding one initializer in the file."""
    proto = onnx.load(path)
    for tensor in proto.graph.initializer:
        if tensor.name == name and fmt is not None:
            tensor.CopyFrom(
                numpy_helper.from_array(fake_quantize(numpy_helper.to_array(tensor), 0, fmt), name)
            )
    session = onnxruntime.InferenceSession(proto.SerializeToString())
    sample = from_task(path, find_task("sst2"), sentences, "train", 12, 0, None)
    rows = []
    for item in sample.features.encodings:
        ids = np.asarray([item.ids], dtype=np.int64)
        feeds = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": 0 * ids}
        rows.append(session.run(["logits"], feeds)[0][0])
    return np.stack(rows).astype(np.float64)


def test_weight_error_is_the_formats(model: Path) -> None:
    found = scored(model, "weight-error")
    assert found.sample == ""
    assert len(found.scores) == 3 + 2 * 6 + 2
    with Subject(model) as subject:
        weight = subject.model.graph.initializers[_name(model, "1:ffn.output")].const_value.numpy()
    assert found.values("weight", str(W4))["1:ffn.output"] == pytest.approx(W4.weight_error(weight.T))
    for score in found.scores:
        assert 0 < score.formats[str(W8)] < score.formats[str(W4)]


def _name(model: Path, key: str) -> str:
    from bqc.sensitivity.parts import weight_parts

    with Subject(model) as subject:
        return next(part.initializer for part in weight_parts(subject.model) if part.key == key)


def test_mse_and_kl_are_of_the_outputs(model: Path) -> None:
    key = "0:attention.value"
    base = outputs(model, model.parent)
    other = outputs(model, model.parent, _name(model, key), W4)
    mse = scored(model, "mse").values("weight", str(W4))[key]
    assert mse == pytest.approx(np.mean((base - other) ** 2), rel=1e-3)
    p, q = (np.exp(x) / np.exp(x).sum(axis=1, keepdims=True) for x in (base, other))
    kl = scored(model, "kl").values("weight", str(W4))[key]
    assert kl == pytest.approx(np.mean((p * np.log(p / q)).sum(axis=1)), rel=1e-2)


def test_divergence_by_hand() -> None:
    base = [np.log(np.asarray([0.5, 0.5], dtype=np.float32))]
    other = [np.log(np.asarray([0.25, 0.75], dtype=np.float32)) + 3]
    assert mean_divergence(base, other) == pytest.approx(0.5 * np.log(2) + 0.5 * np.log(2 / 3), rel=1e-5)
    assert mean_divergence(base, base) == 0
    tokens = [np.zeros((2, 2), dtype=np.float32)]
    assert mean_divergence(tokens, [np.asarray([[0, 9], [0, 0]], dtype=np.float32)], axis=0) > 1
    assert mean_squared_difference([np.zeros(2, np.float32)], [np.asarray([1, 3], np.float32)]) == 5


def test_activations(model: Path) -> None:
    found = scored(model, "mse", ("weight", "activation"))
    points = found.values("activation", str(W8))
    assert {"0:ffn.gelu", "1:attention.value", "embedding:embedding.norm", "head:pooler"} <= set(points)
    assert not any(key.endswith("softmax") for key in points)
    coarse = found.values("activation", str(W4))
    assert all(0 < points[key] < coarse[key] for key in points)
    assert len(found.values("weight", str(W4))) == 17


def test_a_shared_weight_is_scored_once(tmp_path: Path) -> None:
    from bqc.ir import import_model
    from bqc.sensitivity.parts import weight_parts

    path = write_bert(tmp_path)
    loaded, _ = import_model(path)
    uses = [
        node for node in loaded.graph if node.op_type == "MatMul" and "ffn.output" in str(node.metadata_props)
    ]
    uses[1].replace_input_with(1, uses[0].inputs[1])
    shared = [part for part in weight_parts(loaded) if part.also]
    assert [(part.key, part.also) for part in shared] == [("0:ffn.output", ("1:ffn.output",))]


@pytest.mark.parametrize(
    ("metric", "options", "message"),
    [
        ("hesian", {}, "no metric 'hesian': did you mean hessian"),
        ("kl", {}, "kl runs the model: give --task, or --inputs"),
        ("fisher", {}, "fisher takes gradients of a loss, which needs labels: give --task"),
        (
            "weight-error",
            {"parts": ("activation",)},
            "weight-error is of weights; activations can be scored by",
        ),
        ("weight-error", {"parts": ("weights",)}, "no parts 'weights': did you mean weight"),
        ("weight-error", {"options": Options(block="head")}, "no block 'head'"),
        ("weight-error", {"options": Options(seed=-5)}, "a seed is a number from 0 on, not -5"),
        ("kl", {"task": find_task("sst2"), "inputs": "x.npz"}, "from --task or from --inputs; give one"),
    ],
)
def test_what_cannot_be_asked(model: Path, metric: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(BqcError, match=message):
        analyze(model, metric, (W4,), **options)  # type: ignore[arg-type]


def test_two_bits_are_not_for_activations(model: Path) -> None:
    task = find_task("sst2")
    with pytest.raises(BqcError, match="formats of 4 bits and more"):
        analyze(model, "mse", (BlockShift(2, 16),), parts=("activation",), task=task, data=model.parent)


def test_one_output_has_no_divergence(tmp_path: Path) -> None:
    path = write_bert(tmp_path, labels=1)
    inputs = tmp_path / "x.npz"
    ids = np.asarray([[2, 4, 6, 3], [2, 5, 3, 0]])
    np.savez(inputs, input_ids=ids, attention_mask=ids != 0, token_type_ids=0 * ids)
    with pytest.raises(BqcError, match="kl compares classes"):
        analyze(path, "kl", (W4,), inputs=inputs)
    found = analyze(path, "mse", (W4,), inputs=inputs)
    assert found.sample == f"2 rows of {inputs}"
    assert all(score.formats[str(W4)] > 0 for score in found.scores)


def test_examples_are_drawn_by_seed(model: Path) -> None:
    def ids(seed: int) -> list[list[int]]:
        sample = from_task(model, find_task("sst2"), model.parent, "train", 5, seed, None)
        return [item.ids for item in sample.features.encodings]

    assert ids(0) == ids(0)
    assert ids(0) != ids(1)
    assert [len(rows) for rows in Options(examples=4, subsets=3).draw(12)] == [4, 4, 4]
    assert len({int(row) for rows in Options(examples=4, subsets=3).draw(12) for row in rows}) == 12
    assert [len(rows) for rows in Options(examples=8, subsets=2).draw(5)] == [5, 5]


def test_a_model_is_run_from_the_changed_layer_on(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from bqc.sensitivity import subject as module

    started: list[tuple[str, str]] = []

    class Watched(module.Resumed):
        def __init__(self, whole: object, rest: object, cut: module.Cut) -> None:
            super().__init__(whole, rest, cut)
            started.append((cut.start, ",".join(self._names)))

    def values() -> dict[str, float]:
        return scored(model, "mse").values("weight", str(W4))

    monkeypatch.setattr(module, "Resumed", Watched)
    cut = values()
    assert len(started) == 2 * (12 + 2)  # every linear in both formats; tables come before the first layer
    assert len({start for start, _ in started}) == 2
    assert {names for _, names in started} == {"attention_mask"}
    monkeypatch.setattr(module, "part_of_graph", lambda *_: None)
    whole = values()
    assert len(started) == 2 * (12 + 2)
    assert cut == pytest.approx(whole, rel=1e-3)
