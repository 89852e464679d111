"""Pipelines of passes: their textual form, running them, and watching them run."""

from bqc.pipeline.instruments import Change, Changes, DumpFolder, Instrument, Printer
from bqc.pipeline.running import LINEAGE_KEY, Step, run, watching
from bqc.pipeline.spelling import parse, spell

__all__ = [
    "LINEAGE_KEY",
    "Change",
    "Changes",
    "DumpFolder",
    "Instrument",
    "Printer",
    "Step",
    "parse",
    "run",
    "spell",
    "watching",
]
