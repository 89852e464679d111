"""What every fold shares: a pattern rule whose replacement is one ``ai.bqc`` operator."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import onnx_ir as ir
from onnxscript.rewriter import pattern

from bqc.ir.anatomy import LAYER_KEY, ROLE_KEY, SOURCE_KEY, VALUE_KEY, value_key
from bqc.ir.build import SOURCE_LIMIT
from bqc.ir.rewrite import drop_dead, sources
from bqc.ir.rules import counted
from bqc.ops.registry import DOMAIN, OPERATORS, VERSION
from bqc.passes._graph import dims, infer_types

__all__ = ["DOMAIN", "FoldRule", "apply", "linear"]


class FoldRule(pattern.RewriteRuleClassBase):  # type: ignore[misc]
    """Base of fold rules; `fused` builds the replacement with labels, lineage and inferred types."""

    family = "Block"
    """What the operators on weights begin with; a rule for other families is the same one with theirs."""

    reads_dequantized = False
    """The pattern starts at dequantise nodes that others may read too, so it must leave them in place."""

    def fused(
        self,
        op: Any,
        op_type: str,
        inputs: Sequence[ir.Value],
        attributes: Mapping[str, Any],
        *,
        last: ir.Value,
        like: ir.Value,
        through: Sequence[ir.Value] = (),
    ) -> Any:
        """One operator of ``ai.bqc`` for the nodes from ``through`` to ``last``, labelled as ``like``."""
        defaults = OPERATORS[op_type].attributes
        chosen = {name: attributes.get(name, default) for name, default in defaults.items()}
        known = like.producer()
        final = last.producer()
        assert known is not None, "matched values have producers"
        assert final is not None, "matched values have producers"
        outputs = OPERATORS[op_type].infer([dims(v) for v in inputs], chosen)
        made = getattr(op, op_type)(
            *inputs, **chosen, _domain=DOMAIN, _version=VERSION, _outputs=len(outputs)
        )
        node = (made if isinstance(made, ir.Value) else made[0]).producer()
        assert node is not None, "just made"
        for key in (LAYER_KEY, ROLE_KEY):
            if key in known.metadata_props:
                node.metadata_props[key] = known.metadata_props[key]
        steps = [v.producer() for v in (*through, last)]
        node.metadata_props[SOURCE_KEY] = sources([n for n in steps if n is not None])[:SOURCE_LIMIT]
        node.metadata_props[VALUE_KEY] = value_key(final)
        infer_types(node)
        return made


def linear(rule: FoldRule, op: Any, name: str, inputs: Sequence[Any], output: str) -> Any:
    """In a pattern: the operator ``name`` of the rule's family, its output called ``output``."""
    return getattr(op, f"{rule.family}{name}")(
        *inputs, _domain=DOMAIN, _outputs=[output], _allow_other_attributes=True
    )


def apply(model: ir.Model, *rules: type[FoldRule]) -> ir.passes.PassResult:
    """Apply the rules until none matches, and drop what they left unused."""
    count = 0
    ready = pattern.RewriteRuleSet([counted(rule(remove_nodes=not rule.reads_dequantized)) for rule in rules])
    while found := ready.apply_to_model(model):
        count += found
        drop_dead(model)
    return ir.passes.PassResult(model, count > 0)
