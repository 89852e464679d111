"""Options of schemes that more than one verb has."""

from __future__ import annotations

from collections.abc import Callable, Iterable, MutableMapping
from typing import Any, TypeVar

import click

from bqc.cli.common import FILE
from bqc.errors import BqcError

__all__ = ["option_name", "require_options", "scheme_options", "take_scheme_options"]

Command = TypeVar("Command", bound=Callable[..., Any])

_NUMBERS = ("weight_bits", "embedding_bits", "activation_bits", "position_bits")
_BITS = click.Choice(["8", "6", "4", "3", "2"])
_OPTIONS = (
    click.option("--weight-bits", type=_BITS, help="Bits a weight. [default: the scheme's]"),
    click.option("--embedding-bits", type=_BITS, help="Bits an embedding weight. [default: the scheme's]"),
    click.option(
        "--block",
        type=click.Choice(["16", "32", "64", "128", "256", "row"]),
        help="Elements that share a scale. [default: the scheme's]",
    ),
    click.option(
        "--weights",
        type=click.Choice(["split", "ternary", "binary", "two-plane"]),
        help="Of binarybert: what weights are made of. [default: split]",
    ),
    click.option(
        "--activation-bits", type=click.Choice(["8", "6", "4"]), help="Of binarybert: bits. [default: 8]"
    ),
    click.option(
        "--activations",
        type=click.Choice(["dynamic", "static"]),
        help="Of binarybert: scales found at run time, or learned by training. [default: dynamic]",
    ),
    click.option(
        "--position-bits",
        type=click.Choice(["8", "32"]),
        help="Of binarybert: bits of position and type tables, 32 for float. [default: 8]",
    ),
    click.option(
        "--table-scales",
        type=click.Choice(["fp16", "fp32"]),
        help="Of binarybert: what the word table's scales are stored in. [default: fp16]",
    ),
    click.option(
        "--parameters",
        type=click.Choice(["fp16", "fp32"]),
        help="Of binarybert: what biases and norms are stored in. [default: fp16]",
    ),
    click.option(
        "--ffn-activation",
        type=click.Choice(["keep", "relu"]),
        help="Of binarybert: relu trains with ReLU in the FFNs, for 4-bit activations. [default: keep]",
    ),
    click.option(
        "--budget-mib",
        type=float,
        metavar="X",
        help="Of binarybert: MiB that the weights may take; those that gain least are binary for it.",
    ),
    click.option(
        "--scores",
        type=FILE,
        metavar="FILE",
        help="Of binarybert: scores of bqc sensitivity to spend the budget by. [default: squared errors]",
    ),
)


def scheme_options(command: Command) -> Command:
    """The options, in the order above."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def take_scheme_options(given: MutableMapping[str, Any]) -> dict[str, Any]:
    """Those that were given, as schemes take them; they are removed from ``given``."""
    names = (
        *_NUMBERS,
        *(
            "block",
            "weights",
            "activations",
            "table_scales",
            "parameters",
            "ffn_activation",
            "budget_mib",
            "scores",
        ),
    )
    found = {name: value for name in names if (value := given.pop(name, None)) is not None}
    for name in (*_NUMBERS, "block"):
        if found.get(name, "row") != "row":
            found[name] = int(found[name])
    return found | ({"scores": str(found["scores"])} if "scores" in found else {})


def option_name(name: str) -> str:
    """A keyword of the Python functions as it is typed."""
    return f"--{name.replace('_', '-')}"


def require_options(scheme: str, options: Iterable[str], *, besides: tuple[str, ...] = ()) -> None:
    """Raise BqcError if a scheme lacks one of these options, or there is no such scheme; ``besides`` as there."""
    from dataclasses import fields

    from bqc.schemes import scheme_class

    known = {field.name for field in fields(scheme_class(scheme, besides=besides))}
    for name in options:
        if name not in known:
            raise BqcError(f"scheme {scheme} has no option {option_name(name)}")
