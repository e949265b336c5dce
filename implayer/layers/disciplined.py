"""Which term of a problem breaks the rules of disciplined parametrised programming."""

from typing import Any

from ..errors import ImplayerError


def require_dpp(problem: Any) -> None:
    """Refuse a problem that is not DPP, and say which term is to blame."""
    if problem.is_dpp(quad_form_dpp="qp"):
        return
    kind = "DCP (disciplined convex)" if not problem.is_dcp() else "DPP (disciplined parametrised)"
    culprits = [f"the objective, in the term `{term}`" for term in _offending(problem.objective.expr, True)[:2]]
    for number, constraint in enumerate(problem.constraints):
        if not constraint.is_dcp(dpp=True):
            found = [term for arg in constraint.args for term in _offending(arg, False)]
            what = f"in the term `{found[0]}`" if found else "as a whole"
            culprits.append(f"constraint {number} (`{constraint}`), {what}")
    where = "; ".join(culprits) or "its objective as a whole"
    raise ImplayerError(
        f"`problem` is not {kind}: {where}. In a DPP problem parameters enter affinely and a product has the parameters in one "
        f"factor alone. Replace a product or function of parameters by a new parameter that you compute in torch; "
        f"`quad_form(x, P)` with a parameter needs `P = cp.Parameter((n, n), PSD=True)` and belongs in the objective."
    )


def _offending(expression: Any, objective: bool) -> list[Any]:
    """The smallest subexpressions that break the rules."""
    from cvxpy.utilities import scopes

    def good(e: Any) -> bool:
        with scopes.dpp_scope():
            if not objective:
                return e.is_convex() or e.is_concave()
            with scopes.quad_form_dpp_scope():
                return e.is_convex() or e.is_concave()

    if good(expression):
        return []
    inner = [term for arg in getattr(expression, "args", ()) for term in _offending(arg, objective)]
    return inner or [expression]
