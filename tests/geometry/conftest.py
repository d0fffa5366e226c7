"""What the geometry tests share: a mixture, a flow that is trained once, and a way to say what must be refused."""

import equinox as eqx
import jax.random as jr
import pytest
from plain import random_mixture

from fdbook.geometry import flow


@pytest.fixture(scope="session")
def plain():
    """A skewed mixture in the plane."""
    return random_mixture(2, 3, 7)


@pytest.fixture(scope="session")
def mixture(plain):
    """The same, as the package has it."""
    return plain.built()


@pytest.fixture(scope="session")
def fitted(mixture):
    """A small flow trained on the mixture, its losses, and the untrained field it came from."""
    field_key, data_key, fit_key = jr.split(jr.key(0), 3)
    field = flow.VelocityField(0, 2, 64, 2, key=field_key)
    actions = mixture.sample(20_000, key=data_key)
    options = {"steps": 3000, "batch_size": 256, "learning_rate": 3e-3, "decay": 0.99, "progress": False}
    trained, losses = flow.fit(field, actions, key=fit_key, **options)
    return trained, losses, field


@pytest.fixture
def refused():
    """Calls a function that must refuse its input: one sentence (matching `match`), eagerly or, with jit, at run time."""

    def check(function, *args, match, jit=False):
        if jit:
            with pytest.raises(eqx.EquinoxRuntimeError, match=match):
                eqx.filter_jit(function)(*args)
            return
        with pytest.raises(ValueError, match=match) as caught:
            function(*args)
        text = str(caught.value)
        assert "\n" not in text
        assert text.endswith((".", "]", "}"))

    return check
