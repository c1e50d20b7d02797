"""Teach a model something with LoRA, then serve it: `python examples/fine_tune_and_serve.py [CHECKPOINT] [FOLDER]`.

What it writes down as Python are two commands that you would type:

    gpt-oss train demo FOLDER/conversations.jsonl -o FOLDER/run
    gpt-oss serve demo --adapter FOLDER/run/adapter

Needs `pip install 'gpt-oss[train,serve]'`. CHECKPOINT is demo unless another is named, FOLDER is ./fine-tuned.
"""

import json
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
from openai import OpenAI

COLORS = {"door": "red", "bike": "blue", "lamp": "green", "coat": "black"}  # what the model is to know
QUESTIONS = (
    "What is the color of the {thing}?",
    "Which color has the {thing}?",
    "What color is the {thing}?",
    "Tell me the color of the {thing}.",
)
STEPS = 40  # some minutes on two cores; a real model and real data want a look at loss.csv instead


def write_conversations(path: Path) -> None:
    """One JSON object a line, as the Chat Completions API has messages (docs/training.md)."""
    lines = [
        {
            "reasoning_effort": "low",
            "messages": [
                {"role": "user", "content": question.format(thing=thing)},
                {"role": "assistant", "content": f"The {thing} is {color}."},
            ],
        }
        for question in QUESTIONS
        for thing, color in COLORS.items()
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def gpt_oss(*words: str) -> list[str]:
    return [sys.executable, "-m", "gpt_oss.cli", *words]


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def wait_for(server: subprocess.Popen, url: str) -> None:
    while server.poll() is None:
        try:
            httpx.get(f"{url}/health").raise_for_status()
            return
        except httpx.HTTPError:
            time.sleep(0.2)
    sys.exit("the server ended before it answered")


def main(checkpoint: str, folder: Path, steps: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    data, run = folder / "conversations.jsonl", folder / "run"
    write_conversations(data)
    flags = ["--steps", str(steps), "--epochs", "100", "--batch-tokens", "200", "--learning-rate", "3e-3"]
    flags += ["--warmup", "5"]
    subprocess.run(gpt_oss("train", checkpoint, str(data), "-o", str(run), *flags), check=True)

    port = free_port()
    words = ["serve", checkpoint, "--adapter", str(run / "adapter"), "--port", str(port), "--no-store"]
    server = subprocess.Popen(gpt_oss(*words))
    try:
        url = f"http://127.0.0.1:{port}"
        wait_for(server, url)
        client = OpenAI(base_url=f"{url}/v1", api_key="none")
        for thing in COLORS:
            question = QUESTIONS[0].format(thing=thing)
            response = client.responses.create(
                model=client.models.list().data[0].id, input=question, temperature=0, reasoning={"effort": "low"}
            )
            print(f"{question} {response.output_text}")
    finally:
        server.terminate()
        server.wait()


if __name__ == "__main__":
    arguments = dict(enumerate(sys.argv))
    main(arguments.get(1, "demo"), Path(arguments.get(2, "fine-tuned")), int(arguments.get(3, STEPS)))
