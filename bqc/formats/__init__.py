"""Number formats: one file each, found by name through the entry point group ``bqc.formats``."""

from bqc.formats.block_shift import BlockShift
from bqc.formats.geometry import Blocks
from bqc.formats.half import Half
from bqc.formats.index8 import Index8
from bqc.formats.signs import Binary, Ternary
from bqc.formats.sparse import Sparse
from bqc.formats.static import Static
from bqc.formats.xnor import Xnor

__all__ = ["Binary", "BlockShift", "Blocks", "Half", "Index8", "Sparse", "Static", "Ternary", "Xnor"]
