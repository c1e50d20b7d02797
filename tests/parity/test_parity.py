"""Every backend against the oracle, transformers and itself: see checks.py."""

from __future__ import annotations

import pytest

from tests.parity.backends import BACKENDS, Backend
from tests.parity.checks import CHECKS, Check, Parity

CASES = [
    pytest.param(backend, check, id=f"{backend.name}: {check.name}")
    for backend in BACKENDS
    for check in CHECKS
    if check.limit(backend) is not None
]


@pytest.mark.parametrize(("backend", "check"), CASES)
def test_parity(parity: Parity, backend: Backend, check: Check) -> None:
    limit = check.limit(backend)
    assert limit is not None
    assert check.measure(parity, backend) <= limit
