"""Which server a prompt goes to: the one that has its beginning, unless it is busy or away."""

from __future__ import annotations

import random
from collections import Counter
from contextlib import ExitStack

from gpt_oss.backends.http.fleet import BLOCK_TOKENS, FEW, REMEMBERED, Fleet

URLS = [f"http://server-{i}" for i in range(4)]


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def prompts(count: int, length: int = 5 * BLOCK_TOKENS) -> list[list[int]]:
    source = random.Random(3)
    return [[source.randrange(200_000) for _ in range(length)] for _ in range(count)]


def chosen(fleet: Fleet, prompt: list[int]) -> str:
    server = fleet.choose(prompt)
    assert server is not None
    return server.url


def test_a_prompt_goes_to_the_same_server_from_every_process_and_in_any_order_of_urls() -> None:
    one, two = Fleet(URLS), Fleet(URLS[::-1])
    for prompt in prompts(50):
        assert chosen(one, prompt) == chosen(two, prompt)


def test_prompts_are_spread() -> None:
    fleet = Fleet(URLS)
    counts = Counter(chosen(fleet, prompt) for prompt in prompts(400))
    assert set(counts) == set(URLS)
    assert max(counts.values()) < 2 * min(counts.values())


def test_one_more_server_moves_few_prompts() -> None:
    small, large = Fleet(URLS[:3]), Fleet(URLS)
    moved = [(chosen(small, prompt), chosen(large, prompt)) for prompt in prompts(400)]
    assert all(after in (before, URLS[3]) for before, after in moved)
    assert 50 < sum(before != after for before, after in moved) < 150  # a quarter, in the mean


def test_a_conversation_stays_where_its_beginning_is_cached() -> None:
    """Also where the first blocks alone would have it elsewhere: the longest known beginning wins."""
    fleet = Fleet(URLS)
    for prompt in prompts(20):
        elsewhere = next(server for server in fleet.servers if server.url != chosen(fleet, prompt))
        with fleet.sent(elsewhere, prompt):
            pass
        longer = prompt + [7] * 200
        assert chosen(fleet, longer) == elsewhere.url


def test_users_who_share_a_system_prompt_are_spread_once_a_server_is_busy() -> None:
    fleet = Fleet(URLS)
    common = prompts(1)[0]
    with ExitStack() as stack:
        for user in range(40):
            prompt = [*common, *[user] * BLOCK_TOKENS]
            server = fleet.choose(prompt)
            assert server is not None
            stack.enter_context(fleet.sent(server, prompt))
        running = [server.running for server in fleet.servers]
    assert sum(running) == 40
    assert max(running) <= 13  # a quarter more than the mean of 10
    assert [server.running for server in fleet.servers] == [0] * 4


def test_a_few_answers_at_once_do_not_scatter() -> None:
    fleet = Fleet(URLS)
    prompt = prompts(1)[0]
    with ExitStack() as stack:
        for _ in range(FEW):
            server = fleet.choose(prompt)
            assert server is not None
            stack.enter_context(fleet.sent(server, prompt))
        assert sorted(server.running for server in fleet.servers) == [0, 0, 0, FEW]


def test_a_server_that_is_away_comes_last_and_returns() -> None:
    clock = Clock()
    fleet = Fleet(URLS, clock=clock)
    prompt = prompts(1)[0]
    first = fleet.choose(prompt)
    assert first is not None
    fleet.failed(first)
    assert chosen(fleet, prompt) != first.url
    others = [url for url in URLS if url != first.url]
    last = fleet.choose(prompt, tried=others)
    assert last is first  # better than nobody
    assert fleet.choose(prompt, tried=URLS) is None
    clock.now += 3
    assert chosen(fleet, prompt) == first.url
    fleet.failed(first)  # and longer the second time
    clock.now += 3
    assert chosen(fleet, prompt) != first.url
    fleet.answered(first)
    assert chosen(fleet, prompt) == first.url


def test_what_is_remembered_is_bounded() -> None:
    fleet = Fleet(URLS[:2])
    server = fleet.servers[0]
    long = [[i] * (1000 * BLOCK_TOKENS) for i in range(REMEMBERED // 1000 + 2)]
    for prompt in long:
        with fleet.sent(server, prompt):
            pass
    assert len(server.blocks) == REMEMBERED
    assert server.url == chosen(fleet, long[-1])


def test_the_same_url_twice_is_one_server() -> None:
    assert len(Fleet([URLS[0], URLS[0]]).servers) == 1
