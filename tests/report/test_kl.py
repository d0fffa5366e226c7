"""The numbers behind the figure "kl", against closed forms and an integration that shares no code with them."""

import functools

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from fdbook.geometry import densities
from fdbook.geometry.densities import Shear, Warped, gaussian
from fdbook.report import numbers as files
from fdbook.report import style
from fdbook.report.figures import Context, kl


SIZES = np.array([1e-4, 3e-4, 0.01, 0.1])
SPREAD, WIDTH, BEND = 0.6, 0.06, 0.9  # of the banana


@pytest.fixture(scope="module")
def banana():
    density = densities.make("banana")
    return density, kl.grid(density), kl.displacements(density, (0.9, 0.4), key=jr.key(0), steps=5)


def straight(bend=lambda u: 0.0 * u):
    return Warped(gaussian(jnp.zeros(2), jnp.diag(jnp.array([SPREAD**2, WIDTH**2]))), Shear(bend))


@pytest.mark.slow
def test_a_translation_of_the_banana(banana, budget):
    density, nodes, fields = banana
    found = kl.divergences(density, fields["translation"], SIZES, nodes)
    right, up = SIZES * kl.EAST[0], SIZES * kl.EAST[1]
    across = (up - BEND * right**2) ** 2 + (2 * BEND * SPREAD * right) ** 2
    np.testing.assert_allclose(
        found["exact"], right**2 / (2 * SPREAD**2) + across / (2 * WIDTH**2), rtol=budget("figure_kl")
    )
    np.testing.assert_allclose(found["fisher-rao"], found["fisher-paper"], rtol=budget("figure_kl"))


def log_banana(x, y):
    return -(x**2) / (2 * SPREAD**2) - (y - BEND * (x**2 - 0.36)) ** 2 / (2 * WIDTH**2)


@pytest.mark.parametrize("kind", ["tangent", "normal"])
def test_the_exact_kl_of_a_field_along_and_across_the_banana(banana, kind, budget):
    density, nodes, fields = banana
    size, step = 0.1, 1e-6
    found = kl.divergences(density, fields[kind], np.array([size]), nodes)["exact"][0]
    (u, wu), (v, wv) = (np.polynomial.legendre.leggauss(n) for n in (300, 80))
    u, v = (scale * values for scale, values in ((7 * SPREAD, u), (7 * WIDTH, v)))
    x, v, weights = (grid.ravel() for grid in (*np.meshgrid(u, v), np.outer(wv, wu)))
    y = v + BEND * (x**2 - 0.36)

    def moved(x, y):
        slope = 2 * BEND * x
        along = np.stack([np.ones_like(x), slope]) / np.sqrt(1 + slope**2)
        return np.stack([x, y]) + size * (along if kind == "tangent" else np.stack([-along[1], along[0]]))

    by_x, by_y = ((moved(x + dx, y + dy) - moved(x - dx, y - dy)) / (2 * step) for dx, dy in ((step, 0.0), (0.0, step)))
    loss = log_banana(x, y) - log_banana(*moved(x, y)) - np.log(np.abs(by_x[0] * by_y[1] - by_x[1] * by_y[0]))
    mass = weights * np.exp(log_banana(x, y))
    np.testing.assert_allclose(found, (mass @ loss) / mass.sum(), rtol=budget("figure_kl_differences"))


def test_scaling_a_gaussian_gives_the_ratio_of_e12(budget):
    density = straight()
    found = kl.divergences(density, lambda s, a: a, SIZES, kl.grid(density))
    e = SIZES / np.hypot(SPREAD, WIDTH)
    np.testing.assert_allclose(found["fisher-rao"], 2 * e**2, rtol=budget("figure_kl"))
    np.testing.assert_allclose(found["fisher-paper"], 4 * e**2, rtol=budget("figure_kl"))
    np.testing.assert_allclose(found["exact"], (1 + e) ** 2 - 1 - 2 * np.log1p(e), rtol=budget("figure_kl"))
    stiffness = (SPREAD**-2 + WIDTH**-2) / 2
    np.testing.assert_allclose(found["l2"], stiffness * SIZES**2 / 2, rtol=budget("figure_kl"))


def test_the_slopes_on_the_banana(banana, budget):
    density, nodes, fields = banana
    for kind in ("translation", "tangent", "learned, E11"):
        found = kl.compare(density, fields[kind], SIZES, nodes)["slope"]
        assert found["fisher-rao"] > 3 - budget("figure_slope")
        assert found["l2"] == pytest.approx(2, abs=budget("figure_slope"))
    assert found["fisher-paper"] == pytest.approx(2, abs=budget("figure_slope"))


def test_a_slope_is_the_power_and_nothing_without_errors():
    assert kl.slope(SIZES, 5 * SIZES**2.5) == pytest.approx(2.5)
    assert np.isnan(kl.slope(SIZES, 0 * SIZES))


def test_a_map_that_folds_gives_no_number():
    density = straight()
    found = kl.divergences(density, lambda s, a: a * jnp.array([-1.0, 0.0]), np.array([0.59, 0.61]), kl.grid(density))
    for values in found.values():
        assert np.isfinite(values).tolist() == [True, False]


@pytest.mark.slow
def test_the_whole_is_computed_in_double_precision_whatever_the_default(monkeypatch):
    monkeypatch.setattr(kl, "SIZES", SIZES)
    monkeypatch.setattr(kl, "grid", functools.partial(kl.grid, points=70))
    monkeypatch.setattr(kl, "KINDS", ("translation", "normal"))
    monkeypatch.setattr(kl, "_learned", lambda *arguments: None)
    whole = kl.displacements
    monkeypatch.setattr(kl, "displacements", lambda *a, **k: {kind: whole(*a, **k)[kind] for kind in kl.KINDS})
    context = Context(0, str, dict, lambda share, message: None)
    with jax.enable_x64(False):
        numbers = kl.compute(context)
        assert jnp.ones(1).dtype == jnp.float32
    for name in kl.MANIFOLDS:
        for kind in kl.KINDS:
            found = numbers["manifolds"][name]["kinds"][kind]
            assert found["error"]["fisher-rao"][0] < 1e-4 * found["kl"]["exact"][0]
            assert found["slope"]["fisher-rao"] > 2.8
    stored = files.stored(numbers, {})
    assert set(stored) == {".json", ".npz"}
    with style.applied():
        assert len(kl.draw(numbers).axes) == 4 * len(kl.KINDS)
