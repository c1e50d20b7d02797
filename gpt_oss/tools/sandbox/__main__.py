"""`python -m gpt_oss.tools.sandbox`: try the hostile programs of attacks.py on a sandbox, and print what happens."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys

from gpt_oss.terminal import run_command
from gpt_oss.tools.sandbox.attacks import ATTACKS, Outcome, host, try_attack
from gpt_oss.tools.sandbox.choose import CHOICES, open_sandbox


def command(args: argparse.Namespace) -> int:
    return asyncio.run(_command(args))


async def _command(args: argparse.Namespace) -> int:
    sandbox = await open_sandbox(args.sandbox)
    outcomes: list[Outcome] = []
    if not args.json:
        print(f"{sandbox.name}: {sandbox.about}\n\n| attack | outcome | held by | what it met |\n|---|---|---|---|")
    with host() as target:
        for attack in ATTACKS:
            outcome = await try_attack(sandbox, attack, target, in_session=args.session)
            outcomes.append(outcome)
            if not args.json:
                word = "held" if outcome.held else "**ESCAPED**"
                print(f"| {attack.name} | {word} | {attack.held_by} | {outcome.note.replace('|', '/')} |", flush=True)
    await sandbox.close()
    escaped = [outcome.attack.name for outcome in outcomes if not outcome.held]
    if args.json:
        rows = [
            {"attack": o.attack.name, "held": o.held, "held_by": o.attack.held_by, "note": o.note} for o in outcomes
        ]
        print(json.dumps({"sandbox": sandbox.name, "about": sandbox.about, "attacks": rows}))
    else:
        print(
            f"\n{len(outcomes) - len(escaped)} of {len(outcomes)} held."
            + (f" Escaped: {', '.join(escaped)}." if escaped else "")
        )
    return 1 if escaped else 0


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m gpt_oss.tools.sandbox", description=(__doc__ or "").split(": ", 1)[1]
    )
    parser.add_argument("--sandbox", choices=CHOICES, default="auto", help="default: %(default)s")
    parser.add_argument(
        "--session", action="store_true", help="in a stateful session instead of a fresh interpreter each"
    )
    parser.add_argument("--json", action="store_true", help="for scripts")
    parser.add_argument("--debug", action="store_true", help="show a traceback when something fails")
    return run_command(command, parser.parse_args())


if __name__ == "__main__":
    sys.exit(main())
