"""Every hostile program is held, in a fresh interpreter and in a session, and the host is whole afterwards."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest

from gpt_oss.tools.sandbox import Sandbox
from gpt_oss.tools.sandbox.attacks import ATTACKS, Attack, Host, host, try_attack
from gpt_oss.tools.sandbox.unsandboxed import Unsandboxed


@pytest.fixture(scope="module")
def target() -> Iterator[Host]:
    with host() as made:
        yield made


@pytest.mark.parametrize("in_session", [False, True], ids=["program", "session"])
@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
async def test_it_is_held(sandbox: Sandbox, target: Host, attack: Attack, in_session: bool) -> None:
    outcome = await try_attack(sandbox, attack, target, in_session=in_session)
    assert outcome.held, f"{outcome.note}\n{outcome.result.output[-2000:]}"


HARMLESS = ("read the host's files", "connect to the host by TCP", "connect to the host by an abstract socket")


@pytest.mark.parametrize("attack", [attack for attack in ATTACKS if attack.name in HARMLESS], ids=lambda a: a.name)
async def test_the_proof_notices_an_escape(attack: Attack) -> None:
    """The same programs without a sandbox: a check that can fail."""
    with host() as target:
        assert not (await try_attack(Unsandboxed(), attack, target)).held


async def test_secrets_of_the_environment_are_kept_even_without_a_sandbox() -> None:
    attack = next(attack for attack in ATTACKS if "environments" in attack.name)
    with host() as target:
        result = await Unsandboxed().run(
            target.program(attack).split("for pid in")[0] + "print(found)", attack_limits()
        )
    assert result.output == "[]\n"


def attack_limits() -> object:
    from gpt_oss.tools.sandbox.attacks import LIMITS

    return LIMITS


def test_the_table_is_printed_by_one_command(sandbox: Sandbox) -> None:
    command = [sys.executable, "-m", "gpt_oss.tools.sandbox", "--help"]
    assert "--session" in subprocess.run(command, capture_output=True, text=True, check=True).stdout
