"""Matrix products in fewer digits, against NumPy that rounds by hand."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import ml_dtypes
import numpy as np
import pytest

from fdbook import experiment
from fdbook.rl import agents, train
from fdbook.rl.precision import PRECISIONS, with_matmul_precision
from fdbook.rl.transitions import Transitions


def rounded(x, precision):
    """Operands as NumPy rounds them: to the nearest number with as many digits, ties to the even one."""
    x = np.asarray(x, np.float32)
    if precision == "bfloat16":
        return x.astype(ml_dtypes.bfloat16).astype(np.float64)
    if precision == "tensorfloat32":
        mantissa, exponent = np.frexp(x.astype(np.float64))
        return np.ldexp(np.round(mantissa * 2**11) / 2**11, exponent)
    return x.astype(np.float64)


@pytest.fixture
def operands():
    left, right = jr.normal(jr.key(0), (40, 30), jnp.float32), jr.normal(jr.key(1), (30, 20), jnp.float32)
    return left, right


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_product_takes_operands_of_that_many_digits_and_adds_up_in_single_precision(operands, precision):
    mine = with_matmul_precision(jnp.matmul, precision)(*operands)
    whole = np.matmul(*(np.asarray(x, np.float64) for x in operands))
    by_hand = np.matmul(*(rounded(x, precision) for x in operands))
    assert mine.dtype == jnp.float32
    np.testing.assert_allclose(mine, by_hand, atol=2e-5)
    if precision != "float32":
        assert np.abs(by_hand - whole).max() > 1e-3


def nested(products):
    """A function with products under vmap, in a loop, a scan, a branch, a checkpoint, and behind rules of differentiation."""

    @jax.custom_vjp
    def ruled(y, w):
        return jnp.tanh(products(y, w))

    ruled.defvjp(lambda y, w: (ruled(y, w), None), lambda kept, slope: (slope, slope))

    @jax.custom_jvp
    def ruled_too(y, w):
        return jnp.tanh(products(y, w))

    ruled_too.defjvp(lambda primals, tangents: (ruled_too(*primals), tangents[0]))

    def function(x, w):
        x = jax.checkpoint(lambda x: jnp.tanh(products(x, w)))(ruled_too(ruled(x, w), w))
        y = jax.vmap(lambda row: jax.nn.relu(products(row, w)))(x)
        y = jax.lax.fori_loop(0, 3, lambda i, y: jnp.tanh(products(y, w)), y)
        y, _ = jax.lax.scan(lambda y, _: (jnp.tanh(products(y, w)), None), y, length=2)
        return jnp.sum(jax.lax.cond(jnp.sum(y) > 0, lambda y: products(y, w), lambda y: 2 * products(y, w), y))

    return function


def test_products_are_found_wherever_they_stand():
    x, w = jr.normal(jr.key(2), (6, 8), jnp.float32), jr.normal(jr.key(3), (8, 8), jnp.float32)

    def by_hand(a, b):
        return jnp.matmul(a.astype(jnp.bfloat16), b.astype(jnp.bfloat16), preferred_element_type=jnp.float32)

    plain = nested(jnp.matmul)(x, w)
    few = with_matmul_precision(nested(jnp.matmul), "bfloat16")(x, w)
    np.testing.assert_allclose(few, nested(by_hand)(x, w), rtol=1e-5)
    assert abs(few - plain) > 1e-3


def test_convolutions_are_products_too():
    picture, kernel = jr.normal(jr.key(4), (2, 3, 6, 6), jnp.float32), jr.normal(jr.key(5), (4, 3, 3, 3), jnp.float32)

    def convolved(picture, kernel):
        return jax.lax.conv(picture, kernel, (1, 1), "VALID")

    few = with_matmul_precision(convolved, "bfloat16")(picture, kernel)
    patches = np.lib.stride_tricks.sliding_window_view(rounded(picture, "bfloat16"), (3, 3), axis=(2, 3))
    by_hand = np.einsum("bchwij,ocij->bohw", patches, rounded(kernel, "bfloat16"))
    np.testing.assert_allclose(few, by_hand, atol=1e-4)
    assert np.abs(np.asarray(convolved(picture, kernel)) - by_hand).max() > 1e-3


def test_the_products_of_a_gradient_are_among_them(operands):
    left, right = operands
    slope = with_matmul_precision(jax.grad(lambda w: jnp.sum((left @ w) ** 2)), "bfloat16")(right)
    forward = rounded(left, "bfloat16") @ rounded(right, "bfloat16")
    by_hand = rounded(left, "bfloat16").T @ rounded(2 * forward.astype(np.float32), "bfloat16")
    np.testing.assert_allclose(slope, by_hand, rtol=0, atol=0.004 * np.abs(by_hand).max())
    assert np.abs(by_hand - np.asarray(left).T @ (2 * np.asarray(left) @ np.asarray(right))).max() > 0.1


def products_of(program):
    """All matrix products of a traced program, those inside its steps too."""
    for step in program.eqns:
        if step.primitive.name in ("dot_general", "conv_general_dilated"):
            yield step
        for value in step.params.values():
            for item in value if isinstance(value, tuple | list) else (value,):
                inner = getattr(item, "jaxpr", item)
                if hasattr(inner, "eqns"):
                    yield from products_of(inner)


def some_data():
    rng, ends = np.random.default_rng(0), np.arange(60) % 20 == 19
    seen, actions = rng.normal(size=(60, 3)).astype(np.float32), rng.uniform(-1, 1, (60, 2)).astype(np.float32)
    return Transitions.of(seen, actions, np.zeros(60, np.float32), np.ones(60, np.float32), ends)


@pytest.mark.slow
@pytest.mark.parametrize("name", agents.AGENTS)
def test_no_product_of_an_update_keeps_all_digits(name):
    stacked = train.init(agents.make(name), (3,), 2, (0, 1), width=8, depth=2, batch_size=4)
    arrays, rest = eqx.partition(stacked, eqx.is_array)
    update = train.Update(jnp.arange(2), "bfloat16")

    def traced(arrays, data, key):
        after, info = update(eqx.combine(arrays, rest), data, key=key)
        return eqx.filter(after, eqx.is_array), info

    found = list(products_of(jax.make_jaxpr(traced)(arrays, some_data(), jr.key(0)).jaxpr))
    assert len(found) > 5
    assert {str(variable.aval.dtype) for step in found for variable in step.invars} == {"bfloat16"}
    assert {str(step.outvars[0].aval.dtype) for step in found} == {"float32"}


def test_weights_and_the_optimizers_state_stay_in_single_precision():
    stacked = train.init(agents.make("bc"), (3,), 2, (0,), width=8, depth=2, batch_size=4)
    after, _ = train.Update(jnp.arange(1), "bfloat16")(stacked, some_data(), key=jr.key(0))
    kinds = {str(leaf.dtype) for leaf in jax.tree.leaves(eqx.filter(after, eqx.is_inexact_array))}
    assert kinds == {"float32"}


def test_single_precision_on_a_cpu_is_the_function_itself():
    assert with_matmul_precision(jnp.matmul, "float32") is jnp.matmul


@pytest.mark.parametrize(
    ("precision", "asked"), [("float32", jax.lax.Precision.HIGHEST), ("tensorfloat32", jax.lax.Precision.HIGH)]
)
def test_on_a_gpu_the_product_itself_is_asked_for_the_precision(operands, precision, asked, monkeypatch):
    """What JAX's documentation calls them: HIGHEST is float32, HIGH is TensorFloat-32 on a GPU. No operand is rounded by us."""
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    traced = jax.make_jaxpr(with_matmul_precision(jnp.matmul, precision))(*operands).jaxpr
    (product,) = products_of(traced)
    assert product.params["precision"] == (asked, asked)
    assert "reduce_precision" not in str(traced)


def test_an_unknown_precision_is_refused_with_the_nearest_name():
    with pytest.raises(ValueError, match="Did you mean 'bfloat16'"):
        experiment.RunSpec("cube-single", matmul_precision="bfloat61")


@pytest.mark.parametrize(("short", "name"), [("tf32", "tensorfloat32"), ("bf16", "bfloat16")])
def test_short_names_are_taken_for_what_they_mean(short, name):
    spec = experiment.RunSpec("cube-single", matmul_precision=short)
    assert spec == experiment.RunSpec("cube-single", matmul_precision=name)
    assert spec.to_dict()["matmul_precision"] == name
    operand = jnp.full(2, 1 + 2.0**-9, jnp.float32)
    few = with_matmul_precision(jnp.dot, short)(operand, operand)
    assert few == with_matmul_precision(jnp.dot, name)(operand, operand)


def test_a_specification_says_it_only_where_it_is_another_than_before():
    spec = experiment.RunSpec("pointmaze-medium", "bc")
    fast = spec.replace(matmul_precision="tensorfloat32")
    assert "matmul_precision" not in spec.to_dict()
    assert fast.diff(spec) == {"matmul_precision": ("tensorfloat32", None)}
    assert fast.hash != spec.hash
    assert fast.folder.name.endswith("matmul_precision=tensorfloat32")
    assert experiment.RunSpec.from_dict(fast.to_dict()) == fast
    assert fast.replace(agent="fql").matmul_precision == "tensorfloat32"
