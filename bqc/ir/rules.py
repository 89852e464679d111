"""Pattern rules of onnxscript whose matches are counted as rewrites."""

from __future__ import annotations

from typing import Any

from onnxscript.rewriter import pattern

from bqc.ir.counting import may_rewrite

__all__ = ["counted"]


def counted(rule: pattern.RewriteRuleClassBase) -> pattern.RewriteRule:
    """A rule of `pattern.RewriteRuleSet` whose matches ask `may_rewrite`, after their own check."""

    def check(context: Any, **matched: Any) -> Any:
        result = rule.check(context, **matched)
        if result and not may_rewrite(context.root):
            return pattern.MatchResult().fail("the limit of rewrites is reached", context.root)
        return result

    return pattern.RewriteRule(
        rule.pattern,
        rule.rewrite,
        check,
        name=rule.name,
        remove_nodes=rule.remove_nodes,
        graph_pre_visitor=rule.setup,
        graph_post_visitor=rule.cleanup,
        as_function=rule.as_function,
    )
