"""Write docs/commands.md: every command's help, as the program prints it.

python docs/generate.py          tests/test_docs.py checks that the page is what this would write
"""

from __future__ import annotations

import io
import os
import re
from contextlib import redirect_stdout
from pathlib import Path

os.environ |= {"COLUMNS": "110", "TERMINAL_WIDTH": "110", "NO_COLOR": "1", "TERM": "dumb"}

from cai_cli.main import COMMANDS, app

INTRODUCTION = """# Commands

Every command's help, written by `python docs/generate.py`. The same flag means the same everywhere.
"""
SUBCOMMANDS = {
    "constitution": ["list", "show", "check", "convert", "diff", "infer"],
    "eval": ["scores", "compare", "refusal", "rl", "choice", "figures", "judges"],
    "export": ["sft", "preferences", "inspect", "dataset"],
    "plan": ["run"],
    "import": ["hh-rlhf", "preferences", "red-team-attempts", "bench", "messages", "csv", "tsv", "text", "dataset"],
}


def help_of(*words: str) -> str:
    """What `cai WORDS --help` prints, without trailing blanks."""
    out = io.StringIO()
    with redirect_stdout(out):
        app([*words, "--help"], prog_name="cai", standalone_mode=False)
    return re.sub(r"[ \t]+\n", "\n", out.getvalue()).strip("\n")


def page() -> str:
    """The whole page."""
    names = [(name, *more) for name in COMMANDS for more in [(), *((sub,) for sub in SUBCOMMANDS.get(name, []))]]
    parts = [f"## cai {' '.join(words)}\n\n```text\n{help_of(*words)}\n```\n" for words in names]
    return "\n".join([INTRODUCTION, f"```text\n{help_of()}\n```\n", *parts])


if __name__ == "__main__":
    Path(__file__).with_name("commands.md").write_text(page())
