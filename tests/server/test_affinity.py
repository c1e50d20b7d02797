"""Where requests go: what they have in common, and who is too busy to be given more of it."""

from __future__ import annotations

import json
from collections import Counter
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt_oss.server.affinity import BLOCK_CHARACTERS, Affinity, Placement, affinity_of

SYSTEM = "You are a very thorough assistant. " * 100
THREE = {"a": 0, "b": 0, "c": 0}


def asked(path: str = "/v1/chat/completions", **body: Any) -> Affinity:
    return affinity_of("POST", path, json.dumps(body).encode())


def chat(*texts: str, system: str = SYSTEM) -> Affinity:
    roles = ["user", "assistant"] * len(texts)
    said = [{"role": role, "content": text} for role, text in zip(roles, texts, strict=False)]
    return asked(messages=[{"role": "system", "content": system}, *said])


def test_a_longer_conversation_has_the_beginnings_of_the_shorter_one_and_its_session() -> None:
    first = chat("Hello! " * 200)
    then = chat("Hello! " * 200, "Good day. " * 200, "And now?")
    assert len(first.blocks) > 5
    assert then.blocks[: len(first.blocks)] == first.blocks
    assert len(then.blocks) > len(first.blocks)
    assert then.session == first.session


def test_other_conversations_share_the_blocks_of_the_system_message_and_nothing_else() -> None:
    one, other = chat("Hello! " * 200), chat("Goodbye! " * 200)
    shared = sum(a == b for a, b in zip(one.blocks, other.blocks, strict=False))
    assert shared == len(json.dumps({"role": "system", "content": SYSTEM}, separators=(",", ":"))) // BLOCK_CHARACTERS
    assert one.session != other.session


@pytest.mark.parametrize(
    ("path", "short", "long"),
    [
        ("/v1/responses", {"input": "x" * 600}, {"input": "x" * 600 + "y" * 600}),
        ("/v1/responses", {"instructions": SYSTEM, "input": [{"role": "user", "content": "a"}]},
         {"instructions": SYSTEM, "input": [{"role": "user", "content": "a"}, {"role": "user", "content": SYSTEM}]}),
        ("/v1/completions", {"prompt": list(range(1000))}, {"prompt": list(range(2000))}),
        ("/v1/messages", {"system": SYSTEM, "messages": [{"role": "user", "content": "a"}]},
         {"system": SYSTEM, "messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": SYSTEM}]}),
        ("/api/generate", {"system": SYSTEM, "prompt": "x" * 600}, {"system": SYSTEM, "prompt": "x" * 1200}),
    ],
)  # fmt: skip
def test_every_api_has_its_prefix(path: str, short: dict[str, Any], long: dict[str, Any]) -> None:
    some, more = asked(path, **short).blocks, asked(path, **long).blocks
    assert 0 < len(some) < len(more)
    assert more[: len(some)] == some


def test_different_tools_are_different_prompts() -> None:
    tool = {"type": "function", "function": {"name": "look", "description": "Looks. " * 200}}
    messages = [{"role": "user", "content": SYSTEM}]
    assert asked(messages=messages, tools=[tool]).blocks[0] != asked(messages=messages).blocks[0]


def test_keys_conversations_and_earlier_responses_name_the_session() -> None:
    assert asked(messages=[{"role": "user", "content": "x"}], prompt_cache_key="mine").session == "mine"
    assert asked("/v1/responses", input="x", conversation={"id": "conv_1"}).session == "conv_1"
    assert affinity_of("POST", "/v1/conversations/conv_1/items", b"{}").session == "conv_1"
    follows = asked("/v1/responses", input="x", previous_response_id="resp_1")
    assert (follows.session, follows.response, follows.pinned) == ("resp_1", "resp_1", False)
    about = affinity_of("POST", "/v1/responses/resp_1/cancel", b"")
    assert (about.response, about.pinned) == ("resp_1", True)


@pytest.mark.parametrize("body", [b"", b"{", b"[1]", b"\xff\xfe", b'{"messages": 3}', b'{"input": [[], null, 7]}'])
def test_what_is_no_request_still_goes_somewhere(body: bytes) -> None:
    assert Placement().ranked(affinity_of("POST", "/v1/responses", body), THREE)


NAMES = st.sampled_from(["messages", "input", "prompt", "tools", "role", "conversation", "id"]) | st.text()
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(), lambda each: st.lists(each) | st.dictionaries(NAMES, each)
)


@given(ANYTHING)
def test_no_json_breaks_it(body: object) -> None:
    found = affinity_of("POST", "/v1/responses", json.dumps(body).encode())
    assert sorted(Placement().ranked(found, THREE)) == ["a", "b", "c"]


def test_the_replica_that_knows_most_of_a_prompt_comes_first() -> None:
    placement = Placement()
    placement.sent(chat("Hello! " * 200), "b")
    placement.sent(chat("Hello! " * 200, "Good day. " * 200, "And now?"), "c")
    assert placement.ranked(chat("Hello! " * 200, "Good day. " * 200, "And now?", "", "More!"), THREE)[:2] == ["c", "b"]


def test_two_routers_that_know_nothing_agree_and_sessions_spread() -> None:
    wanted = [Affinity(f"session {number}") for number in range(3000)]
    firsts = [Placement().ranked(each, THREE)[0] for each in wanted]
    assert firsts == [Placement().ranked(each, {"c": 0, "a": 0, "b": 0})[0] for each in wanted]
    assert all(900 < count < 1100 for count in Counter(firsts).values())


def test_a_replica_less_moves_only_its_own_sessions() -> None:
    wanted = [Affinity(f"session {number}") for number in range(300)]
    before = {each: Placement().ranked(each, THREE)[0] for each in wanted}
    after = {each: Placement().ranked(each, {"a": 0, "b": 0})[0] for each in wanted}
    assert all(after[each] == before[each] for each in wanted if before[each] != "c")


def test_one_hot_prefix_does_not_overload_a_replica() -> None:
    placement, loads = Placement(slack=1.25), dict.fromkeys("abcd", 0)
    for number in range(400):  # all at once, none ends
        hot = chat(f"question {number}")
        first = placement.ranked(hot, loads)[0]
        placement.sent(hot, first)
        loads[first] += 1
        assert max(loads.values()) <= max(2, 1.25 * (number + 1) / 4 + 1)
    assert min(loads.values()) > 50


def test_the_replica_of_an_earlier_response_comes_first_unless_it_is_busy() -> None:
    follows = asked("/v1/responses", input="x", previous_response_id="resp_1")
    assert {Placement().ranked(follows, THREE, home)[0] for home in "abc"} == {"a", "b", "c"}
    assert Placement().ranked(follows, {"a": 9, "b": 0, "c": 0}, "a")[-1] == "a"
    about = affinity_of("GET", "/v1/responses/resp_1", b"")
    assert Placement().ranked(about, {"a": 9, "b": 0, "c": 0}, "a")[0] == "a", "only it can answer"
    assert sorted(Placement().ranked(about, THREE, "gone")) == ["a", "b", "c"]


def test_a_replica_that_is_gone_is_forgotten_and_old_blocks_are_too() -> None:
    placement = Placement()
    placement.sent(chat("x"), "a")
    assert placement.known(chat("x"), "a") > 0
    placement.keep(["b"])
    assert placement.known(chat("x"), "a") == 0
    random = Random(0)
    first = Affinity("first", tuple(random.getrandbits(64) for _ in range(100)))
    placement.sent(first, "b")
    assert placement.known(first, "b") == 100
    for _ in range(100):
        placement.sent(Affinity("", tuple(random.getrandbits(64) for _ in range(90))), "b")
    assert placement.known(first, "b") == 0, "8192 blocks are remembered, and 9000 came later"


def test_slack_below_a_fair_share_is_refused() -> None:
    with pytest.raises(ValueError, match="slack"):
        Placement(slack=0.9)
