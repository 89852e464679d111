"""Optional dependencies: imported where used, and asked for by the command that installs them."""

from __future__ import annotations

import importlib
from types import ModuleType

from bqc.errors import BqcError

__all__ = ["require"]


def require(module: str, extra: str) -> ModuleType:
    """Import ``module``, which the optional dependency group ``extra`` brings.

    Raises:
        BqcError: it is not installed; the message gives the pip command.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.split(".")[0]
        raise BqcError(f"this needs {package}, which is not installed: pip install 'bqc[{extra}]'") from error
