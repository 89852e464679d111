"""What a pass says of itself: summary, contract, options and the graph before and after."""

from __future__ import annotations

import ast
import difflib
import inspect
import textwrap
from dataclasses import MISSING, Field, asdict, dataclass, fields
from typing import Any

from bqc.contract import Contract, contract_of
from bqc.errors import BqcError
from bqc.passes import names, pass_class
from bqc.pipeline.spelling import spell_value

__all__ = ["Option", "PassInfo", "describe", "require_pass"]


@dataclass(frozen=True)
class Option:
    """One option of a pass.

    Attributes:
        name: of the field.
        type: as it is annotated.
        default: as it is written in a pipeline; None where a value must be given.
        doc: the text below the field; may be empty.
    """

    name: str
    type: str
    default: str | None
    doc: str


@dataclass(frozen=True)
class PassInfo:
    """One pass.

    Attributes:
        name: as it is written in a pipeline.
        summary: the first line of the docstring.
        text: the rest of it, with the graph before and after.
        contract: None where the pass states none.
        options: in the order of the fields.
    """

    name: str
    summary: str
    text: str
    contract: Contract | None
    options: tuple[Option, ...]

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "options": [asdict(option) for option in self.options]}


def describe(name: str) -> PassInfo:
    """A pass by its name. Raises BqcError for an unknown one."""
    kind = require_pass(name)
    paragraph, _, rest = inspect.cleandoc(kind.__doc__ or "").partition("\n\n")
    docs = _field_docs(kind)
    options = tuple(Option(f.name, str(f.type), _default(f), docs.get(f.name, "")) for f in fields(kind))
    return PassInfo(name, " ".join(paragraph.split()), rest, contract_of(kind), options)


def require_pass(name: str) -> Any:
    """The class of a pass. Raises BqcError, with the nearest name, where there is none."""
    try:
        return pass_class(name)
    except KeyError:
        near = difflib.get_close_matches(name, names(), n=1)
        raise BqcError(f"no pass {name!r}" + (f"; did you mean {near[0]}?" if near else "")) from None


def _default(field: Field[Any]) -> str | None:
    return None if field.default is MISSING else spell_value(field.default)


def _field_docs(kind: Any) -> dict[str, str]:
    """The texts below the fields of a class, which Python itself does not keep."""
    body = ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0]
    assert isinstance(body, ast.ClassDef), "the source of a class"
    found = {}
    for field, below in zip(body.body, body.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
            text = below.value if isinstance(below, ast.Expr) else None
            if isinstance(text, ast.Constant) and isinstance(text.value, str):
                found[field.target.id] = " ".join(text.value.split())
    return found
