"""The simulation against what is known of queues, and against itself: nothing is lost, nothing is invented."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

import pytest

from benchmarks.capacity import HARDWARE, MODELS, Roofline
from benchmarks.queueing import (
    GOALS,
    WORKLOADS,
    Fleet,
    Limits,
    Poisson,
    Result,
    Users,
    geometric,
    run_fleet,
    simulate,
    users_that_fit,
)

MS = 0.001


@dataclass(frozen=True)
class OneByOne:
    """A step takes a millisecond whatever is in it: with one place, service is as long as the answer."""

    def step_s(self, read: int, position: float, answering: int, contexts: float) -> float:
        return MS


ALONE = Limits(max_running=1, max_waiting=10**9)


def single_server(answer: Callable[[Random], int], load: float, mean: float) -> list[Result]:
    """A few runs, for the waits of one depend on each other over a long time."""
    return [
        simulate(Poisson(load / (mean * MS), answer, Random(seed)), [OneByOne()], ALONE, seconds=2000, warm_up_s=100)
        for seed in range(4)
    ]


def mean_of(results: list[Result], name: str) -> float:
    return sum(getattr(result, name) for result in results) / len(results)


@pytest.mark.parametrize("load", [0.5, 0.8])
def test_waiting_times_are_those_of_m_m_1(load: float) -> None:
    results = single_server(lambda random: geometric(100, random), load, 100)
    assert mean_of(results, "wait_s") == pytest.approx(load / (1 - load) * 100 * MS, rel=0.1)
    assert mean_of(results, "in_system") == pytest.approx(load / (1 - load), rel=0.1)
    assert mean_of(results, "utilisation") == pytest.approx(load, rel=0.03)


@pytest.mark.parametrize("load", [0.5, 0.8])
def test_waiting_times_are_those_of_m_d_1(load: float) -> None:
    """Half of those of M/M/1 (Pollaczek-Khinchine)."""
    results = single_server(lambda random: 100, load, 100)
    assert mean_of(results, "wait_s") == pytest.approx(load / (1 - load) / 2 * 100 * MS, rel=0.08)


@pytest.mark.parametrize(("routing", "replicas"), [("prefix", 3), ("least", 3), ("random", 3), ("prefix", 1)])
def test_littles_law_and_every_token_accounted_for(routing: str, replicas: int) -> None:
    timing = Roofline(MODELS["120b"], HARDWARE["h100"])  # type: ignore[arg-type]
    users = Users(60 * replicas, WORKLOADS["chat"], Random(1))
    limits = Limits(max_running=16, max_waiting=64, cache_tokens=150_000)
    result = simulate(
        users, [timing] * replicas, limits, seconds=1500, warm_up_s=150, routing=routing, shared_tokens=500,  # type: ignore[arg-type]
    )  # fmt: skip
    assert result.in_system == pytest.approx(result.requests / result.seconds * result.residence_s, rel=0.03)
    assert result.sampled == result.delivered
    assert result.prompts == result.cached + result.computed + result.unread
    assert 0 < result.utilisation <= 1


def test_a_closed_loop_obeys_its_response_time_law() -> None:
    """Users = throughput x (residence + thinking), for every closed system (Denning and Buzen 1978)."""
    users, chat = 120, WORKLOADS["chat"]
    result = run_fleet(Fleet("120b", "h100"), users, chat, seconds=4000)
    assert result.refused == 0
    assert result.requests / result.seconds * (result.residence_s + chat.think_s) == pytest.approx(users, rel=0.05)


def test_the_same_seed_is_the_same_run() -> None:
    fleet = Fleet("20b", "h100", replicas=2)
    one, two, other = (run_fleet(fleet, 50, WORKLOADS["agent"], seconds=300, seed=seed) for seed in (1, 1, 2))
    assert one == two
    assert one != other


def test_the_bounded_queue_refuses_and_those_refused_come_again() -> None:
    full = run_fleet(Fleet("20b", "cpu", max_running=4, max_waiting=2), 40, WORKLOADS["chat"], seconds=2000)
    assert full.refused > 0
    assert full.requests > 0
    assert full.utilisation > 0.99
    roomy = run_fleet(Fleet("20b", "cpu", max_running=4, max_waiting=100), 40, WORKLOADS["chat"], seconds=2000)
    assert roomy.refused == 0
    assert roomy.wait_s > full.wait_s


def test_a_batch_costs_each_user_little_and_gives_much_in_all() -> None:
    few, many = (run_fleet(Fleet("120b", "h200"), users, WORKLOADS["chat"]) for users in (5, 150))
    assert many.output_tokens_per_s > 15 * few.output_tokens_per_s
    assert few.between_tokens_s["p50"] < many.between_tokens_s["p50"] < 10 * few.between_tokens_s["p50"]


def test_routing_by_prefix_reuses_what_routing_by_chance_computes_again() -> None:
    results = {
        routing: run_fleet(Fleet("20b", "h100", replicas=4, routing=routing), 200, WORKLOADS["agent"], seconds=300)  # type: ignore[arg-type]
        for routing in ("prefix", "random")
    }
    assert results["prefix"].prefix_hits > 0.9 > results["random"].prefix_hits
    assert results["prefix"].first_token_s["p95"] < results["random"].first_token_s["p95"]


def test_the_users_that_fit_meet_the_goal_and_half_as_many_more_do_not() -> None:
    fleet, goal = Fleet("20b", "l40s"), GOALS["chat"]
    most = users_that_fit(fleet, WORKLOADS["chat"], goal, seconds=300)
    assert goal.met_by(run_fleet(fleet, int(0.8 * most), WORKLOADS["chat"], seconds=300))
    assert not goal.met_by(run_fleet(fleet, int(1.5 * most), WORKLOADS["chat"], seconds=300))


def test_lengths_have_the_means_they_are_said_to_have() -> None:
    users = Users(1, WORKLOADS["chat"], Random(0))
    assert sum(users._tokens(400) for _ in range(20_000)) / 20_000 == pytest.approx(400, rel=0.03)
    random = Random(0)
    assert sum(geometric(6, random) for _ in range(20_000)) / 20_000 == pytest.approx(6, rel=0.03)
