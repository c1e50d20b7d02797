"""The mutation check: parity fails for every known defect, so it says something about each of these facts."""

from __future__ import annotations

import pytest

from tests.parity.backends import BACKENDS
from tests.parity.checks import Parity
from tests.parity.defects import CONTROL, DEFECTS, PARALLEL_DEFECTS, Defect

EXACT = next(backend for backend in BACKENDS if backend.name == "torch float32")
TOKENS = 300


def distance_with(defect: Defect, parity: Parity) -> float:
    """Of the backend's logits from the oracle's."""
    with defect.injected():
        return EXACT.distance(parity.prefill(EXACT, TOKENS), parity.oracle[:TOKENS])


def distance_in_processes(number: int | None, parity: Parity) -> float:
    """The same for two processes that share the model, with that one of PARALLEL_DEFECTS."""
    logits = parity.in_processes("float32")["logits" if number is None else f"defect {number}"]
    return EXACT.distance(logits, parity.oracle[: len(logits)])


def test_without_a_defect_parity_holds(parity: Parity) -> None:
    assert distance_with(CONTROL, parity) <= EXACT.near
    assert distance_in_processes(None, parity) <= EXACT.near


@pytest.mark.parametrize("defect", DEFECTS, ids=lambda defect: defect.name)
def test_parity_notices(parity: Parity, defect: Defect) -> None:
    assert distance_with(defect, parity) > 10 * EXACT.near


@pytest.mark.parametrize("number", range(len(PARALLEL_DEFECTS)), ids=[defect.name for defect in PARALLEL_DEFECTS])
def test_parity_of_processes_notices(parity: Parity, number: int) -> None:
    assert distance_in_processes(number, parity) > 10 * EXACT.near
