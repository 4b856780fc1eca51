"""Floating-point operations of a function, counted by formula from its shapes; nothing is compiled or run."""

import math
from collections.abc import Callable
from typing import Any

import jax
from jax.interpreters.partial_eval import dce_jaxpr


def flops(function: Callable[..., Any], *abstract: Any) -> int:
    """Operations in matrix products and convolutions, a multiply and an add each, loops counted as often as they run.
    What no answer needs is not counted.

    Args:
      abstract: arguments, arrays or ``jax.ShapeDtypeStruct``.
    """
    jaxpr = jax.make_jaxpr(function)(*abstract).jaxpr
    needed, _ = dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))
    return _of_jaxpr(needed)


def _of_jaxpr(jaxpr: Any) -> int:
    return sum(_of_equation(equation) for equation in jaxpr.eqns)


def _of_equation(equation: Any) -> int:
    name, params = equation.primitive.name, equation.params
    if name == "dot_general":
        return _of_dot(equation)
    if name == "conv_general_dilated":
        return _of_convolution(equation)
    if "dot_product_attention" in name:
        return _of_attention(equation)
    times = params["length"] if name == "scan" else 1
    inner = [_of_jaxpr(getattr(j, "jaxpr", j)) for value in params.values() for j in _jaxprs(value)]
    if name == "cond":
        return max(inner, default=0)
    return times * sum(inner)


def _jaxprs(value: Any) -> list[Any]:
    values = value if isinstance(value, (tuple, list)) else [value]
    return [v for v in values if type(v).__name__ in ("Jaxpr", "ClosedJaxpr")]


def _of_dot(equation: Any) -> int:
    (contracting, _), _ = equation.params["dimension_numbers"]
    left = equation.invars[0].aval.shape
    return 2 * math.prod(equation.outvars[0].aval.shape) * math.prod(left[axis] for axis in contracting)


def _of_attention(equation: Any) -> int:
    # cuDNN's, one opaque operation on queries [b l n e] and keys [b m n e]: two products with logits forward, five back
    (b, l, n, e), m = equation.invars[0].aval.shape, equation.invars[1].aval.shape[1]
    return (5 if "bwd" in equation.primitive.name else 2) * 2 * b * n * l * m * e


def _of_convolution(equation: Any) -> int:
    # kernel [.. in .. out] by its own layout: every output value takes in * window products. Of an input that is
    # spread out, as a gradient through a stride is, those with the zeros between its values are no work
    kernel, params = equation.invars[1].aval.shape, equation.params
    out_axis = params["dimension_numbers"].rhs_spec[0]
    per_output = math.prod(kernel) // kernel[out_axis]
    return 2 * math.prod(equation.outvars[0].aval.shape) * per_output // math.prod(params["lhs_dilation"])
