"""What a key has made is its own: every route with that key, with another one, and with --share."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sql
from websockets.sync.client import connect

from gpt_oss.backends.scripted import Reply, ScriptedGenerator
from gpt_oss.server.gate import ServerOptions
from gpt_oss.server.state import schema
from gpt_oss.server.state.store import Store
from gpt_oss.vocabulary import decode, encode_with_special
from tests.server.conftest import Live, serving
from tests.server.test_chat_completions import ANSWER, ASK, WEATHER, wait_until
from tests.server.test_responses import TOOL
from tests.server.test_responses_state import THOUGHT_AND_CALL

MINE, THEIRS = "key-of-mine", "key-of-theirs"
KEYS = frozenset({MINE, THEIRS})
NOWHERE = "of_nobody"


@dataclass
class Made:
    """What the first key has made, by ids."""

    response: str
    under_way: str
    conversation: str
    item: str
    turn: str
    chat: str


class Asking:
    """Asks a server with a key."""

    def __init__(self, live: Live, key: str) -> None:
        self._client = httpx.Client(base_url=live.url, headers={"Authorization": f"Bearer {key}"}, timeout=60)

    def __call__(self, method: str, path: str, body: Any = None) -> httpx.Response:
        return self._client.request(method, path, json=body)

    def made(self, path: str, **body: Any) -> Any:
        answer = self("POST", path, body)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def make(self) -> Made:
        talk = self.made("/v1/conversations", items=[{"role": "user", "content": "Hi", "id": "msg_mine"}])["id"]
        turn = self.made("/v1/responses", input="Hi", metadata={"gpt_oss_conversation": talk})["id"]
        return Made(
            response=self.made("/v1/responses", input="Hi")["id"],
            under_way=self.made("/v1/responses", input="Wait", background=True)["id"],
            conversation=talk,
            item="msg_mine",
            turn=turn,
            chat=self.made("/v1/chat/completions", messages=ASK, store=True)["id"],
        )


def replies(prompt: list[int]) -> Reply:
    return Reply(encode_with_special(ANSWER), delay_s=0.15 if "Wait" in decode(prompt) else 0)


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Callable[..., tuple[Asking, Asking, Live]]]:
    closing = []

    def start(share: bool = False, script: Any = replies) -> tuple[Asking, Asking, Live]:
        store = Store(str(tmp_path / f"{time.monotonic_ns()}.db"))
        serve = serving(ScriptedGenerator(script), ServerOptions(drain_s=0.1), KEYS, store=store, share=share)
        live = serve.__enter__()
        closing.append((serve, store))
        return Asking(live, MINE), Asking(live, THEIRS), live

    yield start
    for serve, store in closing:
        serve.__exit__(None, None, None)
        store.close()


# (method, path, body), with the ids of what was made. Every route that asks for something by its id is here.
ROUTES: list[tuple[str, str, Any]] = [
    ("GET", "/v1/responses/{response}", None),
    ("GET", "/v1/responses/{under_way}", None),
    ("GET", "/v1/responses/{under_way}?stream=true", None),
    ("GET", "/v1/responses/{response}/input_items", None),
    ("GET", "/v1/responses/{turn}/trace", None),
    ("POST", "/v1/responses/{under_way}/cancel", None),
    ("DELETE", "/v1/responses/{under_way}", None),
    ("DELETE", "/v1/responses/{response}", None),
    ("POST", "/v1/responses", {"input": "On", "previous_response_id": "{response}"}),
    ("POST", "/v1/responses", {"input": "On", "conversation": "{conversation}"}),
    ("POST", "/v1/responses", {"input": [{"type": "item_reference", "id": "{item}"}]}),
    ("POST", "/v1/responses/input_tokens", {"input": "On", "previous_response_id": "{response}"}),
    ("POST", "/v1/responses/input_tokens", {"input": [{"type": "item_reference", "id": "{item}"}]}),
    ("POST", "/v1/responses/compact", {"model": "tiny", "input": "On", "previous_response_id": "{response}"}),
    ("GET", "/v1/conversations/{conversation}", None),
    ("POST", "/v1/conversations/{conversation}", {"metadata": {"a": "b"}}),
    ("GET", "/v1/conversations/{conversation}/items", None),
    ("POST", "/v1/conversations/{conversation}/items", {"items": [{"role": "user", "content": "More"}]}),
    ("GET", "/v1/conversations/{conversation}/items/{item}", None),
    ("DELETE", "/v1/conversations/{conversation}/items/{item}", None),
    ("GET", "/v1/conversations/{conversation}/turns", None),
    ("POST", "/v1/conversations/{conversation}/turns", {"response": "{response}"}),
    ("DELETE", "/v1/conversations/{conversation}", None),
    ("GET", "/v1/chat/completions/{chat}", None),
    ("GET", "/v1/chat/completions/{chat}/messages", None),
    ("POST", "/v1/chat/completions/{chat}", {"metadata": {"a": "b"}}),
    ("DELETE", "/v1/chat/completions/{chat}", None),
]


def filled(route: tuple[str, str, Any], ids: dict[str, str]) -> tuple[str, str, Any]:
    method, path, body = route
    text = json.dumps(body)
    for name, identity in ids.items():
        path, text = path.replace(f"{{{name}}}", identity), text.replace(f"{{{name}}}", identity)
    return method, path, json.loads(text)


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route[0]} {route[1]} {route[2] or ''}")
def test_what_another_key_has_made_does_not_exist(served: Any, route: tuple[str, str, Any]) -> None:
    mine, theirs, _ = served()
    made = mine.make()
    missing = theirs(*filled(route, dict.fromkeys(vars(made), NOWHERE)))
    refused = theirs(*filled(route, vars(made)))
    assert missing.status_code in (400, 404)
    assert refused.status_code == missing.status_code
    told = refused.text
    for identity in vars(made).values():
        told = told.replace(identity, NOWHERE)
    assert told == missing.text, "as though it were not there"
    own = mine(*filled(route, vars(made)))
    assert own.status_code == 200, own.text
    mine, theirs, _ = served(share=True)
    shared = theirs(*filled(route, vars(mine.make())))
    assert shared.status_code == 200, shared.text


def test_the_table_has_every_route_with_an_id(served: Any) -> None:
    _, _, live = served()
    paths = httpx.get(f"{live.url}/openapi.json").json()["paths"]
    tables = ("/v1/responses/", "/v1/conversations/", "/v1/chat/completions/")
    there = {
        (method.upper(), path.count("/"), path.rpartition("/")[2])
        for path, methods in paths.items()
        for method in methods
        if path.startswith(tables) and "{" in path
    }
    tested = {(method, path.count("/"), path.rpartition("/")[2].partition("?")[0]) for method, path, _ in ROUTES}
    listed = {(method, depth, "{" if last.startswith("{") else last) for method, depth, last in tested}
    assert {(method, depth, "{" if last.startswith("{") else last) for method, depth, last in there} <= listed


@pytest.mark.parametrize("share", [False, True])
def test_lists_hold_ones_own(served: Any, share: bool) -> None:
    mine, theirs, _ = served(share)
    made = mine.make()
    for path, identity in (("/v1/conversations", made.conversation), ("/v1/chat/completions", made.chat)):
        assert [each["id"] for each in mine("GET", path).json()["data"]] == [identity]
        assert [each["id"] for each in theirs("GET", path).json()["data"]] == ([identity] if share else [])


def test_a_response_is_no_turn_of_another_keys_conversation(served: Any) -> None:
    mine, theirs, live = served()
    made = mine.make()
    theirs.made("/v1/responses", input="Hi", metadata={"gpt_oss_conversation": made.conversation})
    turns = mine("GET", f"/v1/conversations/{made.conversation}/turns").json()["data"]
    assert [turn["response"]["id"] for turn in turns] == [made.turn]
    wait_until(lambda: not live.service.live, 20)


def test_items_with_the_same_id_are_each_keys_own(served: Any) -> None:
    mine, theirs, live = served()
    for asking, word in ((mine, "Mine"), (theirs, "Theirs")):
        asking.made("/v1/conversations", items=[{"role": "user", "content": word, "id": "msg_1"}])
    for asking, word in ((mine, "Mine"), (theirs, "Theirs")):
        asking.made("/v1/responses", input=[{"type": "item_reference", "id": "msg_1"}])
        prompt = decode(live.generator.prompts[-1])
        assert [each in prompt for each in ("Mine", "Theirs")] == [word == "Mine", word == "Theirs"]


@pytest.mark.parametrize("share", [False, True])
@pytest.mark.parametrize("kept", ["call", "id"])
def test_thoughts_are_recalled_for_their_key_only(served: Any, kept: str, share: bool) -> None:
    mine, theirs, live = served(share, [encode_with_special(text) for text in (THOUGHT_AND_CALL, ANSWER, ANSWER)])
    thought, call = mine.made("/v1/responses", input="Hi", tools=[TOOL], store=False)["output"]
    bare = [{"type": "reasoning", "id": thought["id"], "summary": []}] if kept == "id" else []
    result = {"type": "function_call_output", "call_id": call["call_id"], "output": "rain"}
    if kept == "id":
        call["call_id"] = result["call_id"] = "call_of_another_name"
    more = [{"role": "user", "content": "Hi"}, *bare, call, result]
    for asking, knows in ((theirs, share), (mine, True)):
        asking.made("/v1/responses", input=more, tools=[TOOL], store=False)
        assert ("Oslo it is." in decode(live.generator.prompts[-1])) == knows


def test_thoughts_of_chat_completions_too(served: Any) -> None:
    mine, theirs, live = served(False, [encode_with_special(text) for text in (THOUGHT_AND_CALL, ANSWER, ANSWER)])
    said = mine.made("/v1/chat/completions", messages=ASK, tools=[WEATHER])["choices"][0]["message"]
    call = said["tool_calls"][0]
    bare = {"role": "assistant", "content": None, "tool_calls": [call]}
    more = [*ASK, bare, {"role": "tool", "tool_call_id": call["id"], "content": "rain"}]
    for asking, knows in ((theirs, False), (mine, True)):
        asking.made("/v1/chat/completions", messages=more, tools=[WEATHER])
        assert ("Oslo it is." in decode(live.generator.prompts[-1])) == knows


def test_over_a_websocket(served: Any) -> None:
    mine, _, live = served()
    made = mine.make()
    url = live.url.replace("http://", "ws://") + "/v1/responses"
    for key, kind in ((THEIRS, "error"), (MINE, "response.created")):
        with connect(url, additional_headers={"Authorization": f"Bearer {key}"}) as socket:
            body = {"type": "response.create", "input": "On", "previous_response_id": made.response}
            socket.send(json.dumps(body))
            assert json.loads(socket.recv(timeout=60))["type"] == kind


def test_what_was_made_without_a_key_is_nobodys(tmp_path: Path) -> None:
    """Also what is from before keys owned anything."""
    path = str(tmp_path / "server.db")

    def start(**options: Any) -> Any:
        store = Store(path)
        return serving(ScriptedGenerator(replies), store=store, **options), store

    serve, store = start()
    with serve as live:
        identity = httpx.post(f"{live.url}/v1/responses", json={"input": "Hi"}).json()["id"]
    store.close()
    for options, status in (({"keys": KEYS}, 404), ({"keys": KEYS, "share": True}, 200)):
        serve, store = start(**options)
        with serve as live:
            assert Asking(live, MINE)("GET", f"/v1/responses/{identity}").status_code == status
        store.close()


async def test_whose_it_is_stays_with_it(tmp_path: Path) -> None:
    """Rows that are made while all is shared have a maker too."""
    store = Store(str(tmp_path / "server.db"))
    view = store.seen_by("laptop", sees_all=True)
    await view.create_conversation("conv", {}, [])
    names = await store.read(lambda c: c.execute(sql.select(schema.conversations.c.made_by)).scalars().all())
    assert names == ["laptop"]
    assert await store.seen_by("laptop", sees_all=False).conversation("conv")
    assert await store.seen_by("phone", sees_all=False).conversation("conv") is None
    store.close()


def test_nobody_is_told_what_of_a_prompt_others_have_sent(tmp_path: Path) -> None:
    def cached(reply: Any) -> int:
        count: int = reply["usage"]["input_tokens_details"]["cached_tokens"]
        return count

    script = lambda prompt: Reply(encode_with_special(ANSWER), cached_tokens=len(prompt) - 1)  # noqa: E731
    question = {"input": "word " * 200, "store": False}
    for share in (False, True):
        with serving(ScriptedGenerator(script), ServerOptions(drain_s=0.1), KEYS, share=share) as live:
            mine, theirs = Asking(live, MINE), Asking(live, THEIRS)
            mine.made("/v1/responses", **question)
            stranger = theirs.made("/v1/responses", **question)
            again = theirs.made("/v1/responses", **question)
            assert (cached(stranger) > 100) == share
            assert cached(again) > 100
            longer = theirs.made("/v1/chat/completions", messages=[{"role": "user", "content": "else " * 200}])
            begins_alike = longer["usage"]["prompt_tokens_details"]["cached_tokens"]
            assert (begins_alike > 150) == share
