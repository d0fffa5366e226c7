"""One-step policies: E17 against NumPy, E9 against closed forms of linear policies, and what a straight value makes of them."""

import diffrax
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from fdbook.geometry import densities, distillation, flow


class Affine(distillation.OneStep):
    """mu(z) = M z + b, with its first coordinate folded if asked for."""

    matrix: jax.Array
    shift: jax.Array
    folded: bool = False

    def __init__(self, matrix, shift, folded=False):
        self.mlp, self.matrix, self.shift, self.folded = None, jnp.asarray(matrix), jnp.asarray(shift), folded

    def __call__(self, observation, noise):
        action = self.matrix @ noise + self.shift
        return jnp.abs(action) if self.folded else action


MATRIX, SHIFT = np.array([[0.4, 0.1], [-0.2, 0.3]]), np.array([0.2, -0.1])
MEAN, SPREAD = np.array([0.1, 0.0]), np.array([[0.3, 0.05], [0.05, 0.2]])


@pytest.mark.parametrize("normalized", [False, True])
def test_the_loss_is_e17_written_out(normalized):
    rng = np.random.default_rng(0)
    actions, taught, values = rng.normal(size=(7, 3)), rng.normal(size=(7, 3)), rng.normal(size=7) - 1
    loss, terms = distillation.actor_loss(
        *(jnp.asarray(x) for x in (actions, taught, values)), 2.5, normalize_q=normalized
    )
    distance = sum(np.sum((a - b) ** 2) for a, b in zip(actions, taught, strict=True)) / (7 * 3)
    value = np.sum(values) / (np.sum(np.abs(values)) if normalized else 7)
    assert float(loss) == pytest.approx(2.5 * distance - value)
    assert float(terms["distance"]) == pytest.approx(distance)
    assert float(terms["value"]) == pytest.approx(np.mean(values))


def test_no_gradient_reaches_the_teacher_or_the_scale():
    actions, taught = jnp.ones((4, 2)), jnp.zeros((4, 2))

    def loss(actions, taught, factor):
        values = factor * jnp.sum(actions, axis=1)
        return distillation.actor_loss(actions, taught, values, 3.0, normalize_q=True)[0]

    to_actions, to_taught, to_factor = jax.grad(loss, argnums=(0, 1, 2))(actions, taught, 5.0)
    np.testing.assert_array_equal(to_taught, 0)
    # alpha 2 (a - b) / (b d) from the distance; the value is 5 (a1 + a2) over its mean absolute value of 10
    np.testing.assert_allclose(to_actions, 3.0 * 2 / 8 - 0.5 / 4)
    assert float(to_factor) == pytest.approx(-2 / 10)


def test_the_kl_of_a_linear_policy_is_that_of_two_gaussians(budget):
    density = densities.gaussian(jnp.asarray(MEAN), jnp.asarray(SPREAD))
    noises = jr.normal(jr.key(0), (20_000, 2))
    found = float(distillation.kl_exact(Affine(MATRIX, SHIFT), density, noises))
    own, inverse = MATRIX @ MATRIX.T, np.linalg.inv(SPREAD)
    away = SHIFT - MEAN
    exact = 0.5 * (np.trace(inverse @ own) - 2 + away @ inverse @ away - np.linalg.slogdet(inverse @ own)[1])
    # The integrand is a quadratic form of z plus a constant: its standard error is known.
    form = 0.5 * (MATRIX.T @ inverse @ MATRIX - np.eye(2))
    slope = MATRIX.T @ inverse @ away
    error = np.sqrt((2 * np.trace(form @ form) + slope @ slope) / len(noises))
    assert abs(found - exact) < budget("standard_errors") * error


@pytest.mark.parametrize("turn", [np.diag([-1.0, 1.0]), np.diag([1.0, -1.0]) @ MATRIX])
def test_a_policy_that_mirrors_the_noises_costs_what_its_law_costs(turn, budget):
    """M z and -M z, in one coordinate or in both, have one law where the noise has; only its determinant changes sign."""
    density, noises = densities.gaussian(jnp.zeros(2), 2 * jnp.eye(2)), jr.normal(jr.key(0), (500, 2))
    assert np.linalg.det(turn) < 0
    found = distillation.kl_exact(Affine(turn, np.zeros(2)), density, noises)
    z, own = np.asarray(noises), np.abs(np.linalg.det(turn))
    moved = z @ turn.T
    losses = -0.5 * np.sum(z**2, axis=1) - np.log(own) + 0.25 * np.sum(moved**2, axis=1) + np.log(2)
    assert float(found) == pytest.approx(np.mean(losses), rel=budget("closed_form"))


def test_the_determinant_is_that_of_the_jacobian():
    policy, z = distillation.OneStep(3, 2, 16, 2, key=jr.key(1)), jnp.array([0.3, -0.4])
    s = jnp.array([0.1, 0.2, 0.3])
    exact = np.linalg.det(np.asarray(jax.jacrev(lambda x: policy(s, x))(z)))
    assert float(policy.determinant(s, z)) == pytest.approx(exact, rel=1e-4)


def test_where_the_policy_folds_there_is_no_kl():
    density = densities.gaussian(jnp.zeros(2), jnp.eye(2))
    folded = Affine(np.eye(2), np.zeros(2), folded=True)
    noises = jr.normal(jr.key(0), (100, 2))
    pairs = jnp.concatenate([noises, noises * jnp.array([[-1.0, 1.0]])])  # as many determinants of 1 as of -1
    assert np.isnan(float(distillation.kl_exact(folded, density, noises)))
    assert np.isnan(float(distillation.kl_exact(folded, density, pairs)))


def test_a_flow_teaches_what_it_samples(budget):
    """The exact flow of a Gaussian with half the noise's width halves every noise."""
    field = flow.ExactVelocity(densities.gaussian(jnp.zeros(2), 0.25 * jnp.eye(2)))
    options = {"solver": diffrax.Heun(), "steps": 100}
    noises, taught = distillation.taught_by_flow(field, flow.EMPTY, 50, key=jr.key(0), **options)
    np.testing.assert_allclose(taught, 0.5 * noises, atol=budget("taught_by_heun"))


@pytest.mark.slow
def test_imitation_and_the_pull_of_a_straight_value(budget):
    """With a straight value the optimum of E17 is the flow's action plus d g / (2 alpha), whatever the noise."""
    slope, alpha = np.array([1.0, -0.5]), 8.0
    noises = jr.normal(jr.key(0), (4000, 2), jnp.float32)
    taught = 0.5 * noises

    def value(observation, action):
        return jnp.asarray(slope, action.dtype) @ action

    options = {"key": jr.key(2), "progress": False, "steps": 2000, "learning_rate": 3e-3}
    policy, history = distillation.fit(
        distillation.OneStep(0, 2, 32, 2, key=jr.key(1)), None, noises, taught, **options
    )
    assert np.all(history["value"] == 0)
    assert history["distance"][-1] < 1e-3 * history["distance"][0]
    pulled, _ = distillation.fit(policy, value, noises, taught, alpha=alpha, **options)
    moved = jax.vmap(lambda z: pulled(flow.EMPTY, z))(noises) - taught
    np.testing.assert_allclose(jnp.mean(moved, axis=0), 2 * slope / (2 * alpha), rtol=budget("pulled_policy"))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"alpha": 0.0}, r"distillation\.fit takes alpha in \(0, inf\]; got 0"),
        ({"steps": 0}, r"steps and a batch size"),
        ({"taught": jnp.zeros((4, 2))}, r"taught actions of shape \(5, 2\)"),
        ({"noises": jnp.full((5, 2), jnp.nan)}, r"noises"),
    ],
)
def test_refusals(change, sentence):
    arguments = {"noises": jnp.ones((5, 2)), "taught": jnp.ones((5, 2))} | change
    noises, taught = arguments.pop("noises"), arguments.pop("taught")
    with pytest.raises(ValueError, match=sentence):
        distillation.fit(
            distillation.OneStep(0, 2, 4, 1, key=jr.key(0)), None, noises, taught, key=jr.key(0), **arguments
        )
