"""Chat completions that are kept: made with `store`, then retrieved, listed, relabelled, deleted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import openai
import pytest

from gpt_oss.server.state.store import Store
from tests.server.conftest import Scripted
from tests.server.test_chat_completions import ANSWER, ASK


@pytest.mark.parametrize("stream", [False, True])
def test_what_was_stored_is_there_until_it_is_deleted(scripted: Scripted, tmp_path: Path, stream: bool) -> None:
    store = Store(str(tmp_path / "server.db"))
    client: Any = scripted(*[ANSWER] * 3, store=store).client()
    ids = []
    for number in range(2):
        made = client.chat.completions.create(
            model="tiny", messages=ASK, store=True, metadata={"number": str(number)}, stream=stream
        )
        ids.append(next(iter(made)).id if stream else made.id)
    client.chat.completions.create(model="tiny", messages=ASK)  # not stored
    kept = client.chat.completions.retrieve(ids[0])
    assert kept.choices[0].message.content == "It rains."
    assert kept.usage.completion_tokens > 0
    assert sorted(each.id for each in client.chat.completions.list()) == sorted(ids)
    assert [m.content for m in client.chat.completions.messages.list(ids[0])] == [ASK[0]["content"]]
    assert client.chat.completions.update(ids[0], metadata={"a": "b"}).metadata == {"a": "b"}
    assert client.chat.completions.retrieve(ids[0]).metadata == {"a": "b"}
    assert client.chat.completions.delete(ids[0]).deleted
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.retrieve(ids[0])
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.delete(ids[0])
    assert [each.id for each in client.chat.completions.list()] == ids[1:]
    store.close()


def test_a_page_of_them_after_another(scripted: Scripted, tmp_path: Path) -> None:
    store = Store(str(tmp_path / "server.db"))
    client: Any = scripted(*[ANSWER] * 3, store=store).client()
    made = [client.chat.completions.create(model="tiny", messages=ASK, store=True).id for _ in range(3)]
    pages = list(client.chat.completions.list(limit=2).iter_pages())
    assert [len(page.data) for page in pages] == [2, 1]
    assert sorted(each.id for page in pages for each in page.data) == sorted(made)
    store.close()
