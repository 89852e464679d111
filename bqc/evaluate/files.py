"""The small JSON files that lie beside a model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from bqc.errors import BqcError

__all__ = ["read_json"]


def read_json(file: Path) -> dict[str, Any]:
    """The object in a JSON file; empty if there is no such file.

    Raises:
        BqcError: it is not a JSON object.
    """
    try:
        return dict(json.loads(file.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return {}
    except (TypeError, ValueError) as error:
        raise BqcError(f"{file}: not a JSON object ({error})") from error
