"""Reading a model file's node list without reading its weights.

A session has to know which ``ai.bqc`` nodes a file holds. Parsing the whole protobuf for that would copy
every inline weight through memory, so this walks the wire format over a memory map and steps across the rest.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = ["DOMAIN", "NodeName", "bqc_nodes", "nodes"]

DOMAIN = "ai.bqc"

# Field numbers of onnx.proto.
_MODEL_GRAPH = 7
_GRAPH_NODE = 1
_NODE_NAME, _NODE_OP_TYPE, _NODE_DOMAIN = 3, 4, 7

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


@dataclass(frozen=True)
class NodeName:
    """Name, operator and its domain of one node."""

    name: str
    op_type: str
    domain: str = DOMAIN


def bqc_nodes(path: str | Path) -> list[NodeName]:
    """The ``ai.bqc`` nodes of the model's main graph, in file order.

    A file that is not a model has none: what is wrong with it is for ONNX Runtime to say.
    """
    return [node for node in nodes(path) if node.domain == DOMAIN]


def nodes(path: str | Path) -> list[NodeName]:
    """All nodes of the model's main graph, in file order; as ``bqc_nodes``."""
    with Path(path).open("rb") as file:
        try:
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except ValueError:  # an empty file cannot be mapped
            return []
        with data:
            try:
                return list(_nodes(data))
            except (IndexError, UnicodeDecodeError, _NotProtobuf):
                return []


class _NotProtobuf(Exception):
    """The bytes do not follow the wire format."""


def _nodes(data: mmap.mmap) -> Iterator[NodeName]:
    for field, begin, end in _fields(data, 0, len(data)):
        if field != _MODEL_GRAPH:
            continue
        for inner, node_begin, node_end in _fields(data, begin, end):
            if inner != _GRAPH_NODE:
                continue
            texts = {
                key: data[start:stop].decode()
                for key, start, stop in _fields(data, node_begin, node_end)
                if key in (_NODE_NAME, _NODE_OP_TYPE, _NODE_DOMAIN)
            }
            yield NodeName(*(texts.get(key, "") for key in (_NODE_NAME, _NODE_OP_TYPE, _NODE_DOMAIN)))


def _fields(data: mmap.mmap, begin: int, end: int) -> Iterator[tuple[int, int, int]]:
    """(field number, first byte, end) of every field in a range; scalar fields are empty."""
    while begin < end:
        key, begin = _varint(data, begin)
        kind = key & 7
        start = begin
        if kind == _BYTES:
            length, start = _varint(data, begin)
            begin = start + length
        elif kind == _VARINT:
            _, start = _varint(data, begin)
            begin = start
        elif kind in (_FIXED32, _FIXED64):
            start = begin = begin + (4 if kind == _FIXED32 else 8)
        else:
            raise _NotProtobuf
        if begin > end:
            raise _NotProtobuf
        yield key >> 3, start, begin


def _varint(data: mmap.mmap, begin: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[begin]
        begin += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, begin
        shift += 7
        if shift > 63:
            raise _NotProtobuf
