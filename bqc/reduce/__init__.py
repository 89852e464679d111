"""Making a model small that shows a failure: delta debugging over nodes, layers and dimensions."""

from bqc.reduce.search import Reduction, reduce

__all__ = ["Reduction", "reduce"]
