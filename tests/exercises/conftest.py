"""What tests of exercises share."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.exercises.helpers import prove_exercise


@pytest.fixture
def prove() -> Callable[..., None]:
    """`prove(exercise, source, answer, wrong, names, **given)`: see `helpers.prove_exercise`."""
    return prove_exercise
