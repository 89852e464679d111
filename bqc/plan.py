"""A plan: which format every weight and every quantisation point has. It is also what a recipe file holds.

Weights and points are addressed by ``layer:role`` (docs/canonical-form.md), those of several layers at once by
``0-11:role``; what is not named stays float.
Plan passes write the plan onto the graph, the quantise passes read it from there, and the artifact keeps it.
"""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import onnx_ir as ir
import yaml

from bqc.errors import BqcError
from bqc.formats import BlockShift, Static, Xnor
from bqc.formats.block_shift import ACTIVATION_BITS
from bqc.formats.stored import WeightFormat, stored_format, weight_format
from bqc.ir.anatomy import TABLE_ROLES
from bqc.layer_ranges import expanded, grouped

__all__ = ["PARAMETERS", "PLAN_KEY", "ActivationFormat", "Plan", "load_yaml", "matching", "recipe_text"]

PLAN_KEY = "bqc.plan"
VERSION = 1
PARAMETERS = ("fp16", "fp32")

ActivationFormat = BlockShift | Static
"""Formats of quantisation points: scales found at run time, or known before."""
_Format = TypeVar("_Format")


class _Loader(yaml.SafeLoader):  # type: ignore[misc]
    """Refuses a key that is there twice, of which YAML would silently take the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        known: set[str] = set()
        for key, _ in node.value:
            if isinstance(key.value, str) and key.value in known:
                raise _Twice(
                    f"{key.value!r} is there twice, the second time in line {key.start_mark.line + 1}"
                )
            if isinstance(key.value, str):
                known.add(key.value)
        made: dict[Any, Any] = super().construct_mapping(node, deep)
        return made


class _Twice(Exception):
    """The text names the key."""


def recipe_text(path: Path) -> str:
    """What a recipe file holds. Raises BqcError where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BqcError(f"{path}: cannot read the recipe: {error}") from None


def load_yaml(text: str, where: str) -> Any:
    """Plain data of a YAML file.

    Raises:
        BqcError: a key is there twice; the message begins with ``where``.
        yaml.YAMLError: it is no YAML.
    """
    try:
        # A SafeLoader, which makes plain data only.
        return yaml.load(text, Loader=_Loader)
    except _Twice as error:
        raise BqcError(f"{where}: {error}") from None


@dataclass
class Plan:
    """Formats by ``layer:role``; ``kept`` says why a weight stays float or at more bits than asked for."""

    scheme: str
    weights: dict[str, WeightFormat] = field(default_factory=dict)
    activations: dict[str, ActivationFormat] = field(default_factory=dict)
    kept: dict[str, str] = field(default_factory=dict)
    parameters: str = "fp32"
    """fp32 or fp16: what biases and norms are stored in."""

    def to_yaml(self) -> str:
        """The recipe file."""
        data = {
            "bqc_recipe": VERSION,
            "scheme": self.scheme,
            "weights": grouped({key: str(fmt) for key, fmt in self.weights.items()}),
            "activations": grouped({key: str(fmt) for key, fmt in self.activations.items()}),
            "kept": grouped(self.kept),
            **({"parameters": self.parameters} if self.parameters != "fp32" else {}),
        }
        text: str = yaml.safe_dump(data, sort_keys=False, width=120)
        return text

    @classmethod
    def from_yaml(cls, text: str, where: str) -> Plan:
        """Read a recipe; ``where`` names it in errors.

        Raises BqcError that names the line's key for anything that is not a recipe.
        """
        try:
            data = load_yaml(text, where)
        except yaml.YAMLError as error:
            raise BqcError(f"{where}: not a YAML file: {' '.join(str(error).split())}") from None
        if not isinstance(data, dict) or data.get("bqc_recipe") != VERSION:
            raise BqcError(
                f"{where}: not a recipe: it must be a mapping that starts with 'bqc_recipe: {VERSION}'"
            )
        unknown = set(data) - {"bqc_recipe", "scheme", "weights", "activations", "kept", "parameters"}
        if unknown:
            raise BqcError(
                f"{where}: unknown key {sorted(unknown)[0]!r}; a recipe has scheme, weights, activations, kept, "
                "parameters"
            )
        parameters = data.get("parameters", "fp32")
        if parameters not in PARAMETERS:
            raise BqcError(f"{where}: parameters: {parameters!r} is not {' or '.join(PARAMETERS)}")
        weights = _formats(data.get("weights"), f"{where}: weights", weight_format)
        activations = _formats(data.get("activations"), f"{where}: activations", _activation_format)
        return cls(
            str(data.get("scheme", "")),
            expanded(_tables_checked(weights, where), f"{where}: weights"),
            expanded(activations, f"{where}: activations"),
            _reasons(data.get("kept"), f"{where}: kept"),
            parameters,
        )

    @classmethod
    def read(cls, path: Path) -> Plan:
        """Read a recipe file."""
        return cls.from_yaml(recipe_text(path), str(path))

    def attach(self, model: ir.Model) -> None:
        """Write the plan onto the model."""
        model.metadata_props[PLAN_KEY] = self.to_yaml()

    @property
    def unscaled(self) -> list[str]:
        """Points whose static scale is not known yet."""
        return [
            key for key, fmt in self.activations.items() if isinstance(fmt, Static) and fmt.exponent is None
        ]

    @classmethod
    def of(cls, model: ir.Model) -> Plan:
        """The plan of a model. Raises BqcError if no plan pass has run."""
        text = model.metadata_props.get(PLAN_KEY)
        if text is None:
            raise BqcError(
                "the model has no plan: run a plan pass (plan-bbct, plan-binarybert) before this one"
            )
        return cls.from_yaml(text, "the plan in the model")


def matching(keys: Iterable[str], patterns: Iterable[str], option: str) -> set[str]:
    """Keys ``layer:role`` that match any pattern: ``role``, ``layer:role`` or either part with ``*`` and
    ``?``.

    Raises BqcError naming every role if a pattern matches nothing.
    """
    known = list(keys)
    found: set[str] = set()
    for pattern in patterns:
        full = pattern if ":" in pattern else f"*:{pattern}"
        hits = {key for key in known if fnmatch.fnmatchcase(key, full) or key.split(":")[0] == pattern}
        if not hits:
            names = sorted({key.split(":")[1] for key in known})
            near = difflib.get_close_matches(pattern.split(":")[-1], names, n=1)
            hint = f"did you mean {near[0]}? " if near and near[0] != pattern.split(":")[-1] else ""
            raise BqcError(
                f"{option} {pattern!r} matches no weight; {hint}roles here: {', '.join(names)}; "
                "layers are 0, 1, ..."
            )
        found |= hits
    return found


def _tables_checked(weights: dict[str, WeightFormat], where: str) -> dict[str, WeightFormat]:
    for key, fmt in weights.items():
        if isinstance(fmt, Xnor) and key.split(":")[-1] in TABLE_ROLES:
            raise BqcError(
                f"{where}: weights: {key}: {fmt} is a format of linears; give lookup tables another one, "
                "like Binary(row)"
            )
    return weights


def _activation_format(text: str) -> ActivationFormat:
    if text.lstrip().startswith("Static"):
        return Static.parse(text)
    if not text.lstrip().startswith("BlockShift") and stored_format(text) is not None:
        raise ValueError(
            f"{text} is a format of weights; points are BlockShift or Static, like BlockShift(8,64) or Static(8,-4)"
        )
    fmt = BlockShift.parse(text)
    if fmt.bits not in ACTIVATION_BITS:
        raise ValueError(f"{fmt} is a format of weights; activations have 8, 6 or 4 bits")
    return fmt


def _formats(data: Any, where: str, parse: Callable[[str], _Format]) -> dict[str, _Format]:
    if data is None:
        return {}
    if not isinstance(data, Mapping):
        raise BqcError(f"{where}: must map layer:role to a format")
    result = {}
    for key, value in data.items():
        try:
            result[str(key)] = parse(str(value))
        except ValueError as error:
            raise BqcError(f"{where}: {key}: {error}") from None
    return result


def _reasons(data: Any, where: str) -> dict[str, str]:
    if data is not None and not isinstance(data, Mapping):
        raise BqcError(f"{where}: must map layer:role to a reason")
    return expanded({str(key): str(why) for key, why in (data or {}).items()}, where)
