"""`gpt-oss serve` with the demo model, as the pages start it, on a free port."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.docs.demo_server import Served, serve_demo


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serve_demo(tmp_path_factory.mktemp("served")) as server:
        yield server
