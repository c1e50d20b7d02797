from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.conformance.subjects import Bench


@pytest.fixture(scope="package")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    shared = Bench(tmp_path_factory.mktemp("conformance"))
    with shared.stack:
        yield shared
