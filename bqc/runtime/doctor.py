"""What this machine has: CPU, ONNX Runtime, the kernel library and the kernels it would run."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import onnxruntime

from bqc.errors import BqcError
from bqc.runtime.native import Family, NativeLibrary, native

__all__ = ["MINIMUM_ORT", "Diagnosis", "Finding", "cpu_name", "diagnose", "why_not_higher"]

MINIMUM_ORT = (1, 20)

# What each ISA level of an architecture needs, under the names Linux and the kernel library share; lowest level
# first.
_X86: dict[str, tuple[str, ...]] = {
    "portable": (),
    "avx2": ("avx2", "fma", "f16c"),
    "avx512": ("avx512f", "avx512bw", "avx512vl", "avx512dq", "avx512vnni"),
    "avx512_vbmi": (
        "avx512f",
        "avx512bw",
        "avx512vl",
        "avx512dq",
        "avx512vnni",
        "avx512vbmi",
        "avx512vpopcntdq",
    ),
}
_ARM: dict[str, tuple[str, ...]] = {"portable": (), "neon": ("asimd",), "neon_dot": ("asimd", "asimddp")}

# Worth a line in the report: the features some kernel uses or could use.
_NOTED = re.compile(r"^(avx2|fma|f16c|avx_?vnni|avx512\w*|amx\w*|asimd\w*|neon|i8mm|bf16|sve\w*)$")


@dataclass(frozen=True)
class Finding:
    """One fact: good, bad, or (``ok`` is None) neither."""

    ok: bool | None
    name: str
    detail: str


@dataclass(frozen=True)
class Diagnosis:
    """What ``diagnose`` found.

    Attributes:
        findings: in the order in which one depends on the other.
        self_test: one line a check of the library's self-test; empty without a library.
        broken: whether the library is missing or its self-test failed.
    """

    findings: list[Finding]
    self_test: list[str] = field(default_factory=list)
    broken: bool = False

    def to_dict(self) -> dict[str, Any]:
        """The diagnosis as JSON values."""
        return asdict(self)


def diagnose() -> Diagnosis:
    """Look at the machine. A missing library is a finding, not an error."""
    findings = [_cpu(), _onnxruntime()]
    try:
        library = native()
    except BqcError as error:
        note = "compiled models run as plain ONNX Runtime graphs: the same bits, slower"
        return Diagnosis(
            [*findings, Finding(False, "kernel library", str(error)), Finding(None, "kernels", note)],
            broken=True,
        )
    info = library.build_info()
    about = ", ".join(f"{key} {_words(value)}" for key, value in info.items())
    findings.append(Finding(True, "kernel library", f"{library.path} ({about})"))
    findings.append(_kernels(library, info))
    findings += [_family(family) for family in library.families()]
    passed, lines = library.self_test()
    count = f"{len(lines)} check{'' if len(lines) == 1 else 's'}"
    findings.append(Finding(passed, "self-test", f"{count} passed" if passed else f"failed, of {count}"))
    return Diagnosis(findings, lines, broken=not passed)


def cpu_name() -> str:
    """What this CPU calls itself, or its architecture."""
    model = re.search(r"^model name\s*:\s*(.+)$", _cpuinfo(), re.MULTILINE)
    return model.group(1).strip() if model else platform.processor() or platform.machine()


def why_not_higher(
    level: str, compiled: Collection[str], features: Collection[str], cap: str | None
) -> str | None:
    """The reason why no level above ``level`` runs; None if it is the highest there is.

    Args:
        level: the level that would run.
        compiled: the levels the library was built with.
        features: the CPU's features, in any spelling.
        cap: the value of ``BQC_MAX_ISA``.
    """
    levels = _ARM if any(name in _ARM and name not in _X86 for name in (level, *compiled)) else _X86
    names = list(levels)
    if level not in names or level == names[-1]:
        return None
    above = names[names.index(level) + 1]
    have = {_plain(name) for name in features}
    lacking = [name for name in levels[above] if _plain(name) not in have]
    if lacking:
        return f"{above} needs {', '.join(lacking)}, which this CPU lacks"
    if above not in compiled:
        return f"this build has no {above} kernels"
    if cap:
        return f"BQC_MAX_ISA={cap} holds {above} back"
    return f"{above} was not chosen, for a reason the library does not tell"


def _cpu() -> Finding:
    noted = [name for name in _cpu_flags() if _NOTED.match(name)]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return Finding(
        True, "CPU", f"{cpu_name()}, {cores} usable; {' '.join(noted) or 'no vector features known'}"
    )


def _onnxruntime() -> Finding:
    version = onnxruntime.__version__
    least = ".".join(map(str, MINIMUM_ORT))
    parts = tuple(int(part) for part in re.findall(r"\d+", version)[:2])
    if parts < MINIMUM_ORT:
        return Finding(False, "ONNX Runtime", f"{version} is older than {least}: pip install -U onnxruntime")
    return Finding(True, "ONNX Runtime", f"{version} (at least {least})")


def _kernels(library: NativeLibrary, info: dict[str, Any]) -> Finding:
    level = library.isa()
    compiled = info.get("levels", [])
    features = library.cpu_features() or _cpu_flags()
    reason = why_not_higher(level, compiled, features, os.environ.get("BQC_MAX_ISA"))
    return Finding(True, "kernels", f"{level}; {reason}" if reason else level)


def _family(family: Family) -> Finding:
    """The operators of a family, and what each level supports of them, fastest level first."""
    levels = [
        f"{level} by {support.by}"
        + (f" ({_listed(support.weight_bits)}-bit weights)" if support.weight_bits else "")
        for level, support in reversed(family.levels.items())
    ]
    return Finding(None, f"{family.name} kernels", f"{', '.join(family.operators)}: {'; '.join(levels)}")


def _listed(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers))


def _cpuinfo() -> str:
    try:
        return Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _cpu_flags() -> Sequence[str]:
    flags = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", _cpuinfo(), re.MULTILINE)
    return flags.group(1).split() if flags else []


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _words(value: object) -> str:
    return "+".join(map(str, value)) if isinstance(value, list) else str(value)
