"""Random models survive the way through text, and random text never breaks the parser."""

from __future__ import annotations

import contextlib
import math

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bqc.errors import BqcError
from bqc.ir.soundness import INPUT_LIMIT
from bqc.ir.synthetic import canonical_bert
from bqc.ir.text import from_text, to_text
from bqc.ir.text.lexer import DTYPES

NAMES = st.one_of(
    st.text("abXY_.0:/-", min_size=1, max_size=8),
    st.sampled_from(
        ["float", "seq", "raw", "elided", "inf", "nan", "doc", "über", 'a"b\\', "a\nb", "\u2028", "//x", ""]
    ),
)
TEXTS = st.text(max_size=12)
PROPS = st.dictionaries(st.one_of(NAMES, st.sampled_from(["bqc.layer", "bqc.role"])), TEXTS, max_size=3)
DIMS = st.one_of(st.integers(0, 2**40), st.sampled_from(["batch", "a b", "N+1", "1"]), st.none())
NUMERIC = [dtype for dtype in DTYPES.values() if dtype != ir.DataType.STRING]


@st.composite
def tensors(draw: st.DrawFn) -> ir.TensorProtocol:
    shape = draw(st.lists(st.integers(0, 5), max_size=3))
    dtype = draw(st.sampled_from(NUMERIC))
    size = int(np.prod(shape))
    if draw(st.booleans()) and dtype.bitwidth >= 8 and dtype != ir.DataType.BOOL:
        raw = draw(st.binary(min_size=size * dtype.bitwidth // 8, max_size=size * dtype.bitwidth // 8))
        array = np.frombuffer(raw, dtype.numpy()).reshape(shape)
    else:
        array = np.full(shape, draw(st.integers(0, 1)), dtype.numpy())
    return ir.Tensor(array, dtype=dtype)


STRINGS = st.lists(st.binary(max_size=6), max_size=4).map(
    lambda items: ir.StringTensor(items, shape=ir.Shape([len(items)]))
)
TENSORS = st.one_of(tensors(), STRINGS)
FLOATS = st.floats(width=32)
INTS = st.integers(-(2**63), 2**63 - 1)
Kind = ir.AttributeType


@st.composite
def types(draw: st.DrawFn) -> ir.TypeProtocol:
    kind: ir.TypeProtocol = ir.TensorType(draw(st.sampled_from(list(DTYPES.values()))))
    if draw(st.integers(0, 5)) == 0:
        kind = ir.SparseTensorType(kind.dtype)
    for outer in draw(st.lists(st.sampled_from([ir.SequenceType, ir.OptionalType]), max_size=2)):
        kind = outer(kind)
    return kind


SHAPES = st.one_of(st.none(), st.lists(DIMS, max_size=3).map(ir.Shape))
TYPES = st.builds(ir.TypeAndShape, types(), SHAPES)


@st.composite
def attributes(draw: st.DrawFn, depth: int, in_function: bool) -> list[ir.Attr]:
    kinds = {
        Kind.INT: INTS,
        Kind.FLOAT: FLOATS,
        Kind.STRING: TEXTS,
        Kind.INTS: st.lists(INTS, max_size=3),
        Kind.FLOATS: st.lists(FLOATS, max_size=3),
        Kind.STRINGS: st.lists(TEXTS, max_size=3),
        Kind.TENSOR: TENSORS,
        Kind.TENSORS: st.lists(TENSORS, max_size=2),
        Kind.TYPE_PROTO: TYPES,
        Kind.TYPE_PROTOS: st.lists(TYPES, max_size=2),
    }
    if depth < 2:
        kinds[Kind.GRAPH] = graphs(depth + 1)
        kinds[Kind.GRAPHS] = st.lists(graphs(depth + 1), max_size=2)
    made = []
    for name in draw(st.lists(NAMES, max_size=3, unique=True)):
        kind = draw(st.sampled_from(list(kinds)))
        doc = draw(st.one_of(st.none(), TEXTS)) or None
        if in_function and kind not in (Kind.GRAPH, Kind.GRAPHS) and draw(st.booleans()):
            made.append(ir.RefAttr(name, draw(NAMES) or "r", kind, doc_string=doc))
        else:
            made.append(ir.Attr(name, kind, draw(kinds[kind]), doc_string=doc))
    return made


@st.composite
def values(draw: st.DrawFn, name: str) -> ir.Value:
    kind = draw(st.one_of(st.none(), types()))
    value = ir.Value(name=name, type=kind, shape=draw(SHAPES) if kind is not None else None)
    value.metadata_props.update(draw(PROPS))
    value.doc_string = draw(TEXTS) or None
    return value


def is_small(value: ir.Value) -> bool:
    """No input that is larger is read, on purpose."""
    sizes = [size for size in value.shape or () if isinstance(size, int)]
    return math.prod(sizes) <= INPUT_LIMIT


@st.composite
def graphs(draw: st.DrawFn, depth: int = 0, in_function: bool = False) -> ir.Graph:
    names = [name for name in draw(st.lists(NAMES, max_size=8, unique=True)) if name]
    inputs = [
        ir.Value(name=name) if in_function else draw(values(name).filter(is_small)) for name in names[:2]
    ]
    initializers = []
    for name in names[2:4] if not in_function else []:
        tensor = draw(TENSORS)
        value = ir.Value(name=name, type=ir.TensorType(tensor.dtype), shape=tensor.shape, const_value=tensor)
        value.metadata_props.update(draw(PROPS))
        initializers.append(value)
    known, nodes = [*inputs, *initializers], []
    for name in names[4:]:
        read = draw(st.lists(st.one_of(st.none(), *map(st.just, known)), max_size=3))
        node = ir.Node(
            draw(st.sampled_from(["", "ai.bqc", "a b", "x.y"])),
            draw(NAMES) or "Op",
            read,
            draw(attributes(depth, in_function)),
            outputs=[draw(values(name))],
            name=draw(st.one_of(st.none(), NAMES)),
            overload=draw(st.sampled_from(["", "o", "o 1"])),
            doc_string=draw(TEXTS) or None,
            metadata_props=draw(PROPS),
        )
        nodes.append(node)
        known += node.outputs
    outputs = [v for v in known if v not in initializers and draw(st.booleans())]
    return ir.Graph(
        inputs,
        outputs,
        nodes=nodes,
        initializers=initializers,
        name=draw(NAMES),
        doc_string=None if in_function else draw(TEXTS) or None,
        opset_imports={"": 21, **draw(st.dictionaries(NAMES, st.integers(1, 99), max_size=2))},
        metadata_props={} if in_function else draw(PROPS),
    )


@st.composite
def models(draw: st.DrawFn) -> ir.Model:
    functions = []
    for name in draw(st.lists(NAMES, max_size=1)):
        parameters = [ir.Attr("alpha", Kind.UNDEFINED, None), ir.Attr("beta", Kind.FLOAT, draw(FLOATS))]
        body = draw(graphs(1, in_function=True))
        functions.append(ir.Function("local", name or "f", graph=body, attributes=parameters))
    return ir.Model(
        draw(graphs()),
        ir_version=draw(st.integers(10, 12)),
        producer_name=draw(TEXTS) or None,
        model_version=draw(st.one_of(st.none(), st.integers(1, 9))),
        doc_string=draw(TEXTS) or None,
        functions=functions,
        metadata_props=draw(PROPS),
    )


def plain(model: ir.Model) -> onnx.ModelProto:
    """The protobuf with the order of what has none taken out."""
    proto = ir.to_proto(model)

    def visit(message: object) -> None:
        for field, content in message.ListFields():  # type: ignore[attr-defined]
            if field.name in ("metadata_props", "opset_import", "attribute"):
                content.sort(
                    key=lambda item: (
                        getattr(item, "key", None)
                        or getattr(item, "name", None)
                        or getattr(item, "domain", "")
                    )
                )
            if field.message_type is not None:
                for item in content if not hasattr(content, "ListFields") else [content]:
                    visit(item)

    visit(proto)
    return proto


@settings(max_examples=150, deadline=None)
@given(models())
def test_random_models_survive(model: ir.Model) -> None:
    whole = to_text(model, tensors="inline")
    read = from_text(whole)
    assert to_text(read, tensors="inline") == whole
    assert str(plain(read)) == str(plain(model))
    short = to_text(model)
    assert to_text(from_text(short)) == short


@pytest.fixture(scope="module")
def text() -> str:
    return to_text(canonical_bert(layers=1, hidden=8, heads=2, ffn=12))


PIECES = st.sampled_from(
    ["<", ">", "{", "}", "(", ")", "[", "]", "@", "=", "=>", ",", ":", '"', "\\", "...", "float", "graph", "-1",
     "1e999", "99999999999999999999", "nan", "elided", 'raw "AA"', "@0:x", "@doc", "If",
     "then: graph = g () => () {", "seq(", "\x00", "é"]
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_mutated_text_is_read_or_refused(text: str, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, min(start + 40, len(text))))
    changed = text[:start] + "".join(data.draw(st.lists(PIECES, max_size=3))) + text[end:]
    with contextlib.suppress(BqcError):
        from_text(changed)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.one_of(PIECES, st.sampled_from(["g", " ", "\n", "ir_version", "1", '"x"'])), max_size=20).map(
        "".join
    )
)
def test_noise_is_refused(noise: str) -> None:
    with pytest.raises(BqcError):
        from_text("<ir_version: 10>" + noise + "~")
