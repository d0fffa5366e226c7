"""Refusals: which values pass, and what the sentence says of those that do not, eagerly and in compiled code."""

import dataclasses
import re

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fdbook.checks import (
    check_finite,
    check_kinds,
    check_point,
    check_range,
    check_rows,
    check_shape,
    check_time,
    known,
    unknown,
)


def test_known_is_what_can_be_looked_at():
    seen = []

    def look(x):
        seen.append(known(x, 1.0))
        return x

    look(jnp.ones(2)), jax.jit(look)(jnp.ones(2)), jax.vmap(look)(jnp.ones(2)), jax.grad(look)(1.0)
    assert seen == [True, False, False, False]
    assert known({"a": 1, "b": np.ones(2)})


def test_unknown_names_the_nearest_and_all():
    names = ("ring", "banana", "moons")
    assert unknown("density", "bannana", names) == (
        "There is no density called 'bannana'. Did you mean 'banana'? Known: banana, moons, ring."
    )
    assert unknown("density", "xyz", names) == "There is no density called 'xyz'. Known: banana, moons, ring."
    assert "called 3." in unknown("density", 3, names)


@pytest.mark.parametrize("shape", [(3, 2), (0, 2)])
def test_shape_passes(shape):
    check_shape(np.zeros(shape), (None, 2), "actions", "here")


@pytest.mark.parametrize(
    ("shape", "wanted", "text"),
    [
        ((3, 2), (None, 3), r"here takes actions of shape \(n, 3\); got shape \(3, 2\)\."),
        ((3,), (None, 3), r"of shape \(n, 3\); got shape \(3,\)\."),
        ((), (4,), r"of shape \(4,\); got shape \(\)\."),
        ((4,), (), r"of shape \(\); got shape \(4,\)\."),
    ],
)
def test_shape_refuses(shape, wanted, text):
    with pytest.raises(ValueError, match=text):
        check_shape(np.zeros(shape), wanted, "actions", "here")


@pytest.mark.parametrize("value", [1 + 1e-7, np.float32(1) + np.finfo(np.float32).eps, 1 + np.finfo(float).eps])
def test_a_value_just_outside_is_not_shown_as_the_bound(value):
    with pytest.raises(ValueError, match=r"a time t in \[0, 1\]; got ") as refusal:
        check_time(value, "here")
    said = str(refusal.value).rpartition("got ")[2].rstrip(".")
    assert type(value)(said) == value
    with pytest.raises(ValueError, match=r"first in row 1 \(1\.00"):
        check_rows(np.array([[0.5], [value]]), "shares", "here", high=1.0)


def test_point_points_to_vmap():
    check_point(np.zeros(2), 2, "here")
    with pytest.raises(ValueError, match=r"here takes one point of shape \(2,\); got shape \(5, 2\)\. Use jax\.vmap"):
        check_point(np.zeros((5, 2)), 2, "here")
    with pytest.raises(ValueError, match=r"got shape \(3,\)\.$"):
        check_point(np.zeros(3), 2, "here")


ENDS = [
    ({}, [0.0, 1.0, 0.5], [-1e-9, 1.0 + 1e-9, np.nan, np.inf]),
    ({"open_low": True}, [1e-9, 1.0], [0.0, -0.5, np.nan]),
    ({"open_high": True}, [0.0, 1.0 - 1e-9], [1.0, np.nan]),
]


@pytest.mark.parametrize(("ends", "good", "bad"), ENDS)
@pytest.mark.parametrize("kind", [float, np.float64, jnp.asarray, lambda t: np.array([0.5, t])])
def test_time(kind, ends, good, bad):
    for t in map(kind, good):
        assert check_time(t, "here", **ends) is t
    for t in map(kind, bad):
        with pytest.raises(ValueError, match=r"here takes a time t in [\[(]0, 1[\])]; got (-|1|0|nan|inf)\S*\.$"):
            check_time(t, "here", **ends)


@pytest.mark.parametrize(("ends", "good", "bad"), ENDS)
def test_time_in_compiled_code(ends, good, bad):
    check = eqx.filter_jit(lambda t: 1.0 * check_time(t, "here", **ends))
    for t in good:
        assert check(jnp.asarray(t)) == t
    for t in bad:
        with pytest.raises(eqx.EquinoxRuntimeError, match=r"here takes a time t in .*a value outside it"):
            check(jnp.asarray(t))


@pytest.mark.parametrize("kind", [float, np.float64, jnp.asarray])
def test_a_constant_is_looked_at_while_tracing(kind):
    """Inside jit a constant is still known: a good one costs nothing at run time, a bad one is refused at once."""
    good, late, missing = kind(0.5), kind(1.5), kind(np.nan)
    assert jax.jit(lambda x: x * check_time(good, "here"))(jnp.asarray(2.0)) == 1.0
    assert jax.jit(lambda x: x * check_finite(good, "times", "here"))(jnp.asarray(2.0)) == 1.0
    with pytest.raises(ValueError, match=r"got 1\.5"):
        jax.jit(lambda x: x * check_time(late, "here"))(jnp.asarray(2.0))
    with pytest.raises(ValueError, match="1 of 1 values are NaN"):
        jax.jit(lambda x: x * check_finite(missing, "times", "here"))(jnp.asarray(2.0))


def test_range_names_the_first_bad_value():
    with pytest.raises(ValueError, match=r"here takes a budget in \(0, inf\]; got -2\."):
        check_range(np.array([[1.0, 2.0], [-2.0, -3.0]]), "a budget", "here", open_low=True)


def test_finite_counts():
    values = np.array([1.0, np.nan, np.inf])
    assert check_finite(values[:1], "actions", "here") is not None
    with pytest.raises(ValueError, match=r"here takes finite actions; 2 of 3 values are NaN or infinite\."):
        check_finite(values, "actions", "here")


def test_finite_in_compiled_code():
    check = eqx.filter_jit(lambda x: 1.0 * check_finite(x, "actions", "here"))
    assert check(jnp.ones(2)).sum() == 2
    with pytest.raises(eqx.EquinoxRuntimeError, match="here takes finite actions"):
        check(jnp.array([1.0, jnp.inf]))


@dataclasses.dataclass
class Sizes:
    """One field of each kind; only the last may be None."""

    whole: int = 3
    number: float = 0.5
    word: str = "mean"
    switch: bool = True
    free: object = ()
    limit: float | None = 5.0


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"whole": 2.5}, "takes a whole number for whole; got 2.5"),
        ({"whole": True}, "takes a whole number for whole; got True"),
        ({"whole": None}, "takes a whole number for whole; got None"),
        ({"number": "fast"}, "takes a number for number; got 'fast'"),
        ({"word": 3}, "takes a word for word; got 3"),
        ({"switch": 1}, "takes true or false for switch; got 1"),
        ({"limit": "none"}, "takes a number for limit; got 'none'"),
    ],
)
def test_kinds(values, sentence):
    check_kinds(Sizes(whole=np.int64(2), number=1, free="anything", limit=None), "It")
    with pytest.raises(ValueError, match=f"^It {re.escape(sentence)}"):
        check_kinds(Sizes(**values), "It")
