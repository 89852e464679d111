"""A graph as a torch module: the same numbers as ONNX Runtime, the right gradients, and the way back."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

torch = pytest.importorskip("torch")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from bqc.errors import BqcError  # noqa: E402
from bqc.formats import Sparse, Xnor  # noqa: E402
from bqc.formats.sparse import PATTERNS  # noqa: E402
from bqc.ir import import_model  # noqa: E402
from bqc.ir.anatomy import ANATOMY_KEY  # noqa: E402
from bqc.ir.text import from_text  # noqa: E402
from bqc.passes.binarize_inputs import BinarizeInputs  # noqa: E402
from bqc.plan import Plan  # noqa: E402
from bqc.train import OnnxModule, module  # noqa: E402
from bqc.train.operators import supported  # noqa: E402
from bqc.train.prepared import prepare  # noqa: E402
from tests.support.exports import EXPORTS, batches, session  # noqa: E402
from tests.support.families import Cell, exported, network_of  # noqa: E402

CELLS = (
    Cell("bert", "classification"),
    Cell("distilbert", "classification"),
    Cell("roberta", "tokens"),
    Cell("electra", "masked-lm"),
    Cell("mpnet", "mean-l2"),
    Cell("albert", "question-answering"),
)


def tensors(feeds: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(value) for name, value in feeds.items()}


def graph_of(nodes: list[onnx.NodeProto], constants: dict[str, np.ndarray], width: int) -> ir.Model:
    """One float input ``x [B, S, width]``, one output ``y``, taken as annotated."""
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["B", "S", width])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = ir.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)]))
    model.metadata_props[ANATOMY_KEY] = "{}"
    return model


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("cell", CELLS, ids=str)
def test_equals_onnx_runtime(cell: Cell, fused: bool) -> None:
    path = exported("torchscript", cell)
    ours, theirs = module(path, fused_attention=fused).eval(), session(path)
    assert ours.output_names == cell.outputs
    for feeds in batches(set(ours.input_names)):
        results = ours(**tensors(feeds))
        for name, expected in zip(ours.output_names, theirs.run(ours.output_names, feeds), strict=True):
            assert tuple(results[name].shape) == expected.shape
            assert np.abs(results[name].detach().numpy() - expected).max() <= 1e-4


@pytest.mark.parametrize("fused", [True, False])
def test_gradients_are_those_of_transformers(fused: bool) -> None:
    cell = Cell("bert", "classification")
    theirs = network_of(cell).eval()
    ours = module(exported("torchscript", cell), fused_attention=fused).eval()
    for feeds in batches(set(ours.input_names)):
        inputs = tensors(feeds)
        expected_logits = theirs(*(inputs[name] for name in theirs.names))
        for network, logits in ((ours, ours(**inputs)["logits"]), (theirs, expected_logits)):
            network.zero_grad()
            torch.nn.functional.cross_entropy(logits, torch.arange(len(logits)) % 2).backward()
        expected = {name.removeprefix("model."): p.grad for name, p in theirs.named_parameters()}
        compared = 0
        for name, parameter in ours.initializers().items():
            wanted = expected.get(name.removeprefix("model."))
            if wanted is not None:
                compared += 1
                turned = wanted.T if wanted.dim() == 2 and "embeddings" not in name else wanted
                torch.testing.assert_close(parameter.grad, turned, atol=1e-5, rtol=1e-4)
        assert compared >= 20
        total = sum(float(p.grad.double().square().sum()) for p in ours.parameters())
        wanted_total = sum(float(g.double().square().sum()) for g in expected.values() if g is not None)
        assert total == pytest.approx(wanted_total, rel=1e-4)


RNG = np.random.default_rng(0)
SMALL = {
    "linear": (
        [helper.make_node("MatMul", ["x", "w"], ["p"]), helper.make_node("Add", ["p", "b"], ["y"])],
        {"w": RNG.standard_normal((4, 3)), "b": RNG.standard_normal(3)},
    ),
    "norm-gelu": (
        [
            helper.make_node("LayerNormalization", ["x", "g", "b"], ["n"], epsilon=1e-5),
            helper.make_node("Gelu", ["n"], ["y"], approximate="tanh"),
        ],
        {"g": RNG.standard_normal(4), "b": RNG.standard_normal(4)},
    ),
    "attention": (
        [
            helper.make_node("Reshape", ["x", "split"], ["s"]),
            helper.make_node("Transpose", ["s"], ["q"], perm=[0, 2, 1, 3]),
            helper.make_node("Transpose", ["s"], ["k"], perm=[0, 2, 3, 1]),
            helper.make_node("MatMul", ["q", "k"], ["qk"]),
            helper.make_node("Mul", ["qk", "scale"], ["scaled"]),
            helper.make_node("Softmax", ["scaled"], ["p"], axis=-1),
            helper.make_node("MatMul", ["p", "q"], ["c"]),
            helper.make_node("ReduceMean", ["c", "axes"], ["m"], keepdims=0),
            helper.make_node("Mul", ["m", "w"], ["y"]),
        ],
        {
            "split": np.array([0, 0, 2, 2]),
            "scale": np.array(0.5),
            "axes": np.array([1, 2]),
            "w": RNG.standard_normal(2),
        },
    ),
}


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("name", SMALL)
def test_gradcheck(name: str, fused: bool) -> None:
    nodes, constants = SMALL[name]
    typed = {k: v.astype(np.float32) if v.dtype == np.float64 else v for k, v in constants.items()}
    made = module(graph_of(nodes, typed, 4), fused_attention=fused).double()
    x = torch.randn(2, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    parameters = tuple(made.parameters())

    def run(x: torch.Tensor, *values: torch.Tensor) -> torch.Tensor:
        names = [name for name, _ in made.named_parameters()]
        return torch.func.functional_call(made, dict(zip(names, values, strict=True)), (), {"x": x})["y"]

    assert torch.autograd.gradcheck(run, (x.requires_grad_(), *parameters))
    if not fused:
        assert torch.autograd.gradgradcheck(run, (x, *parameters))


def test_what_is_a_parameter() -> None:
    path = exported("torchscript", Cell("bert", "classification"))
    model, _ = import_model(path)
    made = module(model)
    floats = {
        name
        for name, value in model.graph.initializers.items()
        if value.dtype == ir.DataType.FLOAT and len(value.shape or ()) > 0
    }
    assert set(made.initializers()) == floats
    name = next(n for n in floats if n.endswith("word_embeddings.weight"))
    assert dict(made.graph.named_parameters())[name] is made.parameter(name)


def test_write_back_is_lossless() -> None:
    path = exported("torchscript", Cell("albert", "classification"))
    model, _ = import_model(path)
    made = module(model)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter += torch.randn(parameter.shape, generator=generator) * 1e-3
    made.write_back(model)
    for name, parameter in made.initializers().items():
        stored = model.graph.initializers[name].const_value
        assert stored is not None
        assert stored.numpy().tobytes() == parameter.detach().numpy().tobytes()
    again = module(model).eval()
    feeds = tensors(next(iter(batches(set(again.input_names)))))
    assert torch.equal(again(**feeds)["logits"], made.eval()(**feeds)["logits"])


def test_write_back_into_another_graph_is_refused() -> None:
    made = module(exported("torchscript", Cell("bert", "classification")))
    other, _ = import_model(exported("torchscript", Cell("distilbert", "classification")))
    with pytest.raises(BqcError, match="the graph has no such initializer"):
        made.write_back(other)


def test_frozen_and_sparse_tables() -> None:
    path = exported("torchscript", Cell("bert", "classification"))
    feeds = tensors(next(iter(batches({"input_ids", "attention_mask", "token_type_ids"}))))
    frozen = module(path, frozen=["embedding.word", "0:*"])
    word = next(n for n in frozen.initializers() if n.endswith("word_embeddings.weight"))
    assert not frozen.parameter(word).requires_grad
    with pytest.raises(BqcError, match=r"'nope' matches no weight; roles here: .*attention\.key.*pooler"):
        module(path, frozen=["nope"])
    left = sum(p.requires_grad for p in frozen.parameters())
    assert 0 < left < len(list(frozen.parameters())) - 16
    sparse = module(path, sparse_tables=True)
    sparse(**feeds)["logits"].sum().backward()
    assert sparse.parameter(word).grad.is_sparse
    dense = module(path)
    dense(**feeds)["logits"].sum().backward()
    torch.testing.assert_close(sparse.parameter(word).grad.to_dense(), dense.parameter(word).grad)
    with pytest.raises(BqcError, match=r"frozen 'embedding\.wrod' matches no weight"):
        module(path, frozen=["embedding.wrod"])


@pytest.mark.parametrize("head", ["mean", "classification"])
def test_compiles_whole_with_dynamic_shapes(head: str) -> None:
    made = module(exported("torchscript", Cell("bert", head))).eval()
    compiled = torch.compile(made, backend="aot_eager", fullgraph=True, dynamic=True)
    for feeds in batches(set(made.input_names)):
        for name, value in compiled(**tensors(feeds)).items():
            torch.testing.assert_close(value, made(**tensors(feeds))[name], atol=1e-5, rtol=1e-4)


def test_autocast_to_bfloat16() -> None:
    prepared = prepare(import_model(exported("torchscript", Cell("bert", "classification")))[0], "bbct")
    made = module(prepared.graph, weights=prepared.plan.weights).eval()
    feeds = tensors(next(iter(batches(set(made.input_names)))))
    with torch.autocast("cpu", torch.bfloat16):
        narrow = made(**feeds)["logits"]
    torch.testing.assert_close(narrow.float(), made(**feeds)["logits"], atol=0.1, rtol=0.1)
    narrow.float().sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in made.parameters() if p.grad is not None)


def test_evaluation_runs_what_the_parameters_lower_to_now() -> None:
    prepared = prepare(import_model(exported("torchscript", Cell("bert", "classification")))[0], "bbct")
    made = module(prepared.graph, weights=prepared.plan.weights, taps=["0:ffn.norm"], lower=prepared.lowered)
    feeds = tensors(next(iter(batches(set(made.input_names)))))
    trained = made(**feeds)
    assert set(trained) == {"logits", *made.taps}
    trained["logits"].sum().backward()
    first = made.eval()(**feeds)["logits"]
    assert not first.requires_grad
    assert torch.equal(first, made(**feeds)["logits"])
    torch.testing.assert_close(first, trained["logits"], atol=0.05, rtol=0.05)
    with torch.no_grad():
        made.parameter(next(name for name in made.initializers() if name.endswith("classifier.bias"))).add_(1)
    torch.testing.assert_close(made(**feeds)["logits"], first + 1)


def test_every_operator_is_documented() -> None:
    text = (Path(__file__).parents[3] / "docs" / "train.md").read_text(encoding="utf-8")
    words = set(re.findall(r"\b[A-Z]\w+\b", text))
    assert {name.removeprefix("ai.bqc::") for name in supported().split(", ")} <= words


def test_dropout_follows_the_anatomy() -> None:
    path = exported("torchscript", Cell("bert", "classification"))
    everywhere = dict.fromkeys(
        ("embedding.norm", "attention.softmax", "attention.output", "ffn.output", "pooler"), 0.5
    )
    for fused in (True, False):
        made = module(path, dropout=everywhere, fused_attention=fused)
        count = sum(isinstance(m, torch.nn.Dropout) for m in made.modules())
        assert count == 2 + 2 * (2 if fused else 3)
        feeds = tensors(next(iter(batches(set(made.input_names)))))
        assert not torch.equal(made.train()(**feeds)["logits"], made(**feeds)["logits"])
        plain = module(path, fused_attention=fused).eval()
        assert torch.equal(made.eval()(**feeds)["logits"], plain(**feeds)["logits"])


def test_taps() -> None:
    path = exported("torchscript", Cell("bert", "classification"))
    made = module(path, taps=["*:ffn.norm", "attention.scores"]).eval()
    assert made.taps == ("0:attention.scores", "0:ffn.norm", "1:attention.scores", "1:ffn.norm")
    feeds = tensors(list(batches(set(made.input_names)))[1])
    results = made(**feeds)
    theirs = network_of(Cell("bert", "classification")).eval().model
    hidden = theirs(**feeds, output_hidden_states=True).hidden_states
    torch.testing.assert_close(results["1:ffn.norm"], hidden[2], atol=1e-5, rtol=1e-4)
    scores = results["0:attention.scores"]
    assert scores.shape == (3, 4, 9, 9)
    assert scores.abs().max() < 1e3  # before the mask
    with pytest.raises(BqcError, match=r"no value '2:ffn.norm' in the model"):
        module(path, taps=["2:ffn.norm"])


def test_bad_graphs_and_feeds() -> None:
    constants = {"w": np.ones((4, 3), np.float32)}
    odd = graph_of([helper.make_node("Hardmax", ["x"], ["y"], name="odd")], {}, 4)
    with pytest.raises(BqcError, match=r"node odd is a Hardmax, .* supported: Abs, Add, .*ai\.bqc::"):
        module(odd)
    nodes = [
        helper.make_node("Cast", ["x"], ["i"], to=TensorProto.INT64),
        helper.make_node("Reshape", ["w", "i"], ["y"], name="shaped"),
    ]
    with pytest.raises(BqcError, match=r"node shaped \(Reshape\): its input i is computed from data"):
        module(graph_of(nodes, constants, 4))
    made = module(exported("torchscript", Cell("bert", "classification")))
    with pytest.raises(BqcError, match="the model needs the input attention_mask"):
        made(input_ids=torch.ones(1, 2, dtype=torch.int64))


@pytest.mark.slow
@pytest.mark.parametrize("export", EXPORTS, ids=str)
def test_every_exporter(export) -> None:  # type: ignore[no-untyped-def]
    ours, theirs = module(export.path).eval(), session(export.path)
    assert isinstance(ours, OnnxModule)
    for feeds in batches(set(ours.input_names)):
        results = ours(**tensors(feeds))
        for name, expected in zip(ours.output_names, theirs.run(ours.output_names, feeds), strict=True):
            assert np.abs(results[name].detach().numpy() - expected).max() <= 1e-4


def test_a_network_of_signs_by_signs() -> None:
    """What training runs of two binarised products is what their operators compute; gradients pass straight through."""
    text = """
<ir_version: 10, opset_import: ["" : 21, "ai.bqc" : 1], metadata_props: ["bqc.anatomy": "{}"]>
g (float[B,S,24] x) => (float[B,S,24] z)
<float[24,40] w = {1, ...}, float[40] b = {0.5, ...}, float[40,24] v = {1, ...}, float[24] c = {0.25, ...}> {
   float[B,S,40] p = MatMul (x, w) @0:ffn.intermediate
   float[B,S,40] y = Add (p, b) @0:ffn.intermediate
   float[B,S,40] a = Gelu (y) @0:ffn.gelu
   float[B,S,24] q = MatMul (a, v) @0:ffn.output
   float[B,S,24] t = Add (q, c) @0:ffn.output
   z = Add (t, x) @0:ffn.output
}
"""
    model = from_text(text)
    rng = np.random.default_rng(0)
    arrays = {}
    for name in ("w", "v"):
        value = model.graph.initializers[name]
        arrays[name] = rng.standard_normal(value.const_value.shape.numpy()).astype(np.float32)
        arrays[name][0, ::3] = 0
        value.const_value = ir.Tensor(arrays[name], name=name)
    plan = Plan("recipe", {f"0:ffn.{role}": Xnor("one") for role in ("intermediate", "output")})
    plan.attach(model)
    assert BinarizeInputs()(model).modified
    student = module(model, weights=plan.weights).train()
    x = rng.standard_normal((2, 5, 24)).astype(np.float32)
    x[..., 3] = 0
    z = student(x=torch.from_numpy(x))["z"]
    # Of whole and half numbers every sum is exact.
    y = np.where(x > 0, 1, -1) @ np.where(arrays["w"] > 0, 1, -1) + 0.5
    wanted = np.where(y > 0, 1, -1) @ np.where(arrays["v"] > 0, 1, -1) + 0.25
    np.testing.assert_array_equal(z.detach().numpy(), wanted.astype(np.float32) + x)
    z.sum().backward()
    last = student.parameter("v").grad.numpy()
    np.testing.assert_array_equal(last, np.where(y > 0, 1, -1).sum((0, 1))[:, None].repeat(24, 1))
    assert (student.parameter("w").grad.numpy() != 0).any()


def test_sparse_weights_train_to_what_is_compiled() -> None:
    model = import_model(exported("torchscript", Cell("bert", "classification")))[0]
    prepared = prepare(model, "bbct")
    plan = Plan.of(model)
    linears = [key for key in plan.weights if not key.startswith("embedding:")]
    for at, key in enumerate(linears):
        plan.weights[key] = Sparse(*PATTERNS[at % 4], 8 if at % 3 else 4, plan.weights[key].group)
    plan.attach(model)
    prepared = prepared.rewritten(module(prepared.graph), [])
    made = module(prepared.graph, weights=prepared.plan.weights, lower=prepared.lowered)
    feeds = tensors(next(iter(batches(set(made.input_names)))))
    trained = made(**feeds)["logits"]
    trained.sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in made.parameters() if p.grad is not None)
    compiled = made.eval()(**feeds)["logits"]
    torch.testing.assert_close(compiled, trained.detach(), atol=0.05, rtol=0.05)
    operators = {node.op_type for node in prepared.lowered(made).graph}
    assert {"SparseLinearGelu", "SparseLinearAddNorm"} <= operators
