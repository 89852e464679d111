"""Pipelines of passes: their textual form, running them, and watching them run."""

from bqc.pipeline.instruments import Changes, DumpFolder, Instrument, Printer
from bqc.pipeline.running import LINEAGE_KEY, Step, run
from bqc.pipeline.spelling import parse, spell

__all__ = [
    "LINEAGE_KEY",
    "Changes",
    "DumpFolder",
    "Instrument",
    "Printer",
    "Step",
    "parse",
    "run",
    "spell",
]
