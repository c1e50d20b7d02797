"""Commands that OpenAI's README of gpt-oss shows, as they stand there: people have them in scripts and in memory."""

from __future__ import annotations

import pytest

from tests.docs import shell

COMMANDS = (
    "pip install gpt-oss",
    "pip install gpt-oss[torch]",
    "pip install gpt-oss[triton]",
    'GPTOSS_BUILD_METAL=1 pip install -e ".[metal]"',
    'pip install -e ".[torch]"',
    "torchrun --nproc-per-node=4 -m gpt_oss.generate gpt-oss-120b/original/",
    "export PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True",
    "python -m gpt_oss.generate --backend triton gpt-oss-120b/original/",
    "python gpt_oss/metal/scripts/create-local-model.py -s <model_dir> -d <output_file>",
    'python gpt_oss/metal/examples/generate.py gpt-oss-20b/metal/model.bin -p "why did the chicken cross the road?"',
    "python -m gpt_oss.chat -h",
    "python -m gpt_oss.chat -r high -a -b --show-browser-results -p -c 8192 --raw --backend triton FILE",
    "python -m gpt_oss.chat --reasoning-effort low --apply-patch --browser --python --backend torch FILE",
    'python -m gpt_oss.chat --developer-message "Be brief." --context 8192 --backend vllm gpt-oss-20b/',
    "python -m gpt_oss.responses_api.serve -h",
    *(
        f"python -m gpt_oss.responses_api.serve --checkpoint gpt-oss-20b --port 11434 --inference-backend {backend}"
        for backend in ("triton", "metal", "ollama", "vllm", "transformers")
    ),
)


@pytest.mark.parametrize("command", COMMANDS)
def test_it_is_accepted(command: str) -> None:
    shell.check(command)
