"""The folder in which other environments leave their files: EXPORTER/FAMILY.HEAD.onnx, and what wrote them."""

from __future__ import annotations

import json
import shutil
import traceback
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

__all__ = ["FAILURES", "VERSIONS", "Folder"]

VERSIONS = "versions.json"
FAILURES = "failures.json"


class Folder:
    """Collects files; `packages` are those whose versions are written beside them."""

    def __init__(self, root: Path, *packages: str) -> None:
        self.root = root
        self.versions = {name: version(name) for name in packages}

    def add(self, exporter: str, family: str, head: str, export: Callable[[str, str], Path]) -> None:
        """Keep what `export(family, head)` wrote, or the first line of its error."""
        folder = self.root / exporter
        folder.mkdir(parents=True, exist_ok=True)
        (folder / VERSIONS).write_text(json.dumps(self.versions, indent=1))
        target = folder / f"{family}.{head}.onnx"
        if target.is_file():
            return
        failures = folder / FAILURES
        known = json.loads(failures.read_text()) if failures.is_file() else {}
        try:
            shutil.copyfile(export(family, head), target)
            known.pop(f"{family}.{head}", None)
        except Exception as error:
            traceback.print_exc()
            known[f"{family}.{head}"] = (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
        failures.write_text(json.dumps(known, indent=1))
