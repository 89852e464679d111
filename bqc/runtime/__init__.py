"""Running models: the kernel library, sessions, and what this machine can do."""

from __future__ import annotations

from bqc.runtime.library import library_path, register
from bqc.runtime.session import MissingKernelWarning, session

__all__ = ["MissingKernelWarning", "library_path", "register", "session"]
