"""Number formats: one file each, found by name through the entry point group ``bqc.formats``."""

from bqc.formats.block_shift import BlockShift
from bqc.formats.geometry import Blocks

__all__ = ["BlockShift", "Blocks"]
