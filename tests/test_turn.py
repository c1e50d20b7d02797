"""The turn loop on scripted models: what it does with calls, limits, cancellations and prompts that grow too long."""

from __future__ import annotations

import asyncio
import dataclasses
import datetime
import json
from collections.abc import AsyncIterator
from contextlib import aclosing

import pytest
from openai_harmony import Author, Message, Role, TextContent, ToolNamespaceConfig

from gpt_oss import events
from gpt_oss.backends.scripted import Reply, ScriptedGenerator
from gpt_oss.errors import BackendError, ContextOverflowError
from gpt_oss.events import CitationFound, ContextTrimmed, Event, RoundStarted, ToolDone, ToolStarted, TurnDone
from gpt_oss.harmony import Conversation, MessageDone, MessageStarted, TextDelta, parse, render
from gpt_oss.harmony.aliases import prompt_names
from gpt_oss.harmony.history import header_and_text, system_message
from gpt_oss.harmony.render import AnyMessage
from gpt_oss.params import SamplingParams
from gpt_oss.tools.citations import CitationReader, Source
from gpt_oss.tools.functions import ToolError, declared_function, function_tool
from gpt_oss.tools.tool import Tool, answer, text_of
from gpt_oss.tools.toolbox import Toolbox
from gpt_oss.turn import Turn, TurnLimits
from gpt_oss.vocabulary import decode
from tests.scripts import calls, final, spoken, thinks


class Echo(Tool):
    """A built-in tool that says back what it gets; `slow` and `broken` do what they say."""

    name = "echo"

    def __init__(self) -> None:
        self.running = 0

    @property
    def tool_config(self) -> ToolNamespaceConfig:
        return ToolNamespaceConfig(name="echo", description="Says it back.", tools=[])

    def citations(self) -> CitationReader:
        return CitationReader(lambda cursor: Source("A page", "https://example.org/") if cursor == 0 else None)

    async def _process(self, message: Message) -> AsyncIterator[Message]:
        text = text_of(message)
        if "broken" in text:
            raise ZeroDivisionError("by design")
        self.running += 1
        try:
            if "slow" in text:
                await asyncio.sleep(60)
        finally:
            self.running -= 1
        yield answer(message, text.upper())


@dataclasses.dataclass
class Stay:
    guest: str
    nights: int


def user(text: str) -> Message:
    return Message.from_role_and_content(Role.USER, text)


def add(a: int, b: int) -> int:
    """Adds."""
    return a + b


async def play(turn: Turn) -> list[Event]:
    async with aclosing(aiter(turn)) as stream:
        return [event async for event in stream]


def of(kind: type, happened: list[Event]) -> list[Event]:
    return [event for event in happened if isinstance(event, kind)]


def shape(messages: list[AnyMessage]) -> list[tuple[str, str | None, str]]:
    """(role or tool name, channel, text) of each message."""
    rows = []
    for message in messages:
        header, text = header_and_text(message)
        rows.append((header.name if header.role == "tool" else header.role, header.channel, text))
    return rows


def assert_well_formed(history: list[AnyMessage]) -> None:
    """Every call is answered, and the whole renders to what parses back without a repair."""
    waiting: list[str] = []
    for message in history:
        header, _ = header_and_text(message)
        if header.is_call:
            waiting.append(header.recipient or "")
        elif header.role == "tool":
            assert header.name == waiting.pop(0)
    assert not waiting
    assert not parse(render(Conversation(history), keep_analysis=True), role=None).repairs


async def test_a_final_message_ends_the_turn() -> None:
    generator = ScriptedGenerator([spoken(thinks("Hm.") + final("Hello!"))])
    turn = Turn(generator, [user("Hi")])
    happened = await play(turn)
    assert [type(event).__name__ for event in happened if not isinstance(event, events.Sampled)] == (
        ["RoundStarted", *["MessageStarted", "TextDelta", "TextDelta", "MessageDone"] * 2, "TurnDone"]
    )
    assert happened[-1] == TurnDone("stop", tuple(turn.messages), turn.usage)
    assert shape(turn.messages) == [("assistant", "analysis", "Hm."), ("assistant", "final", "Hello!")]
    tokens = generator.calls[0].delivered
    assert turn.usage.output_tokens == len(tokens)
    assert turn.usage.reasoning_tokens == tokens.index(200007) + 1
    assert turn.usage.prompt_tokens == len(generator.prompts[0])


async def test_calls_of_functions_and_of_built_in_tools_are_run_and_answered() -> None:
    generator = ScriptedGenerator(
        [
            spoken(thinks("Add.") + calls("functions.add", '{"a": 2, "b": 3}')),
            spoken(calls("echo", "hello", channel="analysis")),
            spoken(final("5")),
        ]
    )
    turn = Turn(generator, [user("2+3?")], Toolbox.of([add, Echo()]))
    happened = await play(turn)
    assert shape(turn.messages) == [
        ("assistant", "analysis", "Add."),
        ("assistant", "commentary", '{"a": 2, "b": 3}'),
        ("functions.add", "commentary", "5"),
        ("assistant", "analysis", "hello"),
        ("echo", "analysis", "HELLO"),
        ("assistant", "final", "5"),
    ]
    assert [event.name for event in of(ToolStarted, happened)] == ["functions.add", "echo"]  # type: ignore[attr-defined]
    assert "<|start|>functions.add to=assistant<|channel|>commentary<|message|>5<|end|>" in decode(generator.prompts[1])
    assert_well_formed(turn.messages)


async def test_what_the_model_wrote_goes_back_token_by_token() -> None:
    """The next prompt begins with the last one and its answer: that is what makes a prefix cache useful."""
    generator = ScriptedGenerator([spoken(calls("functions.add", '{"a":2,"b":3}')), spoken(final("5"))])
    await play(Turn(generator, [user("2+3?")], Toolbox.of([add])))
    first = generator.prompts[0] + generator.calls[0].delivered
    assert generator.prompts[1][: len(first)] == first


@pytest.mark.parametrize(
    ("recipient", "channel"),
    [
        ("functions.add", "commentary"),
        ("functions.add", "analysis"),
        ("add", "commentary"),
        ("functions.echo", "analysis"),
    ],
)
async def test_calls_on_the_wrong_channel_or_namespace_are_calls(recipient: str, channel: str) -> None:
    generator = ScriptedGenerator([spoken(calls(recipient, '{"a":1,"b":1}', channel=channel)), spoken(final("ok"))])
    turn = Turn(generator, [user("?")], Toolbox.of([add, Echo()]))
    done = of(ToolDone, await play(turn))
    assert [event.failed for event in done] == [False]  # type: ignore[attr-defined]
    assert_well_formed(turn.messages)


@pytest.mark.parametrize("end", ["<|call|>", "<|end|>", "<|return|>"])
async def test_a_call_is_one_however_it_ends(end: str) -> None:
    script = spoken(calls("functions.add", '{"a":1,"b":2}', end=end))
    if end == "<|end|>":
        script += spoken("<|start|>assistant" + final("I made this up"))
    turn = Turn(ScriptedGenerator([script, spoken(final("3"))]), [user("?")], Toolbox.of([add]))
    happened = await play(turn)
    assert [text for _, _, text in shape(turn.messages)] == ['{"a":1,"b":2}', "3", "3"]
    assert all("made up" not in event.text for event in happened if isinstance(event, TextDelta))


async def test_several_calls_in_a_row_are_all_answered() -> None:
    two = calls("functions.add", '{"a":1,"b":2}', end="<|end|><|start|>assistant") + calls(
        "functions.add", '{"a":3,"b":4}'
    )
    turn = Turn(ScriptedGenerator([spoken(two), spoken(final("3 and 7"))]), [user("?")], Toolbox.of([add]))
    await play(turn)
    assert [text for _, _, text in shape(turn.messages)] == ['{"a":1,"b":2}', '{"a":3,"b":4}', "3", "7", "3 and 7"]
    assert_well_formed(turn.messages)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ('{"a": 1', "Error: the arguments are not valid JSON"),
        ("[1, 2]", "Error: the arguments must be a JSON object, not list"),
        ('{"a": 1}', "Error: b: Field required"),
        ('{"a": "one", "b": 2}', "Error: a: Input should be a valid integer"),
        ('{"a": 1, "b": 2, "c": 3}', "Error: c: Extra inputs are not permitted"),
        ("[" * 100_000, "Error: the arguments are not valid JSON"),
    ],
)
async def test_bad_arguments_are_answered_so_that_the_model_can_mend_them(arguments: str, said: str) -> None:
    turn = Turn(
        ScriptedGenerator([spoken(calls("functions.add", arguments)), spoken(final("."))]),
        [user("?")],
        Toolbox.of([add]),
    )
    done = of(ToolDone, await play(turn))
    assert shape(turn.messages)[1][2].startswith(said)
    assert done[0].failed  # type: ignore[attr-defined]


async def test_a_tools_exception_becomes_an_answer() -> None:
    def divide(a: int, b: int) -> float:
        return a / b

    async def refuse() -> str:
        raise ToolError("not today")

    script = [
        calls("functions.divide", '{"a":1,"b":0}'),
        calls("functions.refuse", "{}"),
        calls("echo", "broken"),
        final("."),
    ]
    turn = Turn(ScriptedGenerator([spoken(text) for text in script]), [user("?")], Toolbox.of([divide, refuse, Echo()]))
    await play(turn)
    answers = [text for name, _, text in shape(turn.messages) if name != "assistant"]
    assert answers == [
        "Error: ZeroDivisionError: division by zero",
        "Error: not today",
        "Error: ZeroDivisionError: by design",
    ]


async def test_an_unknown_tool_is_answered_with_the_known_ones_a_bounded_number_of_times() -> None:
    generator = ScriptedGenerator(lambda prompt: spoken(calls("functions.nothing", "{}")))
    turn = Turn(generator, [user("?")], Toolbox.of([add, Echo()]), limits=TurnLimits(unknown_calls=2))
    happened = await play(turn)
    text = "Error: there is no tool 'functions.nothing'. The tools are: echo, functions.add."
    assert [row[2] for row in shape(turn.messages)] == ["{}", text] * 3
    assert happened[-1].reason == "unknown_tools"  # type: ignore[union-attr]
    assert_well_formed(turn.messages)


async def test_without_tools_the_model_is_told_so() -> None:
    turn = Turn(
        ScriptedGenerator([spoken(calls("python", "1+1", channel="analysis")), spoken(final("2"))]), [user("?")]
    )
    await play(turn)
    assert shape(turn.messages)[1][2] == "Error: there is no tool 'python'. There are no tools; answer without."


async def test_a_function_with_the_name_of_a_built_in_tool_is_called_by_its_alias() -> None:
    def python(code: str) -> str:
        return f"ran {code}"

    generator = ScriptedGenerator([spoken(calls("functions.user_python", '{"code":"1"}')), spoken(final("."))])
    turn = Turn(generator, [user("?")], Toolbox.of([python], prompt_names))
    started = of(ToolStarted, await play(turn))
    assert started[0].name == "functions.python"  # type: ignore[attr-defined]
    assert shape(turn.messages)[1] == ("functions.user_python", "commentary", "ran 1")


async def test_calls_that_somebody_else_runs_end_the_turn() -> None:
    weather = declared_function("weather", "", {"type": "object", "properties": {"city": {"type": "string"}}})
    generator = ScriptedGenerator([spoken(thinks("?") + calls("functions.weather", '{"city":"Oslo"}'))])
    done = (await play(Turn(generator, [user("?")], Toolbox.of([weather]))))[-1]
    assert isinstance(done, TurnDone)
    assert done.reason == "tool_calls"
    assert [call.content for call in done.calls] == ['{"city":"Oslo"}']


@pytest.mark.parametrize("limit", range(1, 24))
async def test_a_limit_on_tokens_anywhere_leaves_a_well_formed_history(limit: int) -> None:
    tokens = spoken(thinks("Let me add.") + calls("functions.add", '{"a": 2, "b": 3}'))
    turn = Turn(ScriptedGenerator([tokens]), [user("?")], Toolbox.of([add]), limits=TurnLimits(tokens=limit))
    assert limit < len(tokens)
    done = (await play(turn))[-1]
    assert done.reason == "length"  # type: ignore[union-attr]
    assert turn.usage.output_tokens == limit
    assert_well_formed(turn.messages)


async def test_rounds_are_limited() -> None:
    generator = ScriptedGenerator(lambda prompt: spoken(calls("functions.add", '{"a":1,"b":1}')))
    turn = Turn(generator, [user("?")], Toolbox.of([add]), limits=TurnLimits(rounds=3))
    assert (await play(turn))[-1].reason == "rounds"  # type: ignore[union-attr]
    assert len(generator.calls) == 3
    assert_well_formed(turn.messages)


async def test_wall_time_stops_a_slow_tool_and_a_slow_model() -> None:
    echo = Echo()
    turn = Turn(
        ScriptedGenerator([spoken(calls("echo", "slow"))]),
        [user("?")],
        Toolbox.of([echo]),
        limits=TurnLimits(seconds=0.2),
    )
    assert (await play(turn))[-1].reason == "seconds"  # type: ignore[union-attr]
    assert echo.running == 0
    assert shape(turn.messages)[-1][2] == "Error: TimeoutError: the time for this turn is over"
    slow = ScriptedGenerator([Reply(spoken(final("one two three four five")), delay_s=0.05)])
    turn = Turn(slow, [user("?")], limits=TurnLimits(seconds=0.3))
    assert (await play(turn))[-1].reason == "seconds"  # type: ignore[union-attr]
    assert slow.calls[0].closed
    assert_well_formed(turn.messages)


@pytest.mark.parametrize("after", range(1, 60, 3))
async def test_leaving_at_any_event_leaves_a_well_formed_history(after: int) -> None:
    echo = Echo()
    script = [
        thinks("Let me.") + calls("functions.add", '{"a":1,"b":2}'),
        calls("echo", "hi"),
        final("That is 3, you know."),
    ]
    generator = ScriptedGenerator([spoken(text) for text in script])
    turn = Turn(generator, [user("?")], Toolbox.of([add, echo]))
    count = 0
    async with aclosing(aiter(turn)) as stream:
        async for _ in stream:
            count += 1
            if count == after:
                break
    assert echo.running == 0
    assert all(call.closed for call in generator.calls)
    assert_well_formed(turn.messages)


async def test_cancelling_while_a_tool_runs_stops_it_and_answers_its_call() -> None:
    echo = Echo()
    turn = Turn(ScriptedGenerator([spoken(calls("echo", "slow"))]), [user("?")], Toolbox.of([echo]))
    task = asyncio.create_task(play(turn))
    while not echo.running:
        await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert echo.running == 0
    assert shape(turn.messages)[-1] == ("echo", "commentary", "Error: the call was cancelled.")


async def test_an_answer_that_was_stopped_keeps_what_the_user_has_read() -> None:
    generator = ScriptedGenerator([spoken(thinks("Hm") + final("one two three"))])
    turn = Turn(generator, [user("?")])
    async with aclosing(aiter(turn)) as stream:
        async for event in stream:
            if isinstance(event, TextDelta) and event.text == " two":
                break
    assert shape(turn.messages) == [("assistant", "analysis", "Hm"), ("assistant", "final", "one two")]
    assert_well_formed(turn.messages)


async def test_a_backend_that_fails_in_the_middle_raises_and_keeps_the_history_well_formed() -> None:
    generator = ScriptedGenerator([Reply(spoken(calls("functions.add", '{"a"'))[:-1], error=BackendError("it broke"))])
    turn = Turn(generator, [user("?")], Toolbox.of([add]))
    with pytest.raises(BackendError, match="it broke"):
        await play(turn)
    assert turn.messages == []


async def test_citations_are_held_back_until_whole_and_reported_behind_their_text() -> None:
    generator = ScriptedGenerator([spoken(final("It is so【0†L9-L11】, they say 【unfinished"))])
    happened = await play(Turn(generator, [user("?")], Toolbox.of([Echo()])))
    text = ""
    for event in happened:
        if isinstance(event, TextDelta):
            text += event.text
            assert "【0" not in text or "【0†L9-L11】" in text
        if isinstance(event, CitationFound):
            assert text[event.citation.start : event.citation.end] == "【0†L9-L11】" == text[-len("【0†L9-L11】") :]
    assert text == "It is so【0†L9-L11】, they say 【unfinished"
    assert len(of(CitationFound, happened)) == 1


def long_history(turns: int) -> list[AnyMessage]:
    history: list[AnyMessage] = [system_message("low", "2026-01-01")]
    for i in range(turns):
        history += [user(f"Question {i}? " + "word " * 50)]
        history += [Message.from_role_and_content(Role.ASSISTANT, f"Answer {i}.").with_channel("final")]
    return [*history, user("And now?")]


async def test_a_prompt_that_is_too_long_loses_its_oldest_whole_turns() -> None:
    generator = ScriptedGenerator([spoken(final("Now."))], context_tokens=800)
    turn = Turn(generator, long_history(20))
    trimmed = of(ContextTrimmed, await play(turn))[0]
    assert isinstance(trimmed, ContextTrimmed)
    prompt = decode(generator.prompts[0])
    assert trimmed.tokens_after == len(generator.prompts[0]) <= 500 < 700 < trimmed.tokens_before
    assert trimmed.messages == 2 * trimmed.turns == turn.dropped_messages
    assert prompt.startswith("<|start|>system")
    assert f"Question {trimmed.turns - 1}?" not in prompt
    assert f"<|start|>user<|message|>Question {trimmed.turns}?" in prompt
    assert prompt.endswith("And now?<|end|><|start|>assistant")


async def test_a_question_that_does_not_fit_by_itself_is_refused() -> None:
    with pytest.raises(ContextOverflowError, match=r"prompt is too long: \d+ tokens > 100 maximum"):
        await play(Turn(ScriptedGenerator([], context_tokens=100), [user("word " * 200)]))


async def test_a_tool_that_fills_the_context_ends_the_turn() -> None:
    def read() -> str:
        return "word " * 500

    turn = Turn(
        ScriptedGenerator([spoken(calls("functions.read", "{}"))], context_tokens=300), [user("?")], Toolbox.of([read])
    )
    assert (await play(turn))[-1].reason == "context"  # type: ignore[union-attr]
    assert_well_formed(turn.messages)


async def test_an_answer_that_fills_the_context_says_so() -> None:
    generator = ScriptedGenerator([spoken(final("word " * 200))], context_tokens=100)
    assert (await play(Turn(generator, [user("?")])))[-1].reason == "context"  # type: ignore[union-attr]


async def test_parameters_reach_the_model_with_harmonys_stop_tokens() -> None:
    generator = ScriptedGenerator([spoken(final("."))])
    params = SamplingParams(temperature=0.5, seed=7, stop_token_ids=(5,), max_tokens=50)
    await play(Turn(generator, [user("?")], params=params, limits=TurnLimits(tokens=40)))
    got = generator.calls[0].params
    assert (got.temperature, got.seed, got.max_tokens) == (0.5, 7, 40)
    assert set(got.stop_token_ids) == {5, 199999, 200002, 200012}


async def test_preambles_are_messages_that_the_user_sees() -> None:
    preamble = "<|channel|>commentary<|message|>I will add.<|end|><|start|>assistant"
    generator = ScriptedGenerator([spoken(preamble + calls("functions.add", '{"a":1,"b":2}')), spoken(final("3"))])
    happened = await play(Turn(generator, [user("?")], Toolbox.of([add])))
    done = [event.message for event in happened if isinstance(event, MessageDone)]
    assert [(m.header.channel, m.header.recipient, m.content) for m in done] == [
        ("commentary", None, "I will add."),
        ("commentary", "functions.add", '{"a":1,"b":2}'),
        ("final", None, "3"),
    ]


async def test_garbage_is_survived() -> None:
    """No tokens that a model can emit break a turn: here all special tokens, between random text."""
    garbage = [200006, 200006, 200008, 35, 200005, 200003, 99, 200007, 200007, 200013, 200005, 200005, 77, 200008, 11]
    turn = Turn(ScriptedGenerator([Reply(garbage * 7)]), [user("?")], Toolbox.of([add]))
    happened = await play(turn)
    assert isinstance(happened[-1], TurnDone)
    assert render(Conversation([user("?"), *turn.messages]))


def test_a_schema_comes_from_the_signature_and_the_docstring() -> None:
    def search(query: str, limit: int = 10, tags: list[str] | None = None) -> str:
        """Search the notes.

        Longer words.

        Args:
            query: what to look for,
                in plain words
            limit: at most so many
        Returns:
            The notes.
        """
        return query

    tool = function_tool(search)
    assert tool.description == "Search the notes.\n\nLonger words."
    assert tool.parameters == {
        "type": "object",
        "properties": {
            "query": {"type": "string", "description": "what to look for, in plain words"},
            "limit": {"type": "integer", "description": "at most so many", "default": 10},
            "tags": {"anyOf": [{"type": "array", "items": {"type": "string"}}, {"type": "null"}], "default": None},
        },
        "required": ["query"],
        "additionalProperties": False,
    }


async def test_values_arrive_as_the_annotations_say_and_results_as_json() -> None:
    def book(stay: Stay, start: datetime.date, _private: int = 0) -> Stay:
        assert isinstance(start, datetime.date)
        assert isinstance(stay, Stay)
        return dataclasses.replace(stay, nights=stay.nights + 1)

    call = Message(
        author=Author(role=Role.ASSISTANT),
        content=[TextContent(text='{"stay":{"guest":"Bo","nights":2},"start":"2026-01-01"}')],
        recipient="functions.book",
    )
    answers = await function_tool(book).process(call)
    assert json.loads(text_of(answers[0])) == {"guest": "Bo", "nights": 3}


def test_rounds_hold_their_prompt() -> None:
    assert RoundStarted(0, (1, 2)).prompt == (1, 2)
    assert "prompt" not in repr(RoundStarted(0, (1, 2)))
    assert MessageStarted in events.Event.__args__
