"""Fisher information and the Hessian against torch's own derivatives of a hand-written forward pass."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from bqc.evaluate.tasks import Features, find_task  # noqa: E402
from bqc.evaluate.tokens import Encoding, Padder  # noqa: E402
from bqc.formats import BlockShift  # noqa: E402
from bqc.sensitivity import analyze, gradients  # noqa: E402
from bqc.sensitivity.gradients import Losses  # noqa: E402
from bqc.sensitivity.hessian import Hessian  # noqa: E402
from bqc.sensitivity.hessian_trace import HessianTrace  # noqa: E402
from bqc.sensitivity.options import Options  # noqa: E402
from bqc.sensitivity.parts import Part, weight_parts  # noqa: E402
from bqc.sensitivity.spectrum import variability  # noqa: E402
from bqc.sensitivity.subject import Sample, Subject, from_task  # noqa: E402
from bqc.train import module  # noqa: E402
from bqc.train.curvature import gelu  # noqa: E402
from tests.support.tiny_task import write_bert  # noqa: E402

FMT = BlockShift(4, 16)
ROWS = 8
KEY = "head:head"
"""A small block [32, 2], so that its whole Hessian can be formed."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bert(tmp_path_factory.mktemp("bert"), rows=ROWS, layers=1)


def sample_of(model: Path, count: int = ROWS) -> Sample:
    return from_task(model, find_task("sst2"), model.parent, "train", count, 0, None)


def part_of(subject: Subject, key: str) -> Part:
    return next(part for part in weight_parts(subject.model) if part.key == key)


def loss_of(subject: Subject, rows: list[int], name: str, weight: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of some rows, one at a time and unpadded, as a function of one weight."""
    network = module(subject.model, fused_attention=False)
    network.requires_grad_(False)
    features = subject.sample.features  # type: ignore[union-attr]
    total = torch.zeros(())
    key = network._keys[name]
    for row in rows:
        ids = torch.tensor([features.encodings[row].ids])
        feeds = (ids, torch.ones_like(ids), torch.zeros_like(ids))
        logits = torch.func.functional_call(network.graph, {key: weight}, feeds)[0]
        target = torch.tensor([int(features.targets[row])])
        total = total + torch.nn.functional.cross_entropy(logits, target) / len(rows)
    return total


@pytest.fixture(scope="module")
def hessian(model: Path) -> np.ndarray:
    """The whole Hessian [64, 64] of the block over all rows."""
    with Subject(model, sample_of(model)) as subject:
        name = part_of(subject, KEY).initializer
        weight = torch.from_numpy(subject.weight(part_of(subject, KEY)).copy())
        full = torch.autograd.functional.hessian(
            lambda w: loss_of(subject, list(range(ROWS)), name, w), weight
        )
    return full.reshape(64, 64).double().numpy()


def test_products(model: Path, hessian: np.ndarray) -> None:
    with Subject(model, sample_of(model)) as subject:
        losses = Losses(subject)
        name = part_of(subject, KEY).initializer
        product = losses.hessians([[name]], np.arange(ROWS))[0]
        for seed in range(3):
            vector = np.random.default_rng(seed).standard_normal(losses.size([name]))
            assert product(vector) == pytest.approx(
                hessian @ vector, abs=1e-5 * np.abs(hessian).max() * 8 + 1e-7
            )


@pytest.mark.parametrize(
    "key", ["embedding:embedding.word", "0:attention.query", "0:ffn.intermediate", "0:ffn.output"]
)
def test_products_of_weights_before_the_head(model: Path, key: str) -> None:
    with Subject(model, sample_of(model)) as subject:
        part = part_of(subject, key)
        weight = torch.from_numpy(subject.weight(part).copy())
        along = torch.randn(weight.shape, generator=torch.Generator().manual_seed(0))
        _, expected = torch.autograd.functional.hvp(
            lambda w: loss_of(subject, list(range(ROWS)), part.initializer, w), weight, along
        )
        (product,) = Losses(subject).hessians([[part.initializer]], np.arange(ROWS))
        found = product(along.reshape(-1).double().numpy())
    assert found == pytest.approx(
        expected.reshape(-1).double().numpy(), rel=1e-3, abs=1e-5 * float(expected.abs().max())
    )


def test_products_do_not_depend_on_threads(model: Path) -> None:
    found = []
    for threads in (1, 3):
        with Subject(model, sample_of(model), threads) as subject:
            losses = Losses(subject)
            names = losses.parameters_of("0")
            (product,) = losses.hessians([names], np.arange(ROWS))
            found.append(product(np.random.default_rng(0).standard_normal(losses.size(names))))
    assert found[0].tobytes() == found[1].tobytes()


def test_weights_of_a_layer_are_measured_together(model: Path) -> None:
    """Each as if it were alone: the parts of a layer share nothing but the graph."""
    options = Options(examples=4, subsets=2, iterations=4)
    with Subject(model, sample_of(model)) as subject:
        measure = Hessian(subject, options)
        part = part_of(subject, "0:ffn.output")
        together = measure(part, [FMT])[1]
        alone = Hessian(subject, options).measure([(part.initializer,)])[part.initializer,]
    assert together["products"] == alone["products"]
    assert together["eigenvalues"] == pytest.approx(alone["eigenvalues"], rel=1e-5)


def test_gelu_has_its_second_derivative() -> None:
    x = torch.linspace(-6, 6, 49, dtype=torch.float64, requires_grad=True)
    assert torch.equal(gelu(x), torch.nn.functional.gelu(x))
    assert torch.autograd.gradcheck(gelu, x)
    assert torch.autograd.gradgradcheck(gelu, x)


def test_tags_weigh_the_same_in_any_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_bert(tmp_path, layers=1, labels=9)
    _every_token(path)
    encodings = [
        Encoding([2, 4, 6, 5, 3], [0] * 5),
        Encoding([2, 5, 3], [0] * 3),
        Encoding([2, 7, 3], [0] * 3),
    ]
    targets = [np.asarray([-100, 3, 0, 1, -100]), np.asarray([-100, 1, -100]), np.asarray([-100, 2, -100])]
    sample = Sample("", Features(encodings, np.arange(3), targets), Padder(0), None, find_task("conll03"))
    found = []
    with Subject(path, sample) as subject:
        part = part_of(subject, "0:ffn.output")
        for tokens in (4, 64):
            monkeypatch.setattr(gradients, "TOKENS", tokens)
            losses = Losses(subject)
            (product,) = losses.hessians([[part.initializer]], np.arange(3))
            found.append(product(np.random.default_rng(0).standard_normal(losses.size([part.initializer]))))
    assert found[0] == pytest.approx(found[1], rel=1e-3, abs=1e-6 * np.abs(found[1]).max())


def test_a_block_of_several_weights_has_their_cross_terms(model: Path) -> None:
    with Subject(model, sample_of(model)) as subject:
        losses = Losses(subject)
        names = losses.parameters_of("0")
        assert len(names) == 6 * 2 + 2 * 2  # biases and norms too
        size = losses.size(names)
        random = np.random.default_rng(0)
        one, two = random.standard_normal(size), random.standard_normal(size)
        product = losses.hessians([names], np.arange(4))[0]
        assert two @ product(one) == pytest.approx(one @ product(two), rel=1e-3)


def test_scores_of_the_hessian(model: Path, hessian: np.ndarray) -> None:
    with Subject(model, sample_of(model)) as subject:
        part = part_of(subject, KEY)
        # Both subsets are the whole sample.
        measure = Hessian(subject, Options(examples=ROWS, subsets=2, tolerance=1e-4))
        scores, details = measure(part, [FMT])
        error = subject.squared_error(part, FMT).sum()
    top = max(np.linalg.eigvalsh(hessian), key=abs)
    assert details["eigenvalues"] == pytest.approx([top, top], rel=0.01)
    assert details["omega"] == variability(details["eigenvalues"])
    assert scores == {str(FMT): pytest.approx(details["omega"] * error)}


def test_scores_of_the_trace(model: Path, hessian: np.ndarray) -> None:
    with Subject(model, sample_of(model)) as subject:
        part = part_of(subject, KEY)
        scores, details = HessianTrace(subject, Options(examples=ROWS, subsets=40))(part, [FMT])
        error = subject.squared_error(part, FMT).sum()
    assert details["trace"] == pytest.approx(np.trace(hessian), rel=0.1)
    assert scores == {str(FMT): pytest.approx(details["trace"] / 64 * error)}


def test_a_layer_as_one_block(model: Path) -> None:
    options = Options(examples=4, subsets=1, iterations=3, block="layer")
    found = analyze(model, "hessian", (FMT,), task=find_task("sst2"), data=model.parent, options=options)
    by_layer: dict[str, set[float]] = {}
    for score in found.scores:
        by_layer.setdefault(score.key.split(":")[0], set()).add(score.details["omega"])
    assert {layer: len(values) for layer, values in by_layer.items()} == {"embedding": 1, "0": 1, "head": 1}


def test_parameters_of_a_layer_are_its_own(tmp_path: Path) -> None:
    """Also where the file stores the equal biases of two layers once."""
    import onnx

    path = write_bert(tmp_path, layers=2)
    proto = onnx.load(path)
    norms = [node for node in proto.graph.node if node.op_type == "LayerNormalization"]
    for norm in norms:
        norm.input[2] = norms[0].input[2]
    onnx.save(proto, path)
    with Subject(path, sample_of(path)) as subject:
        losses = Losses(subject)
        names = [losses.parameters_of(layer) for layer in ("0", "1")]
    assert [len(found) for found in names] == [16, 16]
    assert not set(names[0]) & set(names[1])


def test_squared_gradients(model: Path) -> None:
    with Subject(model, sample_of(model, 4)) as subject:
        part = part_of(subject, "0:attention.query")
        weight = torch.from_numpy(subject.weight(part).copy())
        expected = np.zeros(weight.shape)
        for row in range(4):
            gradient = torch.autograd.functional.jacobian(
                lambda w, row=row: loss_of(subject, [row], part.initializer, w), weight
            )
            expected += gradient.double().numpy() ** 2 / 4
        found = Losses(subject).mean_squared_gradients([part.initializer])[part.initializer]
        assert found == pytest.approx(expected, rel=1e-3, abs=1e-6 * expected.max())
        error = subject.squared_error(part, FMT)
    task = find_task("sst2")
    scores = analyze(model, "fisher", (FMT,), task=task, data=model.parent, options=Options(examples=4))
    assert scores.values("weight", str(FMT))[part.key] == pytest.approx((expected * error).sum(), rel=1e-3)


@pytest.mark.parametrize(
    ("task", "options", "targets"),
    [
        ("stsb", {"labels": 1}, np.asarray([2.5, 0.5], dtype=np.float32)),
        ("squad", {"labels": 2, "head": "tokens"}, np.asarray([[1, 2], [0, 0]])),
        (
            "conll03",
            {"labels": 9, "head": "tokens"},
            [np.asarray([-100, 3, 0, -100]), np.asarray([-100, 1, -100])],
        ),
    ],
)
def test_losses_of_the_other_tasks(
    task: str, options: dict[str, object], targets: object, tmp_path: Path
) -> None:
    """The loss of a batch is what numpy makes of ONNX Runtime's outputs."""
    found = find_task(task)
    head = options.pop("head", None)
    path = write_bert(tmp_path, layers=1, **options)
    encodings = [Encoding([2, 4, 6, 3], [0] * 4), Encoding([2, 5, 3], [0] * 3)]
    sample = Sample("", Features(encodings, np.arange(2), targets), Padder(0), None, found)  # type: ignore[arg-type]
    if head == "tokens":
        _every_token(path)
    with Subject(path, sample) as subject:
        value = float(Losses(subject)._loss([0, 1]).detach())
        rows = subject.outputs()
    if task == "stsb":
        assert value == pytest.approx(np.mean((np.stack(rows)[:, 0] - targets) ** 2), rel=1e-4)
    elif task == "squad":
        each = [
            -_log_softmax(row[:, side])[token]
            for row, pair in zip(rows, targets, strict=True)  # type: ignore[call-overload]
            for side, token in enumerate(pair)
        ]
        assert value == pytest.approx(np.mean(each), rel=1e-4)
    else:
        each = [
            -_log_softmax(logits)[tag]
            for row, tags in zip(rows, targets, strict=True)  # type: ignore[call-overload]
            for logits, tag in zip(row, tags, strict=True)
            if tag >= 0
        ]
        assert value == pytest.approx(np.mean(each), rel=1e-4)


def _log_softmax(values: np.ndarray) -> np.ndarray:
    return values - np.log(np.exp(values.astype(np.float64)).sum())


def _every_token(path: Path) -> None:
    """Let the classifier of a model read every token instead of the pooled first one."""
    import onnx
    from onnx import helper

    proto = onnx.load(path)
    graph = proto.graph
    made = {output: node for node in graph.node for output in node.output}
    add = made["logits"]
    matmul = next(made[name] for name in add.input if name in made and made[name].op_type == "MatMul")
    norm = next(node for node in reversed(graph.node) if node.op_type == "LayerNormalization")
    matmul.input[0] = norm.output[0]
    width = graph.output[0].type.tensor_type.shape.dim[-1].dim_value
    graph.output[0].CopyFrom(
        helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, ["batch", "sequence", width])
    )
    del graph.value_info[:]
    onnx.save(proto, path)
