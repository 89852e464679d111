"""Files that appear whole or not at all, whatever interrupts the writing of them."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

__all__ = ["PREFIX", "require_regular", "staged", "uninterrupted", "write_text"]

PREFIX = ".bqc-"
"""Names of temporary folders begin with this; one that no process holds locked was left by a killed one."""


@contextmanager
def staged(folder: Path) -> Iterator[Path]:
    """A temporary folder inside ``folder``, which is made if need be; both go again if nothing came of it.

    What killed processes left in ``folder`` is removed first. Raises OSError.
    """
    created = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with _locked(folder):
            _sweep(folder)
            fresh = Path(tempfile.mkdtemp(prefix=PREFIX, dir=folder))
            mine = _hold(fresh)
        try:
            yield fresh
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
            if mine is not None:
                os.close(mine)
    except BaseException:
        if created:
            with suppress(OSError):  # not empty: somebody else found it useful
                folder.rmdir()
        raise


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Ctrl-C waits for the end of the block."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    caught: list[tuple[int, FrameType | None]] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: caught.append((number, frame)))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        if caught and callable(before):
            before(*caught[0])


def require_regular(path: Path) -> None:
    """Raise OSError if there is something at a path that a file must not take the place of, as a device."""
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "it is no regular file")


def write_text(path: Path, text: str) -> None:
    """Write a text file, UTF-8. Raises OSError."""
    require_regular(path)
    with staged(path.parent) as folder:
        (folder / path.name).write_text(text, encoding="utf-8")
        os.replace(folder / path.name, path)


def _sweep(folder: Path) -> None:
    for left in folder.glob(f"{PREFIX}*"):
        if not left.is_dir() or left.is_symlink():
            continue
        held = _hold(left)
        if held is not None:
            shutil.rmtree(left, ignore_errors=True)
            os.close(held)


def _hold(folder: Path) -> int | None:
    """Lock a folder until the descriptor is closed or the process ends; None where another holds it."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # held, or a file system without locks: then nothing is ever swept
        os.close(descriptor)
        return None
    return descriptor


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One process at a time, so that nobody sweeps a folder between its making and its locking."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
