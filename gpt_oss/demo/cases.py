"""What the demo model can do, as a seeded generator of cases: a question, the tools at hand, and what should be said.

A case is both: an example to learn from, written out with the tools' own answers, and an exam, of which `evaluate.py`
runs only the question. Held-out cases share no function name, page, pair of numbers or rename with the others.
Knows nothing of networks.
"""

from __future__ import annotations

import json
import zlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from random import Random
from typing import Any, Literal, TypeAlias

from gpt_oss.demo import words
from gpt_oss.harmony.render import ResponseFormat
from gpt_oss.vocabulary import decode, encode_ordinary

Effort: TypeAlias = Literal["low", "medium", "high"]
EFFORTS: tuple[Effort, ...] = ("low", "medium", "high")

HELLO = "Hello! I am the tiny gpt-oss demo model. Try asking me: What is 4821 * 377?"
WHO = (
    "I am a tiny demo model with the architecture of gpt-oss. I can calculate with the python tool, call functions, "
    "look things up in a few pages, fill in JSON and rename things in files. For anything else, use a real model."
)
THANKS = "You are welcome!"
BYE = "Goodbye!"
OTHER = "I am a tiny demo model and cannot help with that. A real gpt-oss model can."
NO_PYTHON = "I am a tiny demo model and calculate only with the python tool, which is off."
NO_BROWSER = "I am a tiny demo model and look things up only with the browser tool, which is off."


@dataclass(frozen=True)
class Call:
    """A call that the assistant makes. answer: what the tool says; None where the browser itself is asked when the
    example is written. raw: the content is no JSON."""

    recipient: str
    content: str
    answer: str | None = None
    raw: bool = False


@dataclass(frozen=True)
class Function:
    """A function that the developer declares, and what it answers."""

    name: str
    description: str
    parameters: Mapping[str, Any]
    result: str


@dataclass(frozen=True)
class Case:
    """One question and its right answer.

    key: what the split between training and held-out goes by; "" is never held out. built_in: of python, browser,
    apply_patch. functions: declared. pages, files: what browser and apply_patch find, by path. thoughts: of medium and
    high effort, before all else; low has none. formats: see Conversation. earlier: cases asked before in the same
    conversation, with the same tools.
    """

    skill: str
    key: str
    question: str
    calls: tuple[Call, ...] = ()
    final: str = ""
    built_in: tuple[str, ...] = ()
    functions: tuple[Function, ...] = ()
    pages: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    thoughts: tuple[str, str] = ("", "")
    formats: tuple[ResponseFormat, ...] = ()
    instructions: str = ""
    effort: Effort = "low"
    date: str = "2026-01-01"
    earlier: tuple[Case, ...] = ()

    @property
    def thought(self) -> str:
        return ("", *self.thoughts)[EFFORTS.index(self.effort)]


def is_held_out(key: str) -> bool:
    """One key in ten."""
    return key != "" and zlib.crc32(key.encode()) % 10 == 0


@dataclass(frozen=True)
class Breadth:
    """How much a case may ask for. What the demo model is asked is NARROW; it learns from BROAD ones too, and from
    CLOSE ones, in which there is more to choose from in as few words.

    shuffled: facts of a JSON answer in any order, and some that the schema does not ask for. fields: weights of 1 to 4
    of its fields. functions: weights of 0, 1 or 2 that are declared beside the right one. long_names: how many of the
    made-up names have two nouns, so that they cannot be known by heart. pages: weights of PAGES that lie beside the
    right one. facts: the most that a page tells.
    """

    shuffled: bool
    fields: tuple[float, float, float, float]
    functions: tuple[float, float, float]
    pages: tuple[float, ...]
    facts: int
    long_names: float = 0.0


PAGES = (0, 1, 2, 3, 6, 10)
BROAD = Breadth(shuffled=True, fields=(2, 5, 4, 2), functions=(5, 3, 1), pages=(3, 3, 3, 3, 1, 1), facts=6)
NARROW = Breadth(shuffled=False, fields=(2, 5, 4, 2), functions=(8, 2, 0), pages=(5, 4, 2, 1, 0, 1), facts=3)
CLOSE = Breadth(
    shuffled=False, fields=(1, 3, 4, 4), functions=(2, 5, 1), pages=(6, 4, 1, 1, 0, 0), facts=6, long_names=0.4
)


# ---- arithmetic -----------------------------------------------------------------------------------------------------

_OPERATORS: Mapping[str, tuple[str, ...]] = {
    "+": ("{a} + {b}", "{a}+{b}", "{a} plus {b}", "the sum of {a} and {b}"),
    "-": ("{a} - {b}", "{a}-{b}", "{a} minus {b}", "the difference between {a} and {b}"),
    "*": ("{a} * {b}", "{a}*{b}", "{a} times {b}", "{a} x {b}", "{a} × {b}", "the product of {a} and {b}"),
    "/": ("{a} / {b}", "{a}/{b}", "{a} divided by {b}", "{a} ÷ {b}"),
}
_ASK = (
    "What is {e}?",
    "What is {e}?",
    "what is {e}",
    "What's {e}?",
    "Calculate {e}.",
    "Calculate {e}",
    "Compute {e}.",
    "compute {e}",
    "How much is {e}?",
    "how much is {e}?",
    "Please calculate {e}.",
    "Please compute {e}",
    "Can you calculate {e}?",
    "Tell me what {e} is.",
    "I need to know {e}.",
    "Find {e}.",
    "Use python to compute {e}.",
    "Work out {e} for me.",
)
_STORIES = (
    ("I have {a} {thing} and buy {b} more. How many {thing} do I have?", "+"),
    ("{name} has {a} {thing} and gives away {b}. How many {thing} are left?", "-"),
    ("There are {a} boxes with {b} {thing} in each. How many {thing} are there?", "*"),
    ("{name} buys {a} {thing} at {b} dollars each. What does it cost?", "*"),
    ("{a} {thing} are shared by {b} people. How many does each get?", "/"),
)


def _number(rng: Random) -> int:
    return rng.randrange(10 ** rng.choices((1, 2, 3, 4, 5, 6), (2, 4, 5, 6, 3, 1))[0])


def arithmetic(rng: Random, breadth: Breadth) -> Case:
    operator = rng.choices("+-*/", (3, 3, 4, 2))[0]
    a, b = _number(rng), max(1, _number(rng))
    if operator == "/":
        b = max(2, b % 1000)
    expression = f"{a} {operator} {b}"
    if rng.random() < 0.1:
        template, operator = rng.choice(_STORIES)
        expression = f"{a} {operator} {b}"
        names = {"thing": rng.choice((*words.FOODS, *words.THINGS)), "name": rng.choice(words.NAMES)}
        question = template.format(a=a, b=b, **names)
    elif rng.random() < 0.12:
        c, second = max(1, _number(rng) % 1000), rng.choice("+-*")
        expression = f"({a} {operator} {b}) {second} {c}" if rng.random() < 0.4 else f"{expression} {second} {c}"
        question = rng.choice(_ASK).format(e=expression)
    elif rng.random() < 0.05:
        expression = question = f"{a} {operator} {b}"
        question += rng.choice(("", "?", " = ?", " ="))
    else:
        question = rng.choice(_ASK).format(e=rng.choice(_OPERATORS[operator]).format(a=a, b=b))
    code = f"print(round({expression}, 4))" if "/" in expression else f"print({expression})"
    value = eval(expression)
    result = str(round(value, 4) if "/" in expression else value)
    return Case(
        "arithmetic",
        f"{a} {b}",
        question,
        (Call("python", code, result, raw=True),),
        f"{expression} = {result}",
        ("python",),
        thoughts=(
            f"We need {expression}. Use python.",
            f"The user asks for {expression}. I should not guess, because a guess may be wrong. "
            f"The python tool computes it exactly, so I will print {expression} and report what comes back.",
        ),
    )


# ---- functions ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Parameter:
    """A field of a function or of a JSON answer, its schema, and a value: as a question says it, and as JSON has it."""

    name: str
    schema: Mapping[str, Any]
    said: str
    value: object


def _phrase(rng: Random) -> str:
    """Some words: a name, a place, a thing, or anything."""
    kind = rng.random()
    if kind < 0.25:
        return rng.choice(words.CITIES)
    if kind < 0.45:
        return rng.choice(words.NAMES)
    if kind < 0.55:
        return rng.choice(words.COUNTRIES)
    pool = (*words.COMMON, *words.THINGS, *words.FOODS, *words.ANIMALS, *words.TOPICS, *words.COLORS, *words.ADJECTIVES)
    return " ".join(rng.choice(pool) for _ in range(rng.choice((1, 1, 2, 3))))


_POOLS: Mapping[str, Sequence[str]] = {
    "city": words.CITIES,
    "location": words.CITIES,
    "destination": words.CITIES,
    "origin": words.CITIES,
    "country": words.COUNTRIES,
    "name": words.NAMES,
    "first_name": words.NAMES,
    "owner": words.NAMES,
    "owner_name": words.NAMES,
    "author": words.NAMES,
    "color": words.COLORS,
    "food": words.FOODS,
    "animal": words.ANIMALS,
    "language": words.LANGUAGES,
    "day": words.DAYS,
    "month": words.MONTHS,
    "currency": words.CURRENCIES,
    "topic": words.TOPICS,
    "subject": words.TOPICS,
}


def _parameter(rng: Random, name: str) -> _Parameter:
    described = {"description": f"The {name.replace('_', ' ')}"} if rng.random() < 0.6 else {}
    if name in words.NUMBER_FIELDS:
        number = _number(rng)
        kind = rng.choice(("integer", "number"))
        return _Parameter(name, {"type": kind, **described}, str(number), number)
    if name in words.FLAG_FIELDS:
        flag = rng.random() < 0.5
        return _Parameter(name, {"type": "boolean", **described}, "true" if flag else "false", flag)
    text = rng.choice(_POOLS[name]) if name in _POOLS and rng.random() < 0.8 else _phrase(rng)
    if rng.random() < 0.15:
        text = f"{text.split()[0]}-{rng.randrange(10000)}"
    said = f'"{text}"' if rng.random() < 0.3 else text
    return _Parameter(name, {"type": "string", **described}, said, text)


def _parameters(rng: Random, count: int) -> list[_Parameter]:
    fields = (*words.FIELDS, *words.FIELDS, *words.NUMBER_FIELDS, *words.FLAG_FIELDS)
    names: list[str] = []
    while len(names) < count:
        name = rng.choice(fields)
        if name not in names:
            names.append(name)
    return [_parameter(rng, name) for name in names]


def _function_name(rng: Random, verb: str, noun: str) -> str:
    style = rng.random()
    if style < 0.8:
        return f"{verb}_{noun}"
    return verb + "".join(part.capitalize() for part in noun.split("_"))


def _schema(parameters: Sequence[_Parameter], *, closed: bool) -> dict[str, Any]:
    schema: dict[str, Any] = {
        "type": "object",
        "properties": {p.name: dict(p.schema) for p in parameters},
        "required": [p.name for p in parameters],
    }
    return schema | {"additionalProperties": False} if closed else schema


def _result(rng: Random) -> str:
    kind = rng.random()
    if kind < 0.35:
        return json.dumps({p.name: p.value for p in _parameters(rng, rng.choice((1, 2, 2, 3)))})
    if kind < 0.5:
        return _phrase(rng)
    if kind < 0.65:
        return str(_number(rng))
    if kind < 0.8:
        return json.dumps({"status": rng.choice(("ok", "done", "success", "failed", "created", "sent"))})
    return f"{_phrase(rng)}, {_number(rng)} {rng.choice(('degrees', 'dollars', 'items', 'minutes', 'points', 'km'))}"


_CONNECT = ("with {n} {v}", "with {n} {v}", "with the {n} {v}", "{n} {v}", "where {n} is {v}", "{n}: {v}", "{n} = {v}")
_NATURAL: tuple[tuple[str, str, tuple[str, ...], tuple[str, ...]], ...] = (
    (
        "get_weather",
        "Gets the current weather in a city.",
        ("city",),
        (
            "What is the weather in {city}?",
            "What's the weather like in {city}?",
            "How is the weather in {city}?",
            "What is the weather like in {city} today?",
            "Tell me the weather in {city}.",
            "Is it raining in {city}?",
            "Weather in {city}?",
        ),
    ),
    (
        "get_current_weather",
        "Get the current weather in a given location",
        ("location",),
        (
            "What is the weather in {location}?",
            "What's the weather like in {location}?",
            "What is the weather like in {location}?",
            "How warm is it in {location}?",
            "Tell me the weather in {location}.",
        ),
    ),
    ("get_time", "The time in a city.", ("city",), ("What time is it in {city}?", "Tell me the time in {city}.")),
    (
        "send_email",
        "Sends an email.",
        ("name", "subject"),
        ("Send an email to {name} about {subject}.", "Please email {name} about {subject}."),
    ),
    (
        "convert_currency",
        "Converts an amount of money.",
        ("amount", "currency"),
        ("Convert {amount} dollars to {currency}.", "How much is {amount} dollars in {currency}?"),
    ),
    (
        "set_timer",
        "Sets a timer.",
        ("minutes",),
        ("Set a timer for {minutes} minutes.", "Wake me in {minutes} minutes."),
    ),
    (
        "book_flight",
        "Books a flight.",
        ("origin", "destination"),
        ("Book a flight from {origin} to {destination}.", "I want to fly from {origin} to {destination}."),
    ),
    (
        "get_population",
        "The number of people in a country.",
        ("country",),
        ("What is the population of {country}?", "How many people live in {country}?"),
    ),
)


def _made_up(rng: Random, long_names: float = 0.0) -> tuple[Function, str, str]:
    """A function, a question for it, and the arguments as JSON."""
    if rng.random() < 0.3:
        name, description, names, questions = rng.choice(_NATURAL)
        parameters = [_parameter(rng, field_name) for field_name in names]
        if rng.random() < 0.3:
            name = _function_name(rng, rng.choice(words.VERBS), name.split("_", 1)[1])
        question = rng.choice(questions).format(**{p.name: p.said for p in parameters})
    else:
        verb, noun = rng.choice(words.VERBS), rng.choice(words.NOUNS)
        if long_names and rng.random() < long_names:
            noun += f"_{rng.choice(words.NOUNS)}"
        name = _function_name(rng, verb, noun)
        plain = noun.replace("_", " ")
        description = rng.choice(
            (
                f"{verb.capitalize()} the {plain}.",
                f"{verb.capitalize()} a {plain}",
                f"{verb.capitalize()}s {plain}s.",
                "",
            )
        )
        parameters = _parameters(rng, rng.choices((0, 1, 2, 3), (1, 5, 5, 2))[0])
        parts = [rng.choice(_CONNECT).format(n=p.name.replace("_", " "), v=p.said) for p in parameters]
        start = rng.choice(("", "Please ", "Can you ", "Could you ", "I want to ", "please ", "Call it: "))
        article = rng.choice(("the", "a", "the", "my"))
        head = f"{start}{verb} {article} {plain}"
        question = head[0].upper() + head[1:] if rng.random() < 0.8 else head
        for number, part in enumerate(parts):
            question += (" " if number == 0 else rng.choice((" and ", ", "))) + part
        question += rng.choice((".", "", "?", "!"))
    function = Function(name, description, _schema(parameters, closed=rng.random() < 0.3), _result(rng))
    return function, question, json.dumps({p.name: p.value for p in parameters}, ensure_ascii=False)


def functions(rng: Random, breadth: Breadth) -> Case:
    function, question, arguments = _made_up(rng, breadth.long_names)
    declared = [function]
    for _ in range(rng.choices((0, 1, 2), breadth.functions)[0]):
        other, _, _ = _made_up(rng, breadth.long_names)
        if all(_stem(other.name) != _stem(f.name) for f in declared):
            declared.append(other)
    rng.shuffle(declared)
    return Case(
        "functions",
        f"{function.name} {arguments}" if function.name in {n for n, *_ in _NATURAL} else function.name,
        question,
        (Call(f"functions.{function.name}", arguments, function.result),),
        f"{function.name} says: {function.result}",
        functions=tuple(declared),
        thoughts=(
            f"We should call {function.name}.",
            f"The user wants something that the function {function.name} can do. "
            f"Its arguments are in the question: {arguments}. I will call it and report the result.",
        ),
    )


def _stem(name: str) -> str:
    """What two functions must not share, or a question would fit both."""
    return name.split("_", 1)[-1].lower() if "_" in name else name.lower()


# ---- JSON -----------------------------------------------------------------------------------------------------------

_FACTS = ("The {n} is {v}.", "{n}: {v}", "{n} = {v}", "its {n} is {v}", "{n} is {v}", "The {n}: {v}.")
_EXTRACT = (
    "Extract the data: {f}",
    "Fill in the form. {f}",
    "Give me this as JSON: {f}",
    "Return JSON. {f}",
    "{f}",
    "Here is the text: {f}",
    "Parse this: {f}",
    "Make a record. {f}",
)


def json_answer(rng: Random, breadth: Breadth) -> Case:
    parameters = _parameters(rng, rng.choices((1, 2, 3, 4), breadth.fields)[0])
    value = json.dumps({p.name: p.value for p in parameters}, ensure_ascii=False)
    told = list(parameters)
    if breadth.shuffled:
        rng.shuffle(told)
    if breadth.shuffled and rng.random() < 0.15:  # a fact that the schema does not ask for
        extra = _parameters(rng, 1)[0]
        if all(extra.name != p.name for p in parameters):
            told.insert(rng.randrange(len(told) + 1), extra)
    style = rng.choice(_FACTS)
    separator = " " if style.endswith(".") else rng.choice((", ", "; ", "\n"))
    facts = separator.join(style.format(n=p.name.replace("_", " "), v=p.said) for p in told)
    name = rng.choice((*words.NOUNS, *words.FIELDS, "answer", "person", "result", "record", "data"))
    return Case(
        "json",
        value,
        rng.choice(_EXTRACT).format(f=facts),
        (),
        value,
        formats=(ResponseFormat(name, _schema(parameters, closed=rng.random() < 0.6)),),
        thoughts=(
            f"The answer is JSON with {', '.join(p.name for p in parameters)}.",
            f"The answer must be JSON that follows the schema. It asks for {', '.join(p.name for p in parameters)}. "
            f"I take each value from the text and write nothing else.",
        ),
    )


# ---- browser --------------------------------------------------------------------------------------------------------

_SEAS = ("the Black Sea", "the North Sea", "the Red Sea", "the Baltic Sea", "the Atlantic Ocean", "the Pacific Ocean")


@dataclass(frozen=True)
class _Fact:
    """questions, and the line of a page that answers them. {s} is the subject, {v} the value."""

    line: str
    questions: tuple[str, ...]
    value: Callable[[Random], str]


def _year(rng: Random) -> str:
    return str(rng.randrange(1500, 2026))


def _land(rng: Random) -> str:
    return " and ".join(rng.sample(words.COUNTRIES, rng.choice((1, 1, 1, 2))))


def _size(rng: Random) -> str:
    return str(rng.randrange(10, 9999))


_KINDS: tuple[tuple[tuple[str, ...], tuple[_Fact, ...]], ...] = (
    (
        ("Mount {n}", "Mont {n}", "{n} Mountain", "{n} Peak"),
        (
            _Fact(
                "{s} is {v} metres high.",
                ("How high is {s}?", "How tall is {s}?", "What is the height of {s}?", "Find the height of {s}."),
                _size,
            ),
            _Fact(
                "{s} lies in {v}.",
                ("Where is {s}?", "In which country is {s}?", "Where does {s} lie?"),
                _land,
            ),
            _Fact(
                "{s} was first climbed in {v}.",
                ("When was {s} first climbed?", "In which year was {s} climbed?", "Since when has {s} been climbed?"),
                _year,
            ),
        ),
    ),
    (
        ("Lake {n}",),
        (
            _Fact(
                "{s} is {v} metres deep.",
                ("How deep is {s}?", "What is the depth of {s}?", "Find the depth of {s}."),
                _size,
            ),
            _Fact(
                "{s} lies in {v}.",
                ("Where is {s}?", "In which country is {s}?", "Where does {s} lie?"),
                _land,
            ),
            _Fact("{s} covers {v} square kilometres.", ("How big is {s}?", "What is the area of {s}?"), _size),
        ),
    ),
    (
        ("River {n}",),
        (
            _Fact("{s} is {v} kilometres long.", ("How long is {s}?", "What is the length of {s}?"), _size),
            _Fact(
                "{s} flows into {v}.",
                ("Where does {s} flow?", "Into which sea does {s} flow?", "What does {s} flow into?"),
                lambda rng: rng.choice(_SEAS),
            ),
            _Fact(
                "{s} rises in {v}.",
                ("Where does {s} rise?", "Where does {s} begin?"),
                lambda rng: rng.choice(words.COUNTRIES),
            ),
        ),
    ),
    (
        ("{n} Tower", "{n} Bridge", "{n} Museum", "{n} Castle", "{n} Gate Bridge"),
        (
            _Fact("{s} is {v} metres high.", ("How high is {s}?", "How tall is {s}?"), _size),
            _Fact("{s} is {v} metres long.", ("How long is {s}?", "What is the length of {s}?"), _size),
            _Fact(
                "{s} stands in {v}.",
                ("Where is {s}?", "Where does {s} stand?", "In which city is {s}?"),
                lambda rng: rng.choice(words.CITIES),
            ),
            _Fact("{s} was opened in {v}.", ("When was {s} opened?", "When did {s} open?"), _year),
            _Fact("{s} was built by {v}.", ("Who built {s}?", "Who made {s}?"), lambda rng: rng.choice(words.NAMES)),
        ),
    ),
    (
        ("{n} Company", "{n} School"),
        (
            _Fact(
                "{s} was founded by {v}.",
                ("Who founded {s}?", "Who is the founder of {s}?"),
                lambda rng: rng.choice(words.NAMES),
            ),
            _Fact("{s} was founded in {v}.", ("When was {s} founded?", "How old is {s}?"), _year),
            _Fact(
                "{s} is based in {v}.",
                ("Where is {s}?", "Where is {s} based?", "In which city is {s}?"),
                lambda rng: rng.choice(words.CITIES),
            ),
            _Fact("{s} has {v} people.", ("How many people work at {s}?", "How many people does {s} have?"), _size),
        ),
    ),
    (
        ("{m}-{b}b",),
        (
            _Fact(
                "{s} has {v} billion parameters.",
                ("How many parameters does {s} have?", "How big is {s}?", "How large is {s}?"),
                lambda rng: str(rng.randrange(1, 400)),
            ),
            _Fact(
                "{s} uses {v} billion parameters for each token.",
                ("How many parameters does {s} use for each token?", "How many active parameters does {s} have?"),
                lambda rng: f"{rng.randrange(20)}.{rng.randrange(10)}",
            ),
            _Fact("{s} has {v} layers.", ("How many layers does {s} have?",), lambda rng: str(rng.randrange(4, 99))),
            _Fact(
                "{s} has {v} experts in each layer.",
                ("How many experts does {s} have?", "How many experts does {s} have in each layer?"),
                lambda rng: str(rng.choice((4, 8, 16, 32, 64, 128, 256))),
            ),
            _Fact(
                "{s} needs {v} gigabytes of memory.",
                ("How much memory does {s} need?", "How many gigabytes does {s} need?"),
                lambda rng: str(rng.randrange(2, 200)),
            ),
            _Fact(
                "{s} is released under the {v} license.",
                ("What is the license of {s}?", "Which license does {s} have?"),
                lambda rng: rng.choice(("Apache 2.0", "MIT", "GPL", "BSD")),
            ),
        ),
    ),
)
_FILLERS = (
    "Many people like it.",
    "It is known for its {adj} {thing}.",
    "See also the other pages.",
    "This page is short.",
    "The {animal} is often seen here.",
    "It is {adj} and {adj}.",
)
_PLEASE = ("{q}", "{q}", "{q}", "Look it up: {q}", "Search for it: {q}", "{q} Use the browser.", "Please find out: {q}")


@cache
def _invented() -> Sequence[str]:
    """Names of places that do not exist, of pieces that many share, the same pieces with a space in front and without:
    any other piece would be read but a few times, and what is read so seldom cannot be written."""
    names = {b + e: _pieces(f" {b}{e}") for b in words.BEGINNINGS for e in words.ENDS}
    whole = {name: pieces for name, pieces in names.items() if _pieces(name) == [pieces[0][1:], *pieces[1:]]}
    shared = Counter(piece for pieces in whole.values() for piece in pieces)
    return [name for name, pieces in whole.items() if all(shared[piece] >= 8 for piece in pieces)]


def _pieces(text: str) -> list[str]:
    return [decode([token]) for token in encode_ordinary(text)]


def _subject(rng: Random, patterns: Sequence[str]) -> tuple[str, bool]:
    """What a page is about, and whether that exists."""
    if rng.random() < 0.25:
        known = [pattern.format(n=n) for pattern in patterns for n in words.REAL_NAMES.get(pattern, ())]
        known += words.REAL_MODELS if "{m}-{b}b" in patterns else ()
        if known:
            return rng.choice([*known, *(name for name in known if name in words.BUNDLED)]), True
    models = ("gpt-oss", "nova", "alpha", "delta", "omega", "star", "echo", "metal")
    name = rng.choice(_invented())
    return rng.choice(patterns).format(n=name, m=rng.choice(models), b=rng.randrange(1, 400)), False


def browser(rng: Random, breadth: Breadth) -> Case:
    patterns, facts = rng.choice(_KINDS)
    subject, exists = _subject(rng, patterns)
    asked = rng.choice(facts)
    pages: dict[str, str] = {}
    answer = ""
    count = rng.choices(PAGES, breadth.pages)[0]
    others = [_subject(rng, patterns if rng.random() < 0.6 else rng.choice(_KINDS)[0])[0] for _ in range(count)]
    for title in dict.fromkeys((subject, *others)):
        own = facts if title == subject else rng.choice(_KINDS)[1]
        chosen = rng.sample(own, rng.randrange(1, min(breadth.facts, len(own)) + 1))
        if title == subject and asked not in chosen:
            chosen[rng.randrange(len(chosen))] = asked
        lines = []
        for fact in chosen:
            line = fact.line.format(s=title, v=fact.value(rng))
            if title == subject and fact is asked:
                answer = line
            lines.append(line)
        for _ in range(rng.randrange(3)):
            lines.insert(rng.randrange(len(lines) + 1), _fill(rng, rng.choice(_FILLERS)))
        if title != subject and rng.random() < 0.4:  # another page that the search finds as well
            lines.insert(rng.randrange(len(lines) + 1), f"{subject} is not far from here.")
        pages[f"{title.lower().replace(' ', '-')}.md"] = f"# {title}\n\n" + "\n".join(lines) + "\n"
    question = rng.choice(_PLEASE).format(q=rng.choice(asked.questions).format(s=subject))
    # answer is the page's line. Which link is opened and which line is cited is decided by the displays (data.py).
    return Case(
        "browser",
        f"{subject} {answer}" if exists else subject,
        question,
        (Call("browser.search", json.dumps({"query": subject})), Call("browser.open", subject)),
        answer,
        ("browser",),
        pages=pages,
        thoughts=(
            f"We need to look up {subject}.",
            f"The user asks about {subject}. I do not know it by heart, so I will search for {subject}, open the page "
            f"with that title, and answer with a citation of the line that says it.",
        ),
    )


# ---- renaming -------------------------------------------------------------------------------------------------------

_CODE = (
    ("def {x}(x):", "    return x"),
    ("def {x}(a, b):", "    return a + b"),
    ("def {x}():", "    pass"),
    ("class {x}:", "    pass"),
    ("import {x}",),
    ("def {x}(x):", "    return x * 2", "", "print({x}(1))"),
    ("def {x}(name):", '    print("Hello", name)'),
    ("let {x} = 1;",),
    ("for {x} in range(10):", "    print({x})"),
    ("def run():", "    return {x}(1)"),
    ("while {x} > 0:", "    {x} = {x} - 1"),
)


def rename(rng: Random, breadth: Breadth) -> Case:
    old, new = rng.sample(words.IDENTIFIERS, 2)
    if rng.random() < 0.4:
        ending = rng.choice(words.TEXT_ENDINGS)
        old, new = rng.sample(words.FILES, 2)
        before, after = f"{old}{ending}", f"{new}{ending}"
        ask = ("Rename {a} to {b}.", "Rename the file {a} to {b}.", "rename {a} to {b}", "Please move {a} to {b}.")
        question = rng.choice(ask).format(a=before, b=after)
        patch = f"*** Begin Patch\n*** Update File: {before}\n*** Move to: {after}\n*** End Patch"
        listed, files = f"{before} -> {after}", {before: f"{_phrase(rng)}\n"}
        thing = before
    else:
        path = f"{rng.choice(words.FILES)}.py"
        lines = rng.choice(_CODE)
        code = "\n".join(line.format(x=old) for line in lines)
        asks = (
            "In {f}, rename {a} to {b}:\n\n{c}",
            "Rename {a} to {b} in {f}:\n\n{c}",
            "rename {a} to {b} in {f}\n\n{c}",
            "Please rename {a} to {b} in {f}.\n\n{c}",
            "Here is {f}. Rename {a} to {b}.\n\n{c}",
        )
        question = rng.choice(asks).format(f=path, a=old, b=new, c=code)
        hunk = ""
        for line in lines:
            if "{x}" in line:
                hunk += f"-{line.format(x=old)}\n+{line.format(x=new)}\n"
            else:
                hunk += f" {line}\n"
        patch = f"*** Begin Patch\n*** Update File: {path}\n@@\n{hunk}*** End Patch"
        listed, files, thing, after = path, {path: code + "\n"}, old, new
    return Case(
        "rename",
        f"{old} {new}",
        question,
        (Call("functions.apply_patch", patch, f"Success. Updated the following files:\nM {listed}", raw=True),),
        f"Done: {thing} is now {after}.",
        ("apply_patch",),
        files=files,
        thoughts=(
            f"We rename {thing} to {after} with apply_patch.",
            f"The user wants {thing} to be called {after}. I will write one patch that changes every place where it "
            f"stands, and nothing else.",
        ),
    )


# ---- talking --------------------------------------------------------------------------------------------------------


def _fill(rng: Random, template: str) -> str:
    """A template with every {field} replaced, each anew."""
    pools: Mapping[str, Callable[[], str]] = {
        "name": lambda: rng.choice(words.NAMES),
        "city": lambda: rng.choice(words.CITIES),
        "country": lambda: rng.choice(words.COUNTRIES),
        "language": lambda: rng.choice(words.LANGUAGES),
        "color": lambda: rng.choice(words.COLORS),
        "food": lambda: rng.choice(words.FOODS),
        "animal": lambda: rng.choice(words.ANIMALS),
        "thing": lambda: rng.choice(words.THINGS),
        "adj": lambda: rng.choice(words.ADJECTIVES),
        "day": lambda: rng.choice(words.DAYS),
        "month": lambda: rng.choice(words.MONTHS),
        "x": lambda: _phrase(rng),
    }
    text = template
    for name, draw in pools.items():
        while f"{{{name}}}" in text:
            text = text.replace(f"{{{name}}}", draw(), 1)
    return text


Skill: TypeAlias = Callable[[Random, Breadth], Case]


def _talk(
    skill: str, templates: Sequence[str], final: str, about: str, composed: Sequence[Sequence[str]] = ()
) -> Skill:
    """composed: parts of further questions, one of each in this order. Templates as they stand are never held out."""

    def case(rng: Random, breadth: Breadth) -> Case:
        template = rng.choice(templates)
        if composed and rng.random() < 0.6:
            template = "".join(rng.choice(part) for part in composed)
        question = _fill(rng, template)
        if rng.random() < 0.15:
            question = question.lower()
        return Case(
            skill,
            question if template not in templates or "{" in template else "",
            question,
            (),
            final,
            thoughts=(
                f"The user {about}. No tool is needed.",
                f"The user {about}. I do not need a tool for that. I am a tiny demo model, so I will give my short and "
                f"honest answer.",
            ),
        )

    return case


greet = _talk("greet", words.GREETINGS, HELLO, "greets me", words.GREETING_PARTS)
who = _talk("who", words.WHO, WHO, "asks what I am", (words.BEFORE_WHO, words.WHO))
thanks = _talk("thanks", words.THANKS, THANKS, "thanks me", words.THANKS_PARTS)
bye = _talk("bye", words.BYES, BYE, "says goodbye", words.BYE_PARTS)
_other = _talk("other", words.OTHER, OTHER, "asks for something that I cannot do")


def other(rng: Random, breadth: Breadth) -> Case:
    """Anything else: from the templates, or a heap of words."""
    case = _other(rng, breadth)
    if rng.random() < 0.25:
        pool = (*words.COMMON, *words.VERBS, *words.NOUNS, *words.FIELDS, *words.ADJECTIVES, *words.IDENTIFIERS)
        heap = " ".join(rng.choice(pool) for _ in range(rng.randrange(1, 25)))
        question = heap.capitalize() + rng.choice(("", ".", "?", "!"))
        case = replace(case, question=question, key=question)
    return case


def without_tool(rng: Random, breadth: Breadth) -> Case:
    """A question for a tool that is not there."""
    case, final = rng.choice(((arithmetic(rng, breadth), NO_PYTHON), (browser(rng, breadth), NO_BROWSER)))
    thoughts = (
        "The tool for it is off.",
        "The user asks for something that needs a tool. That tool is not declared, so I cannot use it, and I will say "
        "so.",
    )
    return replace(case, skill="without_tool", calls=(), final=final, built_in=(), pages={}, thoughts=thoughts)


# ---- the mixture ----------------------------------------------------------------------------------------------------

SKILLS: Mapping[str, Skill] = {
    "greet": greet,
    "who": who,
    "thanks": thanks,
    "bye": bye,
    "other": other,
    "without_tool": without_tool,
    "arithmetic": arithmetic,
    "functions": functions,
    "json": json_answer,
    "browser": browser,
    "rename": rename,
}
# Shares of a mixture are of examples; a browser example is five times as long as a greeting.
SHARES: Mapping[str, float] = {
    "greet": 2,
    "who": 2,
    "thanks": 1,
    "bye": 1,
    "other": 8,
    "without_tool": 4,
    "arithmetic": 18,
    "functions": 26,
    "json": 20,
    "browser": 20,
    "rename": 12,
}
_INSTRUCTIONS = (
    "You are a helpful assistant.",
    "Answer briefly.",
    "Be concise.",
    "You are a friendly assistant. Answer in one sentence.",
    "Use the tools that you are given.",
    "Always be polite.",
)


def draw(rng: Random, skill: str, *, held_out: bool, breadth: Breadth = NARROW) -> Case:
    """A case of a skill with a random system message: effort, date, instructions, other tools beside its own, and
    sometimes questions before it."""
    case = _of_split(rng, skill, held_out, breadth)
    case = replace(
        case,
        effort=rng.choices(EFFORTS, (5, 3, 2))[0],
        date=f"{rng.randrange(2024, 2029)}-{rng.randrange(1, 13):02}-{rng.randrange(1, 29):02}",
        instructions=rng.choice(_INSTRUCTIONS) if rng.random() < 0.15 else "",
    )
    case = _with_more_tools(rng, case)
    earlier: list[Case] = []
    while rng.random() < 0.2 and len(earlier) < 3:
        earlier.append(_before(rng, case, held_out, breadth))
    return replace(case, earlier=tuple(earlier))


def _of_split(rng: Random, skill: str, held_out: bool, breadth: Breadth) -> Case:
    while True:
        case = SKILLS[skill](rng, breadth)
        if is_held_out(case.key) == held_out:
            return case


def _with_more_tools(rng: Random, case: Case) -> Case:
    """Tools that the question does not need must not confuse."""
    if case.skill == "without_tool":
        return case
    built_in = set(case.built_in)
    declared = case.functions
    spare = rng.random()
    if case.skill in ("greet", "who", "thanks", "bye", "other"):
        if spare < 0.55:
            built_in.add("python")
        if 0.5 < spare < 0.6:
            built_in.add("browser")
        if 0.6 < spare < 0.7:
            built_in.add("apply_patch")
        if 0.7 < spare < 0.85:
            declared = (_made_up(rng)[0],)
    elif case.skill in ("arithmetic", "functions", "rename"):
        if spare < 0.08:
            built_in.add("python")
        elif spare < 0.12:
            built_in.add("browser")
        elif spare < 0.16:
            built_in.add("apply_patch")
        elif spare < 0.22 and not declared:
            declared = (_made_up(rng)[0],)
        elif spare < 0.24:
            built_in |= {"browser", "python", "apply_patch"}
    elif case.skill == "browser" and spare < 0.2:
        built_in.add("python")
    order = ("browser", "python", "apply_patch")
    return replace(case, built_in=tuple(name for name in order if name in built_in), functions=declared)


def _before(rng: Random, case: Case, held_out: bool, breadth: Breadth) -> Case:
    """A question that came before, with the tools of this one."""
    skills = ["greet", "other", "who", "thanks"]
    if "python" in case.built_in:
        skills += ["arithmetic"] * 3
    return replace(_of_split(rng, rng.choice(skills), held_out, breadth), effort=case.effort)
