"""Losses against a teacher: what they compare, and what they leave out."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("pydantic")

from bqc.errors import BqcError  # noqa: E402
from bqc.train.distillation import Distillation, taps_for  # noqa: E402
from bqc.train.recipe import Losses  # noqa: E402

MASK = torch.tensor([[1, 1, 1, 0], [1, 1, 0, 0]])


def results(width: int, heads: int, layers: int, seed: int) -> dict[str, torch.Tensor]:
    """All that a model with so many layers gives on two rows of four tokens."""
    g = torch.Generator().manual_seed(seed)
    found = {"embedding:embedding.norm": torch.randn(2, 4, width, generator=g)}
    for i in range(layers):
        found[f"{i}:ffn.norm"] = torch.randn(2, 4, width, generator=g)
        found[f"{i}:attention.value"] = torch.randn(2, 4, width, generator=g)
        found[f"{i}:attention.scores"] = torch.randn(2, heads, 4, 4, generator=g)
    return found | {"logits": torch.randn(2, 3, generator=g)}


@pytest.mark.parametrize("term", ["hidden", "scores", "values"])
def test_a_term_is_a_mean_over_tokens_summed_over_layers(term: str) -> None:
    ours, theirs = results(8, 2, 2, 0), results(8, 2, 4, 1)
    loss = Distillation(Losses(**{term: 2.0}), (1, 3), 1.0, (8, 8))
    role = {"hidden": "ffn.norm", "scores": "attention.scores", "values": "attention.value"}[term]
    pairs = [(ours[f"{i}:{role}"], theirs[f"{j}:{role}"]) for i, j in ((0, 1), (1, 3))]
    if term == "hidden":
        pairs.append((ours["embedding:embedding.norm"], theirs["embedding:embedding.norm"]))
    expected = 0.0
    for a, b in pairs:
        square = (a - b).square()
        if term == "scores":
            kept = torch.cat([square[0, :, :3, :3].flatten(), square[1, :, :2, :2].flatten()])
        else:
            kept = torch.cat([square[0, :3].flatten(), square[1, :2].flatten()])
        expected += 2 * float(kept.mean())
    assert float(loss(ours, theirs, MASK)) == pytest.approx(expected, rel=1e-5)
    assert (
        float(
            loss(theirs | {f"0:{role}": theirs[f"1:{role}"], f"1:{role}": theirs[f"3:{role}"]}, theirs, MASK)
        )
        == 0
    )


def test_padding_is_left_out_even_where_it_is_infinite() -> None:
    ours, theirs = results(8, 2, 1, 0), results(8, 2, 1, 1)
    loss = Distillation(Losses(hidden=1, scores=1, values=1), (0,), 1.0, (8, 8))
    before = loss(ours, theirs, MASK)
    for name, value in ours.items():
        if ":" in name and "scores" not in name:
            value[1, 3] = torch.inf
    assert loss(ours, theirs, MASK) == before


def test_other_widths_go_through_a_trained_map() -> None:
    ours, theirs = results(8, 2, 1, 0), results(12, 2, 1, 1)
    loss = Distillation(Losses(hidden=1), (0,), 1.0, (8, 12))
    loss(ours, theirs, MASK).backward()
    assert loss.project.weight.grad.abs().max() > 0
    with pytest.raises(BqcError, match="values of width 8 and 12 cannot be compared"):
        Distillation(Losses(values=1), (0,), 1.0, (8, 12))


def test_other_heads_are_refused() -> None:
    loss = Distillation(Losses(scores=1), (0,), 1.0, (8, 8))
    with pytest.raises(BqcError, match="scores of 2 and 4 heads cannot be compared"):
        loss(results(8, 2, 1, 0), results(8, 4, 1, 1), MASK)


def test_taps_are_those_that_some_stage_needs() -> None:
    assert taps_for([Losses(labels=1), Losses(logits=1)]) == ()
    assert taps_for([Losses(hidden=1), Losses(scores=1)]) == (
        "*:ffn.norm",
        "*:attention.scores",
        "embedding:embedding.norm",
    )


def test_the_map_between_widths_does_not_depend_on_what_was_drawn_before() -> None:
    maps = []
    for drawn, seed in ((0, 3), (7, 3), (0, 4)):
        torch.manual_seed(5)
        torch.rand(drawn)
        maps.append(Distillation(Losses(hidden=1), (0,), 1.0, (8, 12), seed).project.weight)
    assert torch.equal(maps[0], maps[1])
    assert not torch.equal(maps[0], maps[2])
