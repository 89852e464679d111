"""Write docs/operators: a page for every operator of ``ai.bqc``, from the operator registry.

python tools/operator_docs.py           # write the pages
python tools/operator_docs.py --check   # exit status 1 and a line a stale page
"""

from __future__ import annotations

import argparse
import inspect
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import onnx

from bqc.ops.functions import functions_for
from bqc.ops.registry import DOMAIN, OPERATORS, OPSET, VERSION, Operator

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "docs" / "operators"

FAMILIES = {
    "elementary": "Between float and blocks, elementwise and row-wise functions",
    "static": "Activations of given scales",
    "linear": "Linear layers over packed weights",
    "attention": "Attention over quantised heads",
    "float_attention": "Attention over float32 numbers",
    "embedding": "Embedding",
    "signs": "Weights made of signs",
    "ragged": "Sequences without padding",
    "half": "Weights in fp16 and as indices of fp16 numbers",
    "xnor": "Signs by signs",
    "sparse": "N:M-sparse weights",
}
"""Module of ``bqc.ops.bodies`` -> heading."""

CODES = ("int8", ("...", "K"), "codes")
EXPONENTS = ("int8", ("...", "n"), "exponents of `codes`")
Q = ("int8", ("B", "S", "H"))
QE = ("int8", ("B", "S", "n"))
REAL = "float32 or float16"
INPUTS: dict[str, tuple[str, Sequence[str], str]] = {
    "x": ("float32", ("...", "K"), "any values"),
    "exponent": ("float32", ("1",), "of all scales; rounded half to even and clamped to -126 to 119, NaN 0"),
    "codes": CODES,
    "exponents": EXPONENTS,
    "mask": ("int64", ("B", "S"), "key padding mask: 0 drops a token"),
    "gamma": (REAL, ("H",), "scale of the normalisation"),
    "beta": (REAL, ("H",), "shift of the normalisation"),
    "weight": ("uint8", ("ceil16(N) / 16", "ceil(K' * bits / 32)", "16", "4"), "codes in the layout `n16k4`"),
    "weight_exponents": ("int8", ("n", "ceil16(N)"), "exponents of `weight`, a row a block"),
    "bias": (REAL, ("N",), "added last"),
    "signs": ("int8", ("P", "N", "K"), "planes of -1 and 1"),
    "planes": (
        "uint8",
        ("P", "ceil16(N) / 16", "K' / 16", "2", "16"),
        "planes of signs in the layout `n16k16`",
    ),
    "word_scales": (REAL, ("P", "V or 1"), "a scale for each row of a plane, or one for all"),
    "residual": ("int8", ("...", "N"), "codes of the residual"),
    "residual_exponents": ("int8", ("...", "n"), "exponents of `residual`"),
    "q": (*Q, "codes of the queries, blocks inside heads"),
    "q_exponents": (*QE, "exponents of `q`"),
    "key": (*Q, "codes of the keys, blocks inside heads"),
    "key_exponents": (*QE, "exponents of `key`"),
    "values": (*Q, "codes of the values, blocks inside heads"),
    "value_exponents": ("int8", ("B", "n"), "exponents of `values`, shared by a sequence's tokens"),
    "scores": ("float32", ("B", "h", "S", "S"), "attention scores"),
    "probabilities": ("uint8", ("B", "h", "S", "S"), "codes of `MaskedSoftmax`"),
    "ids": ("int64", ("B", "S"), "rows of the table to look up"),
    "type_ids": ("int64", ("B", "S"), "token types"),
    "position_ids": ("int64", ("1 or B", "S"), "positions"),
    "table": ("uint8", ("V", "row bytes"), "codes in the layout `row`"),
    "word": ("uint8", ("V", "row bytes"), "word table in the layout `row`"),
    "word_exponents": ("int8", ("V", "n"), "exponents of `word`"),
    "tiles": (
        "uint8",
        ("ceil16(V) / 16", "ceil(ceil16(H) * bits / 32)", "16", "4"),
        "word table in the layout `n16k4`, as the weight of a linear that shares it",
    ),
    "scales": ("int8", ("n", "ceil16(V)"), "exponents of `tiles`, a row a block"),
    "kind": ("uint8", ("T", "row bytes"), "token type table in the layout `row`"),
    "kind_exponents": ("int8", ("T", "n"), "exponents of `kind`"),
    "position": ("uint8", ("L", "row bytes"), "position table in the layout `row`"),
    "position_exponents": ("int8", ("L", "n"), "exponents of `position`"),
    "seq_start": ("int64", ("B + 1",), "the first token of each sequence and, last, the number of tokens"),
}
"""Input name -> type, shape, meaning."""
_STRIPS = ("ceil16(N) / 16", "K", "16")
_FLOAT_LINEARS = ("Linear", "LinearGelu", "LinearRelu", "LinearAddNorm")
_SCALES = (
    REAL,
    ("P", "ceil16(N) or 1"),
    "a scale for each output of a plane, or one for all",
)
_BITS = ("uint8", ("...", "ceil8(K) / 8"), "bits of signs, the first in the lowest")
_XNOR: dict[str, tuple[str, Sequence[str], str]] = {
    "bits": _BITS,
    "tiles": ("uint8", ("ceil16(N) / 16", "ceil64(K) / 64", "8", "16"), "signs in the layout `n16k64`"),
    "scales": ("float32", ("ceil16(N) or 1",), "a scale for each output, or one for all"),
}
_SPARSE_TILES = (
    "uint8",
    ("ceil16(N) / 16", "bytes"),
    "kept codes and their indices in the layout `n16s4` ([Sparse](../formats/sparse.md))",
)
_SPARSE_SCALES = ("float32", ("ceil16(N)",), "a scale for each output")
SPECIAL: dict[tuple[str, str], tuple[str, Sequence[str], str]] = {
    ("BlockQuantizeValues", "x"): ("float32", ("B", "S", "H"), "any values"),
    ("StaticQuantizeValues", "x"): ("float32", ("B", "S", "H"), "any values"),
    ("RaggedBlockQuantizeValues", "x"): ("float32", ("T", "H"), "any values"),
    **{
        (f"Ragged{form}", "mask"): ("int64", ("T",), "0 hides a token")
        for form in ("BlockQuantizeValues", "BlockAttention", "FloatAttention")
    },
    **{
        (operator, name): ("float32", tokens, f"{meaning}, head by head")
        for operator, tokens in (
            ("FloatAttention", ("B", "S", "H")),
            ("RaggedFloatAttention", ("T", "H")),
        )
        for name, meaning in (("q", "queries"), ("key", "keys"), ("values", "values"))
    },
    **{
        ("RaggedBlockAttention", name): (
            "int8",
            ("T", "n" if name.endswith("exponents") else "H"),
            INPUTS[name][2],
        )
        for name in ("q", "q_exponents", "key", "key_exponents", "values")
    },
    ("LayerNorm", "x"): ("float32", ("...", "H"), "any values"),
    ("LayerNorm", "gamma"): ("float32", ("H",), "scale of the normalisation"),
    ("LayerNorm", "beta"): ("float32", ("H",), "shift of the normalisation"),
    ("BlockLinearQuantizeValues", "codes"): ("int8", ("B", "S", "K"), "codes"),
    ("BlockLinearQuantizeValues", "exponents"): ("int8", ("B", "S", "n"), "exponents of `codes`"),
    ("BlockLinearAddNorm", "gamma"): (REAL, ("N",), "scale of the normalisation"),
    ("BlockLinearAddNorm", "beta"): (REAL, ("N",), "shift of the normalisation"),
    ("SoftmaxDequantize", "codes"): ("uint8", ("B", "h", "S", "S"), "codes of `MaskedSoftmax`"),
    **{
        (f"SignLinear{form}", "scales"): _SCALES
        for form in ("", "Quantize", "QuantizeValues", "Gelu", "Relu", "AddNorm")
    },
    ("SignDequantize", "scales"): (
        REAL,
        ("P", "N or 1"),
        "a scale for each row of a plane, or one for all",
    ),
    ("SignDequantizeTiles", "scales"): _SCALES,
    ("SignGather", "rows"): ("uint8", ("P", "V", "ceil8(H) / 8"), "planes of signs in the layout `row`"),
    ("SignGather", "scales"): (
        REAL,
        ("P", "V or 1"),
        "a scale for each row of a plane, or one for all",
    ),
    ("SignEmbeddingLayerNorm", "word"): (
        "uint8",
        ("P", "V", "ceil8(H) / 8"),
        "word table: planes of signs in the layout `row`",
    ),
    ("SignLinearAddNorm", "gamma"): (REAL, ("N",), "scale of the normalisation"),
    ("SignLinearAddNorm", "beta"): (REAL, ("N",), "shift of the normalisation"),
    ("SignLinearQuantizeValues", "codes"): ("int8", ("B", "S", "K"), "codes"),
    ("SignLinearQuantizeValues", "exponents"): ("int8", ("B", "S", "n"), "exponents of `codes`"),
    **{
        (f"Half{form}", "tiles"): ("float16", _STRIPS, "weight or table in the layout `n16`")
        for form in ("DequantizeTiles", *_FLOAT_LINEARS, "GatherTiles")
    },
    **{
        (f"Index{form}", "tiles"): ("uint8", _STRIPS, "indices in the layout `n16`")
        for form in ("DequantizeTiles", *_FLOAT_LINEARS, "GatherTiles")
    },
    **{
        (f"Index{form}", "table"): ("float16", ("256",), "the numbers that indices stand for")
        for form in ("Dequantize", "DequantizeTiles", *_FLOAT_LINEARS, "Gather", "GatherTiles")
    },
    **{
        (f"{family}LinearAddNorm", name): about
        for family in ("Half", "Index")
        for name, about in (
            ("residual", ("float32", ("...", "N"), "what is added to the linear's output")),
            ("gamma", (REAL, ("N",), "scale of the normalisation")),
            ("beta", (REAL, ("N",), "shift of the normalisation")),
        )
    },
    ("HalfDequantize", "rows"): ("float16", ("N", "K"), "the weight"),
    ("HalfGather", "rows"): ("float16", ("V", "H"), "the table"),
    ("IndexDequantize", "codes"): ("uint8", ("N", "K"), "indices"),
    ("IndexGather", "codes"): ("uint8", ("V", "H"), "indices, a row of the table each"),
    ("BinaryDequantize", "bits"): _BITS,
    ("XnorDequantize", "signs"): ("int8", ("N", "K"), "-1 and 1"),
    ("XnorDequantize", "scales"): ("float32", ("N or 1",), "a scale for each row, or one for all"),
    **{
        (f"Xnor{form}", name): about
        for form in ("DequantizeTiles", "Linear", "LinearBinarize", "LinearAddNorm")
        for name, about in _XNOR.items()
    },
    ("XnorLinearAddNorm", "gamma"): (REAL, ("N",), "scale of the normalisation"),
    ("XnorLinearAddNorm", "beta"): (REAL, ("N",), "shift of the normalisation"),
    **{
        (f"SparseLinear{form}", name): told
        for form in ("", "Quantize", "QuantizeValues", "Gelu", "Relu", "AddNorm")
        for name, told in (("tiles", _SPARSE_TILES), ("scales", _SPARSE_SCALES))
    },
    ("SparseDequantize", "codes"): ("int8", ("N", "K"), "codes, 0 where nothing is kept"),
    ("SparseDequantize", "scales"): ("float32", ("N",), "a scale for each row"),
    ("SparseDequantizeTiles", "tiles"): _SPARSE_TILES,
    ("SparseDequantizeTiles", "scales"): _SPARSE_SCALES,
    ("SparseLinearAddNorm", "gamma"): (REAL, ("N",), "scale of the normalisation"),
    ("SparseLinearAddNorm", "beta"): (REAL, ("N",), "shift of the normalisation"),
    ("SparseLinearQuantizeValues", "codes"): ("int8", ("B", "S", "K"), "codes"),
    ("SparseLinearQuantizeValues", "exponents"): ("int8", ("B", "S", "n"), "exponents of `codes`"),
    ("BlockGather", "exponents"): ("int8", ("V", "n"), "exponents of `table`"),
}
"""(operator, input) -> the same, where an operator differs from the rest."""

ATTRIBUTES = {
    "bits": "bits of the codes: 8, 6, 4, 3 or 2",
    "minimum": "at most 0: nothing is smaller, so that the code of 0 may lie below 0",
    "kept": "codes that are stored of every `of`",
    "of": "inputs of which `kept` are stored",
    "block": "elements that share an exponent",
    "group": "no block crosses a multiple of this; 0 for none",
    "heads": "attention heads",
    "approximate": "0: erf form, 1: tanh form",
    "epsilon": "added to the variance",
    "layout": "how the packed codes lie in memory",
    "word_layout": "`layout` of the word table",
    "rows": "rows of the unpacked matrix, N, or table, V",
    "columns": "columns of the unpacked matrix or table",
    "scale": "factor of the scores",
    "out_bits": "`bits` of the output: 8, 6 or 4",
    "out_block": "`block` of the output",
    "out_group": "`group` of the output",
    "residual_block": "`block` of the residual",
    "residual_group": "`group` of the residual",
    "word_bits": "`bits` of the word table",
    "type_bits": "`bits` of the token type table",
    "position_bits": "`bits` of the position table",
}
BITS = {
    "Sparse": "bits of the codes: 8 or 4",
    "BlockQuantize": "bits of the codes: 8, 6 or 4",
    "StaticQuantize": "bits of the codes: 8, 6 or 4",
    "RaggedBlockQuantize": "bits of the codes: 8, 6 or 4",
}
"""How operators begin -> what their attribute `bits` is, where it is not as in `ATTRIBUTES`."""
BITS_OF = {"Binarize": "K", "BinarizeCodes": "K", "XnorLinearBinarize": "N"}
"""Operator -> the elements that its output has a bit each of."""
SYMBOLS = {"heads": "h", "columns": "K", "rows": "N"}
"""What an attribute is called where it is a dimension."""


def described(operator: Operator, name: str) -> tuple[str, Sequence[str], str]:
    """Type, shape and meaning of an input."""
    special = SPECIAL.get((operator.name, name))
    return INPUTS[name] if special is None else special


def meaning(operator: Operator, attribute: str) -> str:
    """What an attribute means."""
    own = [text for begin, text in BITS.items() if attribute == "bits" and operator.name.startswith(begin)]
    return own[0] if own else ATTRIBUTES[attribute]


def outputs(operator: Operator) -> list[tuple[str, str, str]]:
    """Name, type and shape of every output, by the registry's inference on symbolic shapes."""
    shapes = [list(described(operator, name)[1]) for name in operator.inputs]
    found = operator.infer(shapes, {**operator.attributes, **SYMBOLS})
    bits = BITS_OF.get(operator.name)
    names = ["codes", "exponents", "offset"][: len(found)] if len(found) > 1 else ["bits" if bits else "y"]
    unknown = f"ceil8({bits}) / 8" if bits else "n"
    return [
        (
            name,
            dtype.name.lower().replace("float", "float32"),
            _shape([unknown if d is None else d for d in shape]),
        )
        for name, (dtype, shape) in zip(names, found, strict=True)
    ]


def page(operator: Operator) -> str:
    """The page of one operator."""
    rows = [
        (f"`{n}`", t, _shape(s), about)
        for n, (t, s, about) in ((n, described(operator, n)) for n in operator.inputs)
    ]
    family = operator.family
    kernel = "a kernel in the library" if operator.has_kernel else "no kernel: it is used between passes only"
    parts = [
        f"# {operator.name}",
        _prose(operator.summary),
        f"Domain `{DOMAIN}`, version {VERSION}; {kernel}. Defined in `bqc/ops/bodies/{family}.py`. "
        "[Notation](index.md#notation).",
        "## Inputs",
        _table(("input", "type", "shape", ""), rows),
    ]
    if operator.attributes:
        chosen = [(f"`{n}`", _default(v), meaning(operator, n)) for n, v in operator.attributes.items()]
        parts += ["## Attributes", _table(("attribute", "default", ""), chosen)]
    parts += [
        "## Outputs",
        _table(("output", "type", "shape"), [(f"`{n}`", t, s) for n, t, s in outputs(operator)]),
        "## Definition",
        f"In numpy, from `{_file(operator.reference)}`; the function body and every kernel give the same bits.",
        f"```python\n{inspect.getsource(operator.reference).rstrip()}\n```",
        "## Function body",
        _body(operator),
    ]
    return "\n\n".join(parts) + "\n"


def _file(function: Any) -> str:
    """Where a function is written, from the root of the project."""
    return f"{function.__module__.replace('.', '/')}.py"


def index() -> str:
    """The list of operators, and the notation that the pages share."""
    parts = [
        "# Operators",
        f"The operators of the domain `{DOMAIN}`, version {VERSION}. Each is written once, as an onnxscript function "
        f"over standard operators of opset {OPSET}: that function is its specification, is saved in every compiled "
        "file, and runs wherever there is no kernel for it. These pages are generated: "
        "`python tools/operator_docs.py`.",
        "## Notation",
        "A quantised tensor is a pair: codes int8 `[..., K]` and exponents int8 `[..., n]`, one for each of the `n` "
        "blocks of a row, with `value = code * 2**exponent` ([BlockShift](../formats/block-shift.md)), where -127 "
        "and -128, which no quantiser makes, count as 127 and 126. `...` is any "
        "leading dimensions, `B` batch, `S` sequence, `H` hidden size, `h` heads, `N` outputs and `K` inputs of a "
        "linear layer, `K'` the inputs with every group padded to a multiple of 16, `V`, `T`, `L` rows of a table, `T` "
        "tokens too where sequences have no padding, "
        "`P` planes of signs ([Binary](../formats/binary.md), [Ternary](../formats/ternary.md)), `ceil8`, `ceil16` and "
        "`ceil64` the next multiples of 8, 16 and 64.",
    ]
    for family, title in FAMILIES.items():
        members = [o for o in OPERATORS.values() if o.family == family]
        rows = [(f"[{o.name}]({o.name}.md)", _prose(o.summary)) for o in members]
        parts += [f"## {title}", _table(("operator", ""), rows)]
    return "\n\n".join(parts) + "\n"


def pages() -> dict[str, str]:
    """File name -> text, for every page."""
    return {"index.md": index(), **{f"{name}.md": page(operator) for name, operator in OPERATORS.items()}}


def stale() -> list[str]:
    """Pages that are missing, differ from what the registry says, or belong to no operator."""
    wanted = pages()
    there = {path.name: path.read_text(encoding="utf-8") for path in FOLDER.glob("*.md")}
    return sorted(name for name in wanted.keys() | there.keys() if wanted.get(name) != there.get(name))


def _body(operator: Operator) -> str:
    protos = {proto.name: proto for proto in functions_for([operator.name])}
    own = _operators(protos[operator.name].node)
    calls = [name for name in own if name in protos]
    every = Counter[str]()
    for proto in protos.values():
        every.update({name for name in _operators(proto.node) if name not in protos})
    text = f"Calls {', '.join(_link(name) for name in calls)}. " if calls else ""
    return f"{text}Standard operators used, callees included: {', '.join(sorted(every))}."


def _operators(nodes: Iterable[onnx.NodeProto]) -> list[str]:
    """Operators of the nodes and of their subgraphs, each once, in order."""
    found: dict[str, None] = {}
    for node in nodes:
        found[node.op_type] = None
        for attribute in node.attribute:
            found |= dict.fromkeys(_operators(attribute.g.node))
    return list(found)


def _link(name: str) -> str:
    return f"[{name}]({name}.md)" if name in OPERATORS else f"`{name}`"


def _prose(text: str) -> str:
    """A docstring's line in Markdown: its stars are products, not emphasis."""
    return text.replace("*", "\\*")


def _shape(dims: Sequence[Any]) -> str:
    return f"`[{', '.join(map(str, dims))}]`"


def _default(value: Any) -> str:
    return f'`"{value}"`' if isinstance(value, str) else f"`{value:g}`"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|") for cell in line).strip() + " |" for line in lines
    )


def main() -> int:
    """Write or check the pages."""
    parser = argparse.ArgumentParser(description="Write docs/operators from the operator registry.")
    parser.add_argument(
        "--check", action="store_true", help="write nothing; exit status 1 if a page is stale"
    )
    if parser.parse_args().check:
        for name in (found := stale()):
            print(f"docs/operators/{name} is stale: run python tools/operator_docs.py", file=sys.stderr)
        return int(bool(found))
    FOLDER.mkdir(parents=True, exist_ok=True)
    wanted = pages()
    for path in FOLDER.glob("*.md"):
        if path.name not in wanted:
            path.unlink()
    for name, text in wanted.items():
        (FOLDER / name).write_text(text, encoding="utf-8")
    print(f"{len(wanted)} pages in docs/operators")
    return 0


if __name__ == "__main__":
    sys.exit(main())
