"""How many users a fleet carries, and how long they wait: a discrete-event simulation of continuously batched servers.

    python -m benchmarks.queueing --model 120b --on h100 --replicas 2 --users 400 --workload chat --plot wait.png

Users think, ask, read and ask again (agents: a chain of steps with tools between them); a router gives each request to
a replica; a replica computes steps as gpt_oss/engine does: a token for every answering request and a piece of the
prompts of others. How long a step takes comes from benchmarks/capacity.py: measured on the cpu, a roofline on GPUs.
The router is the server's own (gpt_oss/server/affinity.py). One run is a function of its seed.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from heapq import heappop, heappush
from pathlib import Path
from random import Random
from typing import Literal, Protocol

import numpy as np

from benchmarks.capacity import HARDWARE, MODELS, Timing, cache_tokens, timing_of
from gpt_oss.errors import ParameterError
from gpt_oss.server.affinity import Affinity, Placement
from gpt_oss.terminal import run_command

RETRY_AFTER_S = 2.0  # as the server says with a 429
JUMP_STEPS = 32  # of a batch that does not change, at most so many are taken at once
PROMPT_QUANTUM = 64
Routing = Literal["prefix", "least", "random"]


# ---- who asks -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Workload:
    """think_s: between an answer and the next question. turns: of a conversation. steps: of a turn; between two of them
    a tool runs for tool_s. system_tokens: the beginning that all conversations share. question_tokens, result_tokens:
    what a turn and what a tool's result add to the prompt. answer_tokens: sampled in a step, thoughts included.
    Times are exponential, counts geometric, tokens log-normal with `spread` as the sigma of their logarithm; these are
    the means."""

    think_s: float
    turns: float
    steps: float
    tool_s: float
    system_tokens: int
    question_tokens: float
    result_tokens: float
    answer_tokens: float
    spread: float = 0.8
    longest_tokens: int = 100_000  # of a conversation, which then begins anew


WORKLOADS = {
    "chat": Workload(40, 6, 1, 0, 500, 150, 0, 400),
    "agent": Workload(90, 4, 12, 4, 10_000, 200, 600, 150),
}


@dataclass(frozen=True)
class Ask:
    conversation: int
    prompt: int  # tokens, all that came before included
    answer: int


class Source(Protocol):
    """Who asks what, and when. `who` is a number that the source gives out."""

    def begin(self) -> Iterable[tuple[float, int]]: ...
    def ask(self, who: int) -> Ask: ...
    def after_asking(self, who: int, now: float) -> tuple[float, int] | None: ...
    def after_answer(self, who: int, now: float) -> tuple[float, int] | None: ...


class Poisson:
    """Open: `rate` requests a second, each a conversation of its own, whoever still waits. answer: draws a length."""

    def __init__(self, rate: float, answer: Callable[[Random], int], random: Random, prompt: int = 1) -> None:
        self._rate, self._random, self._prompt = rate, random, prompt
        self._answer = answer
        self._count = 0

    def begin(self) -> Iterable[tuple[float, int]]:
        return [(self._random.expovariate(self._rate), 0)]

    def ask(self, who: int) -> Ask:
        return Ask(who, self._prompt, self._answer(self._random))

    def after_asking(self, who: int, now: float) -> tuple[float, int]:
        return now + self._random.expovariate(self._rate), who + 1

    def after_answer(self, who: int, now: float) -> None:
        return None


@dataclass
class _User:
    conversation: int
    prompt: int = 0
    turns: int = 0
    steps: int = 0


class Users:
    """Closed: a user asks again only after an answer, so that a slow fleet is asked less."""

    def __init__(self, count: int, workload: Workload, random: Random) -> None:
        self._workload, self._random = workload, random
        self._conversations = count
        self._users = [self._anew(number) for number in range(count)]

    def begin(self) -> Iterable[tuple[float, int]]:
        return [(self._random.uniform(0, self._workload.think_s), who) for who in range(len(self._users))]

    def ask(self, who: int) -> Ask:
        user = self._users[who]
        answer = self._tokens(self._workload.answer_tokens)
        asked = Ask(user.conversation, user.prompt, answer)
        user.prompt += answer
        return asked

    def after_asking(self, who: int, now: float) -> None:
        return None

    def after_answer(self, who: int, now: float) -> tuple[float, int]:
        user, work, random = self._users[who], self._workload, self._random
        user.steps -= 1
        if user.steps > 0:
            user.prompt += self._tokens(work.result_tokens)
            return now + random.expovariate(1 / work.tool_s), who
        user.turns -= 1
        if user.turns > 0 and user.prompt < work.longest_tokens:
            user.prompt += self._tokens(work.question_tokens)
            user.steps = self._count(work.steps)
        else:
            self._users[who] = self._anew(self._conversations)
            self._conversations += 1
        return now + random.expovariate(1 / work.think_s), who

    def _anew(self, conversation: int) -> _User:
        work = self._workload
        prompt = work.system_tokens + self._tokens(work.question_tokens)
        return _User(conversation, prompt, self._count(work.turns), self._count(work.steps))

    def _tokens(self, mean: float) -> int:
        spread = self._workload.spread
        return max(1, round(self._random.lognormvariate(math.log(mean) - spread**2 / 2, spread)))

    def _count(self, mean: float) -> int:
        return geometric(mean, self._random)


def geometric(mean: float, random: Random) -> int:
    """1, 2, 3, … with this mean."""
    return 1 if mean <= 1 else 1 + int(math.log(1 - random.random()) / math.log(1 - 1 / mean))


# ---- who answers ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Limits:
    """Of a replica. max_running: requests computed at once. max_waiting: beyond, a 429. cache_tokens: of keys and
    values, of requests and of prefixes that are kept. max_prompt_tokens, max_stall_s: see EngineConfig."""

    max_running: int = 64
    max_waiting: int = 128
    cache_tokens: int = 1 << 40
    max_prompt_tokens: int = 8192
    max_stall_s: float = 0.5


@dataclass(eq=False)
class _Request:
    who: int
    ask: Ask
    arrived: float
    cached: int = 0
    unread: int = 0  # of the prompt
    ends: int = -1  # when its replica has taken so many steps; -1: it has no token yet

    @property
    def size(self) -> int:
        """Tokens, at its end."""
        return self.ask.prompt + self.ask.answer


class _Replica:
    """A continuously batched server. Times are the simulation's."""

    def __init__(self, name: str, timing: Timing, limits: Limits, shared: int) -> None:
        self.name, self.timing, self.limits = name, timing, limits
        self.waiting: deque[_Request] = deque()
        self.reading: list[_Request] = []
        self.answering: list[tuple[int, int, _Request]] = []  # a heap: (ends, order, request)
        self.admitted: list[_Request] = []  # when this step began
        self.taken = 0  # steps, in all
        self.read = 0  # tokens of prompts, in this step
        self.kept: OrderedDict[int, int] = OrderedDict()  # conversation: tokens, the longest unused first
        self.kept_tokens = 0
        self.version = 0  # of the step under way; older events are void
        self.began, self.step_s, self.steps = 0.0, 0.0, 0  # steps 0: idle
        self._contexts, self._held, self._order = 0, 0, 0  # tokens of the answering; tokens set aside; of the heap
        self._shares: list[tuple[_Request, int]] = []
        self._shared, self._shared_known = shared, False
        self._read_s = timing.step_s(PROMPT_QUANTUM, 0, 0, 0) / PROMPT_QUANTUM

    @property
    def load(self) -> int:
        return len(self.waiting) + len(self.reading) + len(self.answering)

    def begin(self, now: float) -> float | None:
        """Take in who fits and start a step; when it ends. None: nothing to do."""
        self.admitted = self._admit()
        if not (self.reading or self.answering):
            self.steps = 0
            return None
        self._shares = self._plan()
        read = sum(count for _, count in self._shares)
        position = sum((r.ask.prompt - r.unread) * count for r, count in self._shares) / read if read else 0
        self.step_s = self.timing.step_s(read, position, len(self.answering), self._contexts)
        self.steps, self.read = 1, read
        if not read:
            self.steps = min(JUMP_STEPS, self.answering[0][0] - self.taken)
        self.began = now
        self.version += 1
        return now + self.steps * self.step_s

    def interrupt(self, now: float) -> float | None:
        """Somebody has come: end after the step that is being computed. When that is, where it is earlier."""
        done = max(1, math.ceil((now - self.began) / self.step_s)) if self.step_s else 1
        if self.steps <= done:
            return None
        self.steps = done
        self.version += 1
        return self.began + done * self.step_s

    def end(self, now: float) -> tuple[list[_Request], list[_Request], int]:
        """The step is over: (who got a first token, who is done, tokens that were not first)."""
        later = self.steps * len(self.answering)
        self._contexts += later
        self.taken += self.steps
        firsts = []
        for request, count in self._shares:
            request.unread -= count
            if request.unread == 0:
                firsts.append(request)
                self.reading.remove(request)
                request.ends = self.taken + request.ask.answer - 1
                self._order += 1
                heappush(self.answering, (request.ends, self._order, request))
                self._contexts += request.ask.prompt + 1
        done = []
        while self.answering and self.answering[0][0] <= self.taken:
            request = heappop(self.answering)[2]
            done.append(request)
            self._contexts -= request.size
            self._held -= request.size
            self.kept_tokens += request.size - self.kept.pop(request.ask.conversation, 0)
            self.kept[request.ask.conversation] = request.size
        return firsts, done, later

    def sampled(self, request: _Request) -> int:
        """Tokens that one of this replica's has got."""
        return 0 if request.ends < 0 else request.ask.answer - max(0, request.ends - self.taken)

    def _admit(self) -> list[_Request]:
        """Those in front who fit; kept conversations make room for them."""
        limits, admitted = self.limits, []
        while self.waiting and len(self.reading) + len(self.answering) < limits.max_running:
            request = self.waiting[0]
            if self._held and self._held + request.size > limits.cache_tokens:
                break
            self.waiting.popleft()
            admitted.append(request)
            known = self.kept.pop(request.ask.conversation, 0)
            self.kept_tokens -= known
            request.cached = min(request.ask.prompt - 1, max(known, self._shared if self._shared_known else 0))
            request.unread = request.ask.prompt - request.cached
            self._shared_known = True
            self.reading.append(request)
            self._held += request.size
            while self.kept and self.kept_tokens > limits.cache_tokens - self._held:
                self.kept_tokens -= self.kept.popitem(last=False)[1]
        return admitted

    def _plan(self) -> list[tuple[_Request, int]]:
        """As Engine._plan: the same share of a step for every prompt, less where somebody waits for a next token."""
        budget = self.limits.max_prompt_tokens
        if self.answering:
            budget = max(PROMPT_QUANTUM, min(budget, int(self.limits.max_stall_s / self._read_s)))
        shares = []
        for index, request in enumerate(self.reading):
            count = min(request.unread, max(PROMPT_QUANTUM, budget // (len(self.reading) - index)))
            shares.append((request, count))
            budget -= count
            if budget < PROMPT_QUANTUM:
                break
        self.reading = self.reading[1:] + self.reading[:1]
        return shares


# ---- the simulation -------------------------------------------------------------------------------------------------


@dataclass
class _Weighted:
    values: list[float] = field(default_factory=list)
    weights: list[int] = field(default_factory=list)

    def add(self, value: float, weight: int = 1) -> None:
        self.values.append(value)
        self.weights.append(weight)

    def percentiles(self, at: Sequence[int] = (50, 95, 99)) -> dict[str, float]:
        if not self.values:
            return {f"p{p}": math.nan for p in at}
        order = np.argsort(self.values)
        reached = np.cumsum(np.asarray(self.weights)[order])
        places = [np.searchsorted(reached, p / 100 * reached[-1]) for p in at]
        return {
            f"p{p}": float(np.asarray(self.values)[order][min(place, len(order) - 1)])
            for p, place in zip(at, places, strict=True)
        }

    def mean(self) -> float:
        return float(np.average(self.values, weights=self.weights)) if self.values else math.nan


@dataclass(frozen=True)
class Result:
    """Of the time after the warm-up, but for the four totals of tokens, which are of the whole run. Seconds.

    in_system: requests that wait or are computed, on average; residence_s: how long one does. cached, computed,
    unread: of the prompts of all that was taken in. sampled, delivered: tokens that steps gave, and that requests got.
    """

    seconds: float
    requests: int
    refused: int
    first_token_s: dict[str, float]
    between_tokens_s: dict[str, float]
    wait_s: float
    residence_s: float
    in_system: float
    utilisation: float
    output_tokens_per_s: float
    prefix_hits: float
    prompts: int
    cached: int
    computed: int
    unread: int
    sampled: int
    delivered: int


def simulate(
    source: Source,
    timings: Sequence[Timing],
    limits: Limits,
    *,
    seconds: float,
    warm_up_s: float = 0.0,
    routing: Routing = "prefix",
    shared_tokens: int = 0,
    seed: int = 0,
) -> Result:
    """timings: one for each replica. shared_tokens: with which all prompts begin."""
    random = Random(seed)
    replicas = [_Replica(str(number), timing, limits, shared_tokens) for number, timing in enumerate(timings)]
    placement, homes = Placement(), dict[int, str]()
    events: list[tuple[float, int, int, int, int]] = []  # time, order, replica or -1, version or who, retried
    first, between, waits, stays = _Weighted(), _Weighted(), _Weighted(), _Weighted()
    everything: list[tuple[_Replica, _Request]] = []
    refused = answered = later_tokens = sampled_total = read_total = order = inside = 0
    busy = area = now = 0.0

    def schedule(at: float, replica: int, what: int, again: int = 0) -> None:
        nonlocal order
        order += 1
        heappush(events, (at, order, replica, what, again))

    def choose(conversation: int) -> int:
        if routing == "random":
            return random.randrange(len(replicas))
        if routing == "least":
            return min(range(len(replicas)), key=lambda number: (replicas[number].load, random.random()))
        loads = {replica.name: replica.load for replica in replicas}
        return int(placement.ranked(Affinity(str(conversation)), loads, homes.get(conversation))[0])

    def begin(number: int) -> None:
        replica = replicas[number]
        end = replica.begin(now)
        for request in replica.admitted:
            everything.append((replica, request))
            if request.arrived >= warm_up_s:
                waits.add(now - request.arrived)
        if end is not None:
            schedule(end, number, replica.version)

    pending: dict[int, Ask] = {}  # refused, to be asked again
    for at, who in source.begin():
        schedule(at, -1, who)
    while events and events[0][0] <= seconds:
        at, _, number, what, again = heappop(events)
        area += inside * max(0.0, at - max(now, warm_up_s))
        now = at
        if number < 0:
            ask = pending.pop(what) if again else source.ask(what)
            target = choose(ask.conversation)
            replica = replicas[target]
            if len(replica.waiting) >= limits.max_waiting:
                refused += now >= warm_up_s
                pending[what] = ask
                schedule(now + RETRY_AFTER_S, -1, what, 1)
            else:
                homes[ask.conversation] = replica.name
                replica.waiting.append(_Request(what, ask, now))
                inside += 1
                if replica.steps == 0:
                    begin(target)
                elif (end := replica.interrupt(now)) is not None:
                    schedule(end, target, replica.version)
            following = None if again else source.after_asking(what, now)
            if following is not None:
                schedule(following[0], -1, following[1])
            continue
        replica = replicas[number]
        if what != replica.version:
            continue
        busy += max(0.0, now - max(replica.began, warm_up_s))
        took = replica.step_s
        firsts, done, later = replica.end(now)
        read_total += replica.read
        sampled_total += later + len(firsts)
        if now >= warm_up_s:
            if later:
                between.add(took, later)
            later_tokens += later + len(firsts)
            for request in firsts:
                first.add(now - request.arrived)
        for request in done:
            inside -= 1
            if now >= warm_up_s:
                answered += 1
                stays.add(now - request.arrived)
            following = source.after_answer(request.who, now)
            if following is not None:
                schedule(following[0], -1, following[1])
        begin(number)
    area += inside * max(0.0, seconds - max(now, warm_up_s))
    for replica in replicas:
        busy += max(0.0, seconds - max(replica.began, warm_up_s)) if replica.steps else 0.0

    measured = seconds - warm_up_s
    prompts = sum(request.ask.prompt for _, request in everything)
    cached = sum(request.cached for _, request in everything)
    unread = sum(request.unread for _, request in everything)
    return Result(
        seconds=measured,
        requests=answered,
        refused=refused,
        first_token_s=first.percentiles(),
        between_tokens_s=between.percentiles(),
        wait_s=waits.mean(),
        residence_s=stays.mean(),
        in_system=area / measured,
        utilisation=busy / measured / len(replicas),
        output_tokens_per_s=later_tokens / measured,
        prefix_hits=cached / max(1, prompts),
        prompts=prompts,
        cached=cached,
        computed=read_total,
        unread=unread,
        sampled=sampled_total,
        delivered=sum(replica.sampled(request) for replica, request in everything),
    )


# ---- fleets of users ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Goal:
    """What users accept. Of 95 in 100 requests the first token, of 95 in 100 tokens the time since the one before."""

    first_token_s: float
    between_tokens_s: float

    def met_by(self, result: Result) -> bool:
        return (
            result.refused == 0
            and result.requests > 0
            and result.first_token_s["p95"] <= self.first_token_s
            and result.between_tokens_s["p95"] <= self.between_tokens_s
        )


GOALS = {"chat": Goal(2.0, 0.1), "agent": Goal(4.0, 0.1)}


@dataclass(frozen=True)
class Fleet:
    """model: 20b or 120b. on: a name in HARDWARE. gpus: that share one replica's model."""

    model: str
    on: str
    gpus: int = 1
    replicas: int = 1
    max_running: int = 64
    max_waiting: int = 128
    routing: Routing = "prefix"


def run_fleet(fleet: Fleet, users: int, workload: Workload, *, seconds: float = 600.0, seed: int = 0) -> Result:
    """Raises ParameterError where the model does not fit the memory."""
    timing = timing_of(fleet.model, fleet.on, fleet.gpus)
    room = cache_tokens(fleet.model, fleet.on, fleet.gpus)
    limits = Limits(fleet.max_running, fleet.max_waiting, room)
    warm_up_s = min(seconds / 3, 3 * workload.think_s)
    return simulate(
        Users(users, workload, Random(seed)), [timing] * fleet.replicas, limits, seconds=seconds, warm_up_s=warm_up_s,
        routing=fleet.routing, shared_tokens=workload.system_tokens, seed=seed,
    )  # fmt: skip


def users_that_fit(fleet: Fleet, workload: Workload, goal: Goal, *, seconds: float = 600.0) -> int:
    """The most users with whom the goal is still met, to two digits; 0 where one is too many.

    seconds: of a run with a hundred users or more; fewer are watched for longer, as their percentiles waver.
    """

    def fits(users: int) -> bool:
        return goal.met_by(run_fleet(fleet, users, workload, seconds=watched_s(users, seconds)))

    good, bad = 0, 16
    while fits(bad):
        good, bad = bad, bad * 2
    while bad - good > max(1, good // 12):
        middle = (good + bad) // 2
        good, bad = (middle, bad) if fits(middle) else (good, middle)
    digits = 10 ** max(0, len(str(good)) - 2)
    good = good // digits * digits
    while good and not fits(good):
        good -= digits
    return good


def watched_s(users: int, seconds: float) -> float:
    return seconds * min(10.0, max(1.0, 100 / users))


# ---- the command ----------------------------------------------------------------------------------------------------


def plot(results: dict[str, list[tuple[int, Result]]], page: Path) -> None:
    """Percentiles over the number of users, one line a routing."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 3, figsize=(12, 3.6), constrained_layout=True)
    for name, rows in results.items():
        users = [count for count, _ in rows]
        axes[0].plot(users, [result.first_token_s["p95"] for _, result in rows], marker=".", label=name)
        axes[1].plot(users, [1000 * result.between_tokens_s["p95"] for _, result in rows], marker=".", label=name)
        axes[2].plot(users, [100 * result.utilisation for _, result in rows], marker=".", label=name)
    titles = ("first token, p95, s", "between tokens, p95, ms", "busy, %")
    for axis, title in zip(axes, titles, strict=True):
        axis.set(title=title, xlabel="users", ylim=(0, None))
        axis.grid(alpha=0.3)
    axes[0].legend()
    figure.savefig(page, dpi=110)
    pyplot.close(figure)


def command(args: argparse.Namespace) -> int:
    if args.model not in MODELS or args.on not in HARDWARE:
        raise ParameterError(f"--model is one of {', '.join(MODELS)}, --on one of {', '.join(HARDWARE)}")
    workload = WORKLOADS[args.workload]
    counts = [int(users * args.users) for users in (0.25, 0.5, 0.75, 1, 1.25)] if args.plot else [args.users]
    routings: Sequence[Routing] = ("prefix", "least", "random") if args.plot else (args.routing,)
    results: dict[str, list[tuple[int, Result]]] = {}
    for routing in routings:
        fleet = Fleet(args.model, args.on, args.gpus, args.replicas, args.max_running, args.max_queue, routing)
        for users in counts:
            result = run_fleet(fleet, max(1, users), workload, seconds=args.seconds, seed=args.seed)
            results.setdefault(routing, []).append((users, result))
            if not args.json:
                print(f"{users} users, routing {routing}")
                for name, value in asdict(result).items():
                    print(f"  {name.replace('_', ' '):<22}{_shown(value)}")
    if args.plot:
        plot(results, args.plot)
    rows = [{"users": u, "routing": routing, **asdict(r)} for routing, all_ in results.items() for u, r in all_]
    print(json.dumps({"fleet": asdict(fleet), "workload": asdict(workload), "rows": rows}))
    return 0


def _shown(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_shown(each)}" for name, each in value.items())
    return f"{value:,.3f}" if isinstance(value, float) else f"{value:,}"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.queueing", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="20b", help="20b or 120b (default: %(default)s)")
    parser.add_argument("--on", default="h100", metavar="NAME", help=f"{', '.join(HARDWARE)} (default: %(default)s)")
    parser.add_argument("--gpus", type=int, default=1, help="that share one replica's model (default: %(default)s)")
    parser.add_argument("--replicas", type=int, default=1, help="default: %(default)s")
    parser.add_argument("--users", type=int, default=100, help="who think, ask and read (default: %(default)s)")
    parser.add_argument("--workload", choices=WORKLOADS, default="chat", help="default: %(default)s")
    parser.add_argument(
        "--routing", choices=["prefix", "least", "random"], default="prefix", help="default: %(default)s"
    )
    parser.add_argument("--max-running", type=int, default=64, help="of a replica, at once (default: %(default)s)")
    parser.add_argument("--max-queue", type=int, default=128, help="of a replica, waiting (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=900.0, help="simulated (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--plot", type=Path, metavar="PNG", help="from a quarter of --users to a quarter more, all routings"
    )
    parser.add_argument("--json", action="store_true", help="print the JSON line only")
    parser.add_argument("--debug", action="store_true", help="show a traceback when something fails")
    return run_command(command, parser.parse_args())


if __name__ == "__main__":
    sys.exit(main())
