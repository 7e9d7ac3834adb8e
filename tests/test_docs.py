"""The documentation matches the program."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from cai_cli.main import COMMANDS
from tests.flags import flags
from tests.tiny import ROOT

DOCS = {path.name: path.read_text() for path in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]}


@pytest.mark.parametrize(("page", "file"), [("page", "docs/commands.md"), ("flags_page", "cai_cli/library_flags.py")])
def test_what_is_written_about_flags_is_generated_from_the_program(page: str, file: str) -> None:
    code = f"import sys; sys.path.insert(0, 'docs'); import generate; sys.stdout.write(generate.{page}())"
    made = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert made == (ROOT / file).read_text(), "run `python docs/generate.py`"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_an_example_and_is_in_the_readme(name: str) -> None:
    section = DOCS["commands.md"].split(f"## cai {name}\n")[1].split("\n## ")[0]
    assert f" cai {name} " in section.split("Example:")[1] if "Example:" in section else "COMMAND" in section
    assert re.search(rf"cai {name}\b", DOCS["README.md"])


def test_links_between_documents_lead_somewhere() -> None:
    for name, text in DOCS.items():
        folder = ROOT if name == "README.md" else ROOT / "docs"
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", text):
            assert (folder / target).exists(), f"{name}: {target}"


def test_make_targets_that_the_readme_names_exist() -> None:
    makefile = "\n".join(path.read_text() for path in (ROOT / "Makefile", *(ROOT / "examples").rglob("*.mk")))
    for target in set(re.findall(r"(?:^|`)make ([a-z-]+)", DOCS["README.md"], re.M)):
        assert re.search(rf"^{target}:", makefile, re.M), target


def test_the_package_works_from_a_wheel_elsewhere(tmp_path_factory: pytest.TempPathFactory) -> None:
    """The default constitution comes with the wheel, and loads in another folder."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(folder), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    [wheel] = folder.glob("*.whl")
    site = folder / "site"
    subprocess.run([sys.executable, "-m", "zipfile", "-e", wheel, site], check=True)
    code = f"import sys; sys.path.insert(0, {str(site)!r}); import cai_cli; from cai_cli.method import constitution as c; "
    code += "print(cai_cli.__file__); print(len(c.load(c.DEFAULT).principles))"
    done = subprocess.run([sys.executable, "-P", "-c", code], cwd=folder, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[0].startswith(str(site))
    assert done.stdout.splitlines()[1] == "16"
    assert (site / "cai_cli" / "py.typed").is_file()
    assert (site / "cai_cli" / "report" / "uplot.LICENSE").is_file()


GROUPS = ("constitution", "eval", "export", "import")


def command_lines() -> list[tuple[str, str]]:
    """(page, words) of every `cai` command in the shell blocks of the pages; of a pipe each command."""
    found = []
    for name, text in DOCS.items():
        blocks = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
        lines = [line.partition(" #")[0] for block in blocks for line in block.replace("\\\n", " ").splitlines()]
        found += [(name, part.strip()) for line in lines for part in line.split("|") if part.strip().startswith("cai ")]
    return found


@pytest.mark.parametrize(("page", "line"), sorted(set(command_lines())))
def test_commands_of_the_pages_have_these_flags(page: str, line: str) -> None:
    line = line.replace("cai plan run ", "cai plan-run ")  # its module
    words = line.removeprefix("cai plan ").removeprefix("cai ").split()  # a plan takes the flags of the command that follows
    command = words[: 2 if words[0] in GROUPS else 1]
    named = {word.partition("=")[0] for word in words if word.startswith("-") and word != "-"}
    if command[0].startswith("-"):
        return  # `cai --version` and the like
    assert named <= flags(command), f"{page}: {line}"
