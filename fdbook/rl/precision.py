"""In which precision matrix products are computed, on a device that has faster ones for fewer digits.

Parameters, the optimizer's state and everything else stay in single precision; a product takes its two operands with fewer
digits and adds up in single precision. What JAX calls the default differs from device to device, and a CPU has one precision
only. So the products of a traced program are replaced here, and a precision means the same everywhere: on a CPU the operands
are rounded as a GPU would round them, which shows what it does to a training, and is no faster.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal

from fdbook.checks import unknown


__all__ = ["PRECISIONS", "check_precision", "with_matmul_precision"]

PRECISIONS = {"float32": 23, "tensorfloat32": 10, "bfloat16": 7}
"""Each precision, and the digits after the leading one, in base 2, that an operand keeps; all have 8 bits of exponent."""
SHORT = {"tf32": "tensorfloat32", "bf16": "bfloat16"}
"""What makers of GPUs call them."""
PRODUCTS = ("dot_general", "conv_general_dilated")
RULES = ("custom_jvp_call", "custom_vjp_call")
"""Steps that say how they are differentiated, which has been done when a program is rewritten."""


def check_precision(name: str) -> str:
    """The name of a precision, in full where a short one came. Raises ValueError, with the nearest name, where there is none."""
    name = SHORT.get(name, name)
    if name not in PRECISIONS:
        raise ValueError(unknown("precision of matrix products", name, PRECISIONS))
    return name


def with_matmul_precision(function: Callable, precision: str) -> Callable:
    """The function, of arrays and modules, with its products of single-precision numbers computed in `precision`.

    Use it outside of `jax.grad` and `jax.vmap`, so that the products of gradients are among them. On a CPU "float32" is the
    function as it is. Raises ValueError for a precision that there is not.

    >>> x = jnp.array([1 + 2.0**-9, 1.0], jnp.float32)
    >>> [round(float(precision.with_matmul_precision(jnp.dot, name)(x, x)), 4) for name in precision.PRECISIONS]
    [2.0039, 2.0039, 2.0]
    """
    precision = check_precision(precision)
    if precision == "float32" and jax.default_backend() == "cpu":
        return function

    def rewritten(*arguments):
        arrays, rest = eqx.partition(arguments, eqx.is_array)
        others = []

        def of_arrays(arrays):
            result, other = eqx.partition(function(*eqx.combine(arrays, rest)), eqx.is_array)
            others.append(other)
            return result

        closed, shapes = jax.make_jaxpr(of_arrays, return_shape=True)(arrays)
        results = _run(closed.jaxpr, closed.consts, jax.tree.leaves(arrays), precision)
        return eqx.combine(jax.tree.unflatten(jax.tree.structure(shapes), results), others[0])

    return rewritten


def _run(program: Jaxpr, constants, arguments, precision: str) -> list[Any]:
    """What a traced program gives, its products computed in `precision`."""
    values = dict(zip([*program.constvars, *program.invars], [*constants, *arguments], strict=True))

    def of(variable):
        return variable.val if isinstance(variable, Literal) else values[variable]

    for step in program.eqns:
        given, name = [of(variable) for variable in step.invars], step.primitive.name
        if name in PRODUCTS:
            left, right = given
            results = [_product(step, left, right, precision)]
        elif name in RULES:
            inner = step.params["call_jaxpr"]
            results = _run(inner.jaxpr, inner.consts, given, precision)
        else:
            parameters = {key: _rewritten(value, precision) for key, value in step.params.items()}
            results = step.primitive.bind(*given, **step.primitive.get_bind_params(parameters))
            results = results if step.primitive.multiple_results else [results]
        values |= dict(zip(step.outvars, results, strict=True))
    return [of(variable) for variable in program.outvars]


def _rewritten(value, precision: str):
    """A parameter of a step, the programs in it rewritten."""
    if type(value) is tuple:  # the branches of a condition; a named tuple holds no programs
        return tuple(_rewritten(item, precision) for item in value)
    if isinstance(value, Jaxpr):
        closed: Any = _rewritten(ClosedJaxpr(value, ()), precision)
        return closed.jaxpr
    if not isinstance(value, ClosedJaxpr):
        return value
    shapes = [jax.ShapeDtypeStruct(item.shape, item.dtype, weak_type=item.weak_type) for item in value.in_avals]
    return jax.make_jaxpr(lambda *arguments: _run(value.jaxpr, value.consts, arguments, precision))(*shapes)


def _product(step, left, right, precision: str):
    """One product; of other numbers than single-precision ones as it is."""
    if left.dtype != jnp.float32 or right.dtype != jnp.float32:
        return step.primitive.bind(left, right, **step.params)
    if precision == "bfloat16":
        wide = {"precision": None, "preferred_element_type": jnp.dtype(jnp.float32)}
        return step.primitive.bind(left.astype(jnp.bfloat16), right.astype(jnp.bfloat16), **(step.params | wide))
    if precision == "tensorfloat32" and jax.default_backend() == "cpu":
        left, right = (jax.lax.reduce_precision(operand, 8, PRECISIONS[precision]) for operand in (left, right))
        return step.primitive.bind(left, right, **step.params)
    wanted = jax.lax.Precision.HIGHEST if precision == "float32" else jax.lax.Precision.HIGH
    return step.primitive.bind(left, right, **(step.params | {"precision": (wanted, wanted)}))
