"""The most bytes that the arrays within a function hold at once, from shapes; nothing is compiled or run.

A model of what XLA does. Equations run in the order in which JAX wrote them, equal ones once, and an array goes when
nothing reads it any more. What works element by element is fused into its readers: it needs no array of its own unless
a product or a loop reads it, but what it is made of stays for as long.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax

from diffusion.lifetimes import Step, Value, held, itself, most_bytes, needed

CALLS = ("jit", "pjit", "closed_call", "core_call", "custom_jvp_call", "custom_vjp_call", "shard_map")
AGAIN = ("checkpoint", "remat", "remat2")  # calls whose inside the backward pass repeats
LOOPS = ("scan", "while", "cond")
PRODUCTS = ("dot_general", "conv_general_dilated", "dot_product_attention")
SAME = ("reshape", "squeeze", "expand_dims")
OTHERS = ("gather", "concatenate", "dynamic_update_slice", "random_bits", "sort", "top_k")
REDUCTIONS = ("reduce_", "arg", "cum", "scatter")  # as beginnings


class Compiler(NamedTuple):
    """How XLA differs between platforms.

    Attributes:
      again: it computes again what remat asks for outside of loops, and does not find that it is there already.
      fuses_reductions: a sum over other axes than the last reads what is not in memory.
      fuses_products: so do matrix products and convolutions.
      keeps: primitives whose answer is an array where more than one equation reads it.
      keeps_pairs: so is what is made of two values, or more, that are no smaller and repeat nothing smaller.
      early: an array is made of others as soon as these are there, or else when it is read.
    """

    again: bool
    fuses_reductions: bool
    fuses_products: bool
    keeps: tuple[str, ...]
    keeps_pairs: bool
    early: bool


DEAR = ("exp", "exp2", "logistic", "log", "tanh", "erf", "div", "pow", "sqrt", "rsqrt")
COMPILERS = {
    "cpu": Compiler(
        again=False, fuses_reductions=False, fuses_products=False, keeps=DEAR, keeps_pairs=True, early=True
    ),
    "gpu": Compiler(again=True, fuses_reductions=True, fuses_products=False, keeps=(), keeps_pairs=False, early=False),
    "tpu": Compiler(again=True, fuses_reductions=True, fuses_products=True, keeps=(), keeps_pairs=False, early=False),
}


def peak_bytes(function: Callable[..., Any], *abstract: Any, platform: str) -> int:
    """Of all that ``function`` computes, its answers included, what it is given not.

    Args:
      abstract: arguments, arrays or ``jax.ShapeDtypeStruct``.
      platform: "cpu", "gpu" or "tpu".
    """
    jaxpr = jax.make_jaxpr(function)(*abstract).jaxpr
    return _peak(jaxpr, (), COMPILERS.get(platform, COMPILERS["gpu"]))


def _peak(jaxpr: Any, slices: Sequence[int], compiler: Compiler) -> int:
    """Bytes. ``slices`` are inputs that a loop cuts out of an array, which are made where they are needed; the others
    are held elsewhere."""
    given = [Value(_bytes(v), ()) if i in slices else held() for i, v in enumerate(jaxpr.invars)]
    reading = _Reading(compiler)
    answers = reading.inline(jaxpr, given)
    return most_bytes(needed(reading.steps, answers), answers, compiler.early)


@dataclass
class _Reading:
    """A jaxpr as a list of steps, the calls in it opened."""

    compiler: Compiler
    steps: list[Step] = field(default_factory=list)
    literals: dict[str, Value] = field(default_factory=dict)
    seen: dict[Any, tuple[Value, ...]] = field(default_factory=dict)

    def inline(self, jaxpr: Any, given: Sequence[Value]) -> list[Value]:
        found = dict(zip(jaxpr.invars, given, strict=True)) | {v: held() for v in jaxpr.constvars}

        def read(v: Any) -> Value:
            if hasattr(v, "val"):
                return self.literals.setdefault(f"{v.val} {v.aval}", held())
            return found[v]

        for equation in jaxpr.eqns:
            answers = self._answers(equation, tuple(map(read, equation.invars)))
            found.update(zip(equation.outvars, answers, strict=True))
        return [itself(read(v)) for v in jaxpr.outvars]

    def _answers(self, equation: Any, given: tuple[Value, ...]) -> Sequence[Value]:
        name = equation.primitive.name
        if name in AGAIN and (self.compiler.again or not equation.params["prevent_cse"]):
            given = tuple(Value(0, same=v) for v in given)  # equations of these are none of the first time's
        if name == "optimization_barrier":
            return [Value(0, same=v) for v in given]
        if name in CALLS or name in AGAIN:
            return self.inline(_jaxprs(equation)[0], given)
        if name == "scan" and 0 < equation.params["length"] <= equation.params["unroll"]:
            return self._unrolled(equation, given)
        key = _key(equation, given)
        if key not in self.seen:
            given = tuple(map(itself, given))
            self.seen[key] = (Value(0, same=given[0]),) if _is_view(equation) else self._made(equation, given)
        return self.seen[key]

    def _unrolled(self, equation: Any, given: tuple[Value, ...]) -> list[Value]:
        """A scan without a loop: what it stacks is there layer by layer, and what reads a layer reads that alone."""
        body, params = _jaxprs(equation)[0], equation.params
        whole, carries = _whole(equation.invars, body.invars), _whole(equation.outvars, body.outvars)
        length = params["length"]
        shared, carry, stacks = given[: whole - carries], given[whole - carries : whole], given[whole:]
        layers: list[Any] = [None] * length
        for i in reversed(range(length)) if params["reverse"] else range(length):
            rows = zip(map(itself, stacks), body.invars[whole:], strict=True)
            answers = self.inline(body, [*shared, *carry, *(self._layer(stack, i, length, row) for stack, row in rows)])
            carry, layers[i] = answers[:carries], answers[carries:]
        sizes = [_bytes(v) for v in equation.outvars[carries:]]
        stacked = zip(sizes, zip(*layers, strict=True), strict=True)
        return [*carry, *(Value(size, parts, layers=parts) for size, parts in stacked)]

    def _layer(self, stack: Value, i: int, length: int, row: Any) -> Value:
        """Of what is not stacked in memory, the layer itself; of what is, or has another shape now, a cut from it."""
        if len(stack.layers) == length:
            return stack.layers[i]
        return self.seen.setdefault((stack, i), (Value(_bytes(row), (stack,)),))[0]

    def _made(self, equation: Any, given: tuple[Value, ...]) -> tuple[Value, ...]:
        name, sizes = equation.primitive.name, [_bytes(v) for v in equation.outvars]
        if not (name in LOOPS + OTHERS or name.startswith(REDUCTIONS) or _is_product(name)):
            spread = name == "broadcast_in_dim" and sizes[0] > _bytes(equation.invars[0])
            return tuple(Value(size, given, self._keeps(name, size, given), spread) for size in sizes)
        answers = tuple(map(Value, sizes))
        fuses = self._fuses(equation)
        inside = self._inside(equation) if name in LOOPS else 0
        self.steps.append(Step(() if fuses else given, given if fuses else (), answers, inside))
        return answers

    def _keeps(self, name: str, size: int, given: Sequence[Value]) -> bool:
        pair = sum(v.size >= size and not v.spread for v in given) > 1
        return name in self.compiler.keeps or self.compiler.keeps_pairs and pair

    def _fuses(self, equation: Any) -> bool:
        """Whether it reads what is not in memory."""
        name = equation.primitive.name
        if _is_product(name):
            return self.compiler.fuses_products
        return name.startswith(REDUCTIONS) and (self.compiler.fuses_reductions or _over_the_last_axis(equation))

    def _inside(self, equation: Any) -> int:
        """Of a loop's body, or the dearer branch, beside what it is given and what the loop answers."""
        jaxprs = _jaxprs(equation)
        whole = _whole(equation.invars, jaxprs[0].invars) if equation.primitive.name == "scan" else math.inf
        return max(_peak(j, [i for i in range(len(j.invars)) if i >= whole], self.compiler) for j in jaxprs)


def _jaxprs(equation: Any) -> list[Any]:
    values = [v for value in equation.params.values() for v in (value if isinstance(value, tuple | list) else [value])]
    return [getattr(v, "jaxpr", v) for v in values if type(v).__name__ in ("Jaxpr", "ClosedJaxpr")]


def _whole(outside: Sequence[Any], inside: Sequence[Any]) -> int:
    """How many of what a scan is given, or answers, its body has as they are; of the rest it has slices."""
    return sum(o.aval.ndim == i.aval.ndim for o, i in zip(outside, inside, strict=True))


def _is_product(name: str) -> bool:
    return any(product in name for product in PRODUCTS)


def _is_view(equation: Any) -> bool:
    """Products read a matrix either way."""
    name = equation.primitive.name
    return name in SAME or name == "transpose" and equation.outvars[0].aval.ndim == 2


def _over_the_last_axis(equation: Any) -> bool:
    axes = equation.params.get("axes", ())
    return not axes or len(equation.invars[0].aval.shape) - 1 in axes


def _key(equation: Any, given: tuple[Value, ...]) -> Any:
    """Equal for equations of equal answers; the equation itself where that cannot be told."""
    shapes = tuple(v.aval.shape for v in equation.invars)  # a view is the value that it views
    key = equation.primitive, given, shapes, tuple(equation.params.items())
    try:
        hash(key)
    except TypeError:
        return id(equation)
    return key


def _bytes(v: Any) -> int:
    return math.prod(v.aval.shape) * v.aval.dtype.itemsize
