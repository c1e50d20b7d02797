"""Script files: what they may say, what is said about those that are wrong, and the order of what they play."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gpt_oss.backends.script_file import ScriptFileGenerator, read_script
from gpt_oss.errors import ContextOverflowError, ParameterError
from gpt_oss.params import SamplingParams
from gpt_oss.vocabulary import CHANNEL, MESSAGE, RETURN, encode_ordinary, encode_with_special

HELLO = "<|channel|>final<|message|>Hello<|return|>"


def script(folder: Path, *answers: object) -> Path:
    path = folder / "script.jsonl"
    path.write_text("\n".join(json.dumps(answer) for answer in answers), encoding="utf-8")
    return path


def said(generator: ScriptFileGenerator, prompt: list[int]) -> list[int]:
    return [token.id for token in generator.generate_sync(prompt, SamplingParams(stop_token_ids=(RETURN,)))]


def test_an_answer_is_text_with_special_tokens_written_out_or_token_ids(tmp_path: Path) -> None:
    path = script(tmp_path, {"text": HELLO}, {"tokens": [0, 201_087], "delay_s": 0.5})
    path.write_text("\n" + path.read_text() + "\r\n  \n")  # empty lines, and Windows' line ends
    first, second = read_script(path)
    final, hello = encode_ordinary("final"), encode_ordinary("Hello")
    assert first.tokens == [CHANNEL, *final, MESSAGE, *hello, RETURN]
    assert (first.delay_s, second.tokens, second.delay_s) == (0, [0, 201_087], 0.5)


def test_a_line_separator_inside_a_text_does_not_end_the_line(tmp_path: Path) -> None:
    path = tmp_path / "script.jsonl"
    path.write_text('{"text": "one\u2028two"}', encoding="utf-8")
    assert read_script(path)[0].tokens == encode_ordinary("one\u2028two")


def test_answers_come_in_order_and_the_last_one_for_ever(tmp_path: Path) -> None:
    generator = ScriptFileGenerator(script(tmp_path, {"tokens": [1]}, {"tokens": [2]}), context_tokens=100)
    assert [said(generator, [7]) for _ in range(4)] == [[1], [2], [2], [2]]
    assert generator.calls == [], "a server that runs for days must not keep every prompt"


def test_the_context_bounds_prompt_and_answer(tmp_path: Path) -> None:
    generator = ScriptFileGenerator(script(tmp_path, {"tokens": [1, 2, 3, 4]}), context_tokens=5)
    assert said(generator, [7, 8, 9]) == [1, 2]
    with pytest.raises(ContextOverflowError):
        said(generator, [7] * 5)


def test_the_log_has_every_prompt_at_once_and_is_added_to(tmp_path: Path) -> None:
    path, log = script(tmp_path, {"text": HELLO}), tmp_path / "prompts.jsonl"
    prompt = encode_with_special("<|start|>user<|message|>Grüße\n<|end|>")
    for count in (1, 2):
        generator = ScriptFileGenerator(path, context_tokens=100, log=log)
        said(generator, prompt)
        lines = log.read_text(encoding="utf-8").splitlines()  # before close
        generator.close()
        expected = {"text": "<|start|>user<|message|>Grüße\n<|end|>", "tokens": prompt}
        assert [json.loads(line) for line in lines] == [expected] * count


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ('{"text": "a"', "line 3: not JSON"),
        ('["a"]', 'line 3: an answer is a JSON object with "text" or "tokens"'),
        ("{}", 'line 3: an answer has either "text" or "tokens"'),
        ('{"text": "a", "tokens": [1]}', 'line 3: an answer has either "text" or "tokens"'),
        ('{"text": "a", "delay": 1}', "line 3: an answer has no field 'delay', only text, tokens, delay_s"),
        ('{"text": ""}', 'line 3: "text" is a string that is not empty'),
        ('{"text": 1}', 'line 3: "text" is a string that is not empty'),
        ('{"tokens": []}', 'line 3: "tokens" is a list of token ids that is not empty'),
        ('{"tokens": "1 2"}', 'line 3: "tokens" is a list of token ids that is not empty'),
        ('{"tokens": [1, 201088]}', "line 3: a token id is a number from 0 to 201087, not 201088"),
        ('{"tokens": [-1]}', "line 3: a token id is a number from 0 to 201087, not -1"),
        ('{"tokens": [true]}', "line 3: a token id is a number from 0 to 201087, not True"),
        ('{"tokens": [1.0]}', "line 3: a token id is a number from 0 to 201087, not 1.0"),
        ('{"text": "a", "delay_s": -1}', 'line 3: "delay_s" is a number of seconds, 0 or more, not -1'),
        ('{"text": "a", "delay_s": Infinity}', 'line 3: "delay_s" is a number of seconds, 0 or more, not inf'),
        ('{"text": "a", "delay_s": NaN}', 'line 3: "delay_s" is a number of seconds, 0 or more, not nan'),
        ('{"text": "a", "delay_s": true}', 'line 3: "delay_s" is a number of seconds, 0 or more, not True'),
    ],
)
def test_a_bad_line_is_named(line: str, complaint: str, tmp_path: Path) -> None:
    path = tmp_path / "script.jsonl"
    path.write_text(f'{{"text": "fine"}}\n\n{line}\n')
    with pytest.raises(ParameterError) as failure:
        read_script(path)
    assert str(failure.value).startswith(f"{path}, {complaint}")


def test_a_file_that_is_missing_empty_or_no_text_is_named(tmp_path: Path) -> None:
    empty, binary = tmp_path / "empty.jsonl", tmp_path / "binary.jsonl"
    empty.write_text("\n \n")
    binary.write_bytes(b"\xff\xfe")
    for path, complaint in (
        (tmp_path / "missing.jsonl", "cannot be read: No such file"),
        (tmp_path, "cannot be read"),
        (empty, "has no answers"),
        (binary, "is not UTF-8 text"),
    ):
        with pytest.raises(ParameterError, match=complaint) as failure:
            read_script(path)
        assert str(path) in str(failure.value)


def test_a_log_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    path, log = script(tmp_path, {"text": HELLO}), tmp_path / "missing" / "prompts.jsonl"
    with pytest.raises(ParameterError, match=r"prompts\.jsonl cannot be written: No such file"):
        ScriptFileGenerator(path, context_tokens=100, log=log)
