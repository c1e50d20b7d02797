"""Multiple choice for the demo model, and what its answers are worth by the float64 reference."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gpt_oss.model import reference
from gpt_oss.model.checkpoint import Checkpoint
from gpt_oss.vocabulary import encode_with_special

QUESTIONS: tuple[tuple[str, tuple[str, ...], int], ...] = (
    ("What is 2 + 2?", ("4", "5", "22", "0"), 0),
    ("What is 12 * 12?", ("124", "144", "1212", "24"), 1),
    ("Which of these is a colour?", ("seven", "Tuesday", "green", "quickly"), 2),
    ("Who are you?", ("a demo model of gpt-oss", "a bicycle", "the moon"), 0),
    ("Which word is a greeting?", ("Goodbye!", "Hello!", "Seldom."), 1),
    ("Which of these is written in Greek?", ("καλημέρα", "good morning", "おはよう"), 0),
    ("Which of these is a snowman?", ("☃", "→", "π"), 0),
    ("What does {\"rain\": true} say?", ("that it rains", "that it snows"), 0),
)  # fmt: skip


def text_of(question: str) -> str:
    """The context of each of a question's choices, as the task has it; a choice follows after a blank."""
    return f"Question: {question}\nAnswer:"


def pairs() -> list[tuple[str, str]]:
    """(context, continuation) of every choice of every question, in order."""
    return [(text_of(question), f" {choice}") for question, choices, _ in QUESTIONS for choice in choices]


def write_task(folder: Path, name: str) -> None:
    """A task of lm-eval with these questions: its YAML file, and the data next to it."""
    data = folder / f"{name}.jsonl"
    rows = [{"question": question, "choices": choices, "answer": answer} for question, choices, answer in QUESTIONS]
    data.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    (folder / f"{name}.yaml").write_text(
        f"""task: {name}
dataset_path: json
dataset_kwargs:
  data_files:
    test: {data}
test_split: test
output_type: multiple_choice
num_fewshot: 0
doc_to_text: "Question: {{{{question}}}}\\nAnswer:"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: answer
metric_list:
  - metric: acc
  - metric: acc_norm
"""
    )


class Reference:
    """Log probabilities by model/reference.py."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.checkpoint = checkpoint

    def table(self, tokens: list[int]) -> NDArray[np.float64]:
        """[tokens, vocab]: log probabilities of what follows each token, among what may be drawn."""
        logits = reference.forward(self.checkpoint, tokens)[:, : self.checkpoint.config.usable_vocab_size]
        logits -= logits.max(-1, keepdims=True)
        return logits - np.log(np.exp(logits).sum(-1, keepdims=True))

    def scores(self, wanted: Iterable[tuple[str, str]]) -> list[tuple[float, bool]]:
        """Of each continuation: its log probability after its context, and whether it is what greedy sampling says."""
        found = []
        for context, continuation in wanted:
            tokens, first = encode_with_special(context + continuation), len(encode_with_special(context))
            table = self.table(tokens)[first - 1 : -1]
            following = tokens[first:]
            score = float(table[np.arange(len(following)), following].sum())
            found.append((score, bool((table.argmax(-1) == following).all())))
        return found
