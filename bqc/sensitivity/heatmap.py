"""Scores as a heat map: one HTML file that needs nothing else."""

from __future__ import annotations

import math

from bqc.evaluate.extras import require
from bqc.sensitivity.scores import Sensitivity

__all__ = ["heat_map"]


def heat_map(found: Sensitivity, title: str) -> str:
    """An HTML page with a map of roles by layers for every format, of weights and of activations.

    Colours are logarithms of scores; hovering shows the score. The page carries plotly itself and loads nothing.

    Raises:
        BqcError: ``bqc[report]`` is not installed.
    """
    graphs = require("plotly.graph_objects", "report")
    subplots = require("plotly.subplots", "report")
    panels = [
        (part, fmt) for part in ("weight", "activation") for fmt in found.formats if found.values(part, fmt)
    ]
    figure = subplots.make_subplots(
        rows=len(panels), cols=1, subplot_titles=[f"{part}s, {fmt}" for part, fmt in panels]
    )
    height = 0
    for row, (part, fmt) in enumerate(panels, 1):
        values = found.values(part, fmt)
        layers = list(dict.fromkeys(key.split(":")[0] for key in values))
        roles = list(dict.fromkeys(key.split(":")[1] for key in values))[::-1]
        cells = [[values.get(f"{layer}:{role}") for layer in layers] for role in roles]
        figure.add_trace(
            graphs.Heatmap(
                x=[f"layer {layer}" if layer.isdigit() else layer for layer in layers],
                y=roles,
                z=[[math.log10(cell) if cell else None for cell in line] for line in cells],
                customdata=cells,
                hovertemplate="%{x} %{y}: %{customdata:.4g}<extra></extra>",
                colorscale="Viridis",
                colorbar={"title": "log10"} if row == 1 else None,
                showscale=row == 1,
                coloraxis=None,
            ),
            row=row,
            col=1,
        )
        height += 120 + 24 * len(roles)
    figure.update_layout(title=f"{title}: {found.metric}", height=height + 80, template="plotly_white")
    page: str = figure.to_html(include_plotlyjs=True, full_html=True)
    return page
