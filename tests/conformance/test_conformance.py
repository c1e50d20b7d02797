"""One suite over every backend: the same prompts, and the cpu engine in its exact precision as the reference."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.conformance.checks import CHECKS, Check
from tests.conformance.subjects import SUBJECTS, Bench, Opened, Subject

PARAMS = [
    pytest.param(subject, id=subject.name, marks=[pytest.mark.slow] if subject.slow else []) for subject in SUBJECTS
]


@pytest.fixture(scope="module", params=PARAMS)
def subject(request: pytest.FixtureRequest) -> Subject:
    found: Subject = request.param
    reason = found.missing()
    if reason is not None:
        pytest.skip(reason)
    return found


@pytest.fixture(scope="module")
def opened(subject: Subject, bench: Bench) -> Iterator[Opened]:
    with ExitStack() as stack:
        yield subject.open(bench, stack)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.name)
def test_it_does(check: Check, subject: Subject, opened: Opened, bench: Bench) -> None:
    if not check.applies(subject):
        pytest.skip(f"{subject.name} does not offer it")
    check.run(subject, opened, bench)
