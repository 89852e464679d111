"""Ten thousand spoiled artifacts, float models and inputs: no crash and no hang of the process.

    python -m tools.fuzz [--count 10000] [--first 0] [--workers 2] [--only SEED] [--save FOLDER]

Half of the seeds spoil a compiled artifact (load, inspect, session, run), a quarter a float model (compile), a
quarter the inputs of a run, which must give the same bits with the kernels as without. Every mutation runs in a worker
process that is started again if it dies. Where one dies or hangs, the same mutation runs in another process without
bqc (ONNX Runtime and onnx alone); if that dies too, it is theirs, and counted apart. An exception that is not a
BqcError, out of bqc's own code, is "untidy": not dangerous, but a line that nobody understands.
Exit status 1 after a crash, a hang or differing bits of ours; such mutations are saved with their seed.
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import multiprocessing
import multiprocessing.connection
import os
import resource
import shutil
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort

import bqc
from bqc.errors import BqcError
from bqc.inspect import inspect
from bqc.ir.synthetic import canonical_bert
from bqc.runtime.tables import Tables
from tools.fuzz_mutations import Feeds, mutate_feeds, mutate_files

__all__ = ["Base", "exercise", "fuzz"]

TIMEOUT = 60.0
"""Seconds after which a mutation hangs; ordinary ones take less than one, on a busy machine too."""
MEMORY = 8 << 30
"""Bytes of address space of a worker: what asks for more gets an error, not the machine."""


@dataclass(frozen=True)
class Base:
    """The sound files that mutations start from."""

    folder: Path

    @classmethod
    def make(cls, folder: Path) -> Base:
        """Write a float model in one file, and artifacts of several widths, one in a single file."""
        import onnx_ir as ir

        model = canonical_bert(layers=1, hidden=32, heads=2, ffn=48, vocab=50, positions=40)
        for item in (*model.graph, *model.graph.initializers.values()):
            item.metadata_props.clear()
        ir.save(model, folder / "float.onnx")
        for bits in (8, 6, 4, 3):
            bqc.compile(folder / "float.onnx", output=folder / f"w{bits}.onnx", weight_bits=bits, block=16)
        bqc.compile(folder / "float.onnx", output=folder / "one.onnx", weight_bits=8, single_file=True)
        return cls(folder)

    def artifact(self, seed: int) -> Path:
        """One of the artifacts."""
        return self.folder / ("w8.onnx", "w6.onnx", "w4.onnx", "w3.onnx", "one.onnx")[seed // 4 % 5]


def kind_of(seed: int) -> str:
    """What a seed spoils."""
    return ("artifact", "float", "artifact", "inputs")[seed % 4]


def sound_feeds() -> Feeds:
    """Inputs that every sound file takes."""
    ids = np.arange(12, dtype=np.int64).reshape(2, 6)
    mask = np.ones_like(ids)
    mask[1, 4:] = 0
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": ids % 2}


def exercise(seed: int, base: Base, folder: Path) -> str:
    """Do everything with one mutation; the outcome in a word or a line."""
    kind = kind_of(seed)
    if kind == "inputs":
        return _inputs(seed, base)
    path = mutate_files(
        seed, base.artifact(seed) if kind == "artifact" else base.folder / "float.onnx", folder
    )
    outcomes = []
    steps = (
        (lambda: _open(path), lambda: inspect(path))
        if kind == "artifact"
        else (lambda: _compile(path, folder),)
    )
    for step in steps:
        try:
            step()
            outcomes.append("accepted")
        except BqcError:
            outcomes.append("refused")
        except Exception as error:
            where = traceback.extract_tb(error.__traceback__)[-1]
            place = f"{Path(where.filename).name}:{where.lineno}"
            return f"untidy {type(error).__name__} in {place}: {str(error)[:80]!r} (seed {seed})"
    return outcomes[0]


def without_bqc(seed: int, base: Base, folder: Path) -> None:
    """The same mutation with ONNX Runtime and onnx alone."""
    kind = kind_of(seed)
    if kind == "inputs":
        _run(ort.InferenceSession(base.artifact(seed), _options()), mutate_feeds(seed, sound_feeds()))
        return
    path = mutate_files(
        seed, base.artifact(seed) if kind == "artifact" else base.folder / "float.onnx", folder
    )
    with contextlib.suppress(Exception):
        _run(ort.InferenceSession(path, _options()), sound_feeds())
    with contextlib.suppress(Exception):
        onnx.checker.check_model(str(path), full_check=True)
    with contextlib.suppress(Exception):
        onnx.version_converter.convert_version(onnx.load(path, load_external_data=False), 21)


def _open(path: Path) -> None:
    session = bqc.session(path, options=_options())
    _run(session, sound_feeds())
    Tables(path)


def _compile(path: Path, folder: Path) -> None:
    output = bqc.compile(path, output=folder / "out.onnx", weight_bits=4, block=16).paths[0]
    _run(bqc.session(output, options=_options()), sound_feeds())


_sessions: dict[tuple[Path, bool], Any] = {}


def _inputs(seed: int, base: Base) -> str:
    path = base.artifact(seed)
    for library in (True, False):
        if (path, library) not in _sessions:
            _sessions[path, library] = bqc.session(path, options=_options(), library=library)
    feeds = mutate_feeds(seed, sound_feeds())
    ours, theirs = (_run(_sessions[path, library], feeds) for library in (True, False))
    if ours is None:
        return "refused"
    return "accepted" if theirs is None or ours == theirs else "differs"


def _run(session: Any, feeds: Feeds) -> list[bytes] | None:
    try:
        return [value.tobytes() for value in session.run(None, feeds)]
    except Exception:  # ONNX Runtime's exceptions share no base class below Exception
        return None


def _options() -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    return options


def _serve(
    pipe: multiprocessing.connection.Connection, base: Base, folder: Path, log: Path, ours: bool
) -> None:
    """A worker: seeds in, outcomes out."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    with log.open("w") as trace, open(os.devnull, "w") as nothing:
        faulthandler.enable(trace)
        os.dup2(nothing.fileno(), 1)
        os.dup2(nothing.fileno(), 2)
        warnings.simplefilter("ignore")
        while True:
            seed = pipe.recv()
            for file in folder.iterdir():
                shutil.rmtree(file) if file.is_dir() else file.unlink()
            if ours:
                pipe.send(exercise(seed, base, folder))
            else:
                without_bqc(seed, base, folder)
                pipe.send("survived")


@dataclass
class _Worker:
    base: Base
    folder: Path
    ours: bool = True
    seed: int | None = None
    started: float = 0
    pipe: Any = field(init=False)
    process: Any = field(init=False)

    def __post_init__(self) -> None:
        self.folder.mkdir(exist_ok=True)
        self.log = self.folder.with_suffix(".log")
        # Threads and sessions do not survive a fork, so workers begin from nothing.
        context = multiprocessing.get_context("spawn")
        self.pipe, far = context.Pipe()
        arguments = (far, self.base, self.folder, self.log, self.ours)
        self.process = context.Process(target=_serve, args=arguments, daemon=True)
        self.process.start()
        far.close()

    def give(self, seed: int) -> None:
        self.seed, self.started = seed, time.monotonic()
        self.pipe.send(seed)

    def take(self) -> str | None:
        """The outcome if there is one: of the mutation, or of the process."""
        try:
            if self.pipe.poll():
                return str(self.pipe.recv())
        except (EOFError, OSError):
            self.process.join()
            # A worker that leaves with a status of its own met a mistake in this tool.
            return f"crash {self.process.exitcode}" if self.process.exitcode < 0 else "broken tool"
        if time.monotonic() - self.started > TIMEOUT:
            self.stop()
            return "hang"
        return None

    def stop(self) -> None:
        self.process.kill()
        self.process.join()


def fuzz(
    first: int, count: int, workers: int = 2, save: Path | None = None
) -> tuple[Counter[str], list[str]]:
    """Run seeds; returns how often each outcome came, and a line for every failure of ours."""
    outcomes: Counter[str] = Counter()
    failures: list[str] = []
    with tempfile.TemporaryDirectory(prefix="bqc-fuzz-") as name:
        root = Path(name)
        (root / "base").mkdir()
        base = Base.make(root / "base")
        seeds = iter(range(first, first + count))
        pool = [_Worker(base, root / f"worker{i}") for i in range(min(workers, count))]
        for worker in pool:
            worker.give(next(seeds))
        while any(worker.seed is not None for worker in pool):
            multiprocessing.connection.wait([w.pipe for w in pool if w.seed is not None], timeout=1)
            for i, worker in enumerate(pool):
                if worker.seed is None or (outcome := worker.take()) is None:
                    continue
                seed, kind = worker.seed, kind_of(worker.seed)
                if outcome == "broken tool":
                    raise RuntimeError(f"seed {seed} ({kind}) breaks the fuzzer itself")
                if outcome.startswith(("crash", "hang")):
                    where = worker.log.read_text()[:2000]
                    if _alone(seed, base, root / "control").startswith(("crash", "hang")):
                        outcome = f"theirs: {outcome}"
                    else:
                        failures.append(f"seed {seed} ({kind}): {outcome}\n{where}")
                    pool[i] = worker = _Worker(base, worker.folder)
                elif outcome == "differs":
                    failures.append(f"seed {seed} ({kind}): other bits than without the kernels")
                if save is not None and failures and failures[-1].startswith(f"seed {seed} "):
                    (save / str(seed)).mkdir(parents=True, exist_ok=True)
                    if kind != "inputs":
                        source = base.artifact(seed) if kind == "artifact" else base.folder / "float.onnx"
                        mutate_files(seed, source, save / str(seed))
                outcomes[f"{kind}: {outcome}"] += 1
                worker.seed = None
                if (following := next(seeds, None)) is not None:
                    worker.give(following)
        for worker in pool:
            worker.stop()
    return outcomes, failures


def _alone(seed: int, base: Base, folder: Path) -> str:
    control = _Worker(base, folder, ours=False)
    control.give(seed)
    while (outcome := control.take()) is None:
        time.sleep(0.05)
    control.stop()
    return outcome


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--only", type=int, metavar="SEED")
    parser.add_argument(
        "--save", type=Path, metavar="FOLDER", help="where spoiled files that did harm are kept"
    )
    options = parser.parse_args()
    first, count = (options.first, options.count) if options.only is None else (options.only, 1)
    started = time.monotonic()
    outcomes, failures = fuzz(first, count, options.workers, options.save)
    for outcome, times in sorted(outcomes.items(), key=lambda item: -item[1]):
        print(f"{times:6} {outcome}")
    for failure in failures:
        print(failure)
    print(f"{count} mutations in {time.monotonic() - started:.0f} s, {len(failures)} failures of ours")
    return int(bool(failures))


if __name__ == "__main__":
    sys.exit(main())
