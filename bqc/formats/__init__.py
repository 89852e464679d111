"""Number formats: one file each, found by name through the entry point group ``bqc.formats``."""

from bqc.formats.block_shift import BlockShift
from bqc.formats.geometry import Blocks
from bqc.formats.signs import Binary, Ternary
from bqc.formats.sparse import Sparse

__all__ = ["Binary", "BlockShift", "Blocks", "Sparse", "Ternary"]
