"""A disk that is full at any page: each file that a command writes fails once, in one sentence, and the command then continues."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import Here
from tests.killing import TRAINERS, Killer, Order, killer
from tests.processes import shell
from tests.rows import asks, preferences, read_jsonl, revisions, rl_prompts, write_jsonl
from tests.test_kills import STEPS, commands, records
from tests.tiny import TRANSFORMERS

PAGE = os.sysconf("SC_PAGE_SIZE")


class Disk:
    """A small file system. `leave` fills it so that a number of pages is free."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.filler = folder, folder / "filler"

    def leave(self, pages: int) -> None:
        self.filler.unlink(missing_ok=True)
        free = os.statvfs(self.folder).f_bavail - pages
        with self.filler.open("wb") as stream:
            stream.write(bytes(max(0, free) * PAGE))

    def empty(self) -> None:
        for path in self.folder.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"a file system of its own cannot be mounted here, which needs root: {done.stderr.strip()}")
    yield Disk(folder)
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture(scope="module")
def kill() -> Iterator[Killer]:
    with killer(TEST_WINDOW="2") as found:  # so that records wait on disk for one before them
        yield found


def filled(run: Killer, disk: Disk, commands: list[list[str]], pages: int, log: Path) -> list[str]:
    """Run the commands on a disk with so few pages, and again with space. Returns the files that were there when it was full."""
    disk.leave(pages)
    full: list[str] = []
    for command in commands:
        if (end := run(Order(command, str(log)))).code:
            said = log.read_text().strip().splitlines()
            assert end.code == 1, said
            assert said[-1].startswith("cai: "), said
            assert "the disk is full" in said[-1], said
            assert "Traceback" not in log.read_text(), said
            full += [path.name for path in disk.folder.iterdir() if path.name != "filler" and path.stat().st_size]
            full += ["(nothing)"]
            disk.filler.unlink(missing_ok=True)
            assert run(Order(command, str(log))).code == 0, log.read_text()
    return full


def files(folder: Path) -> dict[str, bytes]:
    """The files of a folder but the manifests, which hold times, and what their journals say without the seconds."""
    paths = [path for path in folder.rglob("*") if path.is_file() and path.name != "filler" and "manifest" not in path.name]
    found = {str(path.relative_to(folder)): path.read_bytes() for path in paths}
    return {name: b"\n".join(line.rpartition(b",")[0] for line in data.splitlines()) if name.endswith(".order") else data
            for name, data in found.items()}  # fmt: skip


@pytest.mark.parametrize("step", ["sample", *(pytest.param(step, marks=pytest.mark.soak) for step in STEPS if step != "sample")])
def test_a_step_whose_disk_fills_up_at_any_page_continues(
    step: str, kill: Killer, disk: Disk, tiny: str, tiny_pm: str, tmp_path: Path
) -> None:
    """OUT.partial, its journal and fingerprint, the records that wait, the skipped ones, the manifest, OUT.order, `cai join`."""
    rows = asks(16)
    if step != "prompts":
        rows[2]["prompt"] = rows[9]["prompt"] = "q7 " * 1500  # skipped, because it has more than 4,096 tokens
    source, out = write_jsonl(tmp_path / "in.jsonl", records(step, rows)), disk.folder / "out.jsonl"
    [command] = commands(step, "transformers", source, tiny, tiny_pm, out, ("--shard", "1/1") if STEPS[step].shards else ())
    whole = [command, *([["join", str(out), "-o", str(disk.folder / "joined.jsonl")]] if STEPS[step].shards else [])]
    assert not filled(kill, disk, whole, 16_000, tmp_path / "log")
    expected, pages, there = files(disk.folder), 0, set[str]()
    while True:
        disk.empty()
        full = filled(kill, disk, whole, pages, tmp_path / "log")
        assert files(disk.folder) == expected
        if not full:
            break
        pages, there = pages + 1, there | set(full)
    print(f"\n{step}: full at each of {pages} pages, with {', '.join(sorted(there))}")
    assert pages > 3
    assert "out.jsonl.partial.ahead" in there or step != "sample --turns"


WITHOUT_A_MODEL = [
    "split LABELS --fraction 0.5 -o OUT --rest OUT.rest",
    "combine a=GRADES b=GRADES -o OUT",
    "import preferences LABELS -o OUT",
    "import text TEXT -o OUT",
    "export preferences LABELS -o OUT",
    "export sft REVISED -o OUT",
    "export dataset OUT LABELS --license mit",
    "constitution convert default -o OUT",
    "eval refusal a=REVISED -o OUT",
]


@pytest.mark.parametrize(
    "command", ["mix LABELS -o OUT", *(pytest.param(each, marks=pytest.mark.soak) for each in WITHOUT_A_MODEL)]
)
def test_a_command_without_a_model_whose_disk_fills_up_at_any_page_runs_again(
    command: str, kill: Killer, disk: Disk, tmp_path: Path
) -> None:
    (tmp_path / "text").write_text("".join(f"How do I do {i}?\n" for i in range(80)))
    paths = {
        "LABELS": write_jsonl(tmp_path / "labels.jsonl", preferences(60)),
        "GRADES": write_jsonl(
            tmp_path / "grades.jsonl", [{**row, "grades": {"good": {"yes": 0.9, "no": 0.1}}} for row in revisions(30)]
        ),
        "REVISED": write_jsonl(tmp_path / "revised.jsonl", revisions(60)),
        "TEXT": str(tmp_path / "text"),
        "OUT": str(disk.folder / "out"),
    }
    for name, path in paths.items():
        command = command.replace(name, path)
    assert not filled(kill, disk, [command.split()], 16_000, tmp_path / "log")
    expected, failures = files(disk.folder), 0
    assert expected
    while True:
        disk.empty()
        full = filled(kill, disk, [command.split()], failures, tmp_path / "log")
        assert files(disk.folder) == expected
        if not full:
            break
        failures += 1
    assert failures


def test_a_full_device_is_one_sentence(here: Here, prompts: str, tmp_path: Path) -> None:
    """What commands print, and what they write to a device, which stays one."""
    full = tmp_path / "full"
    full.symlink_to("/dev/full")
    here("mix", prompts, "-o", tmp_path / "mixed.jsonl")
    for words in (["report", str(tmp_path)], ["mix", prompts]):
        assert f"cai: {full}: the disk is full; " in here(*words, "-o", full, code=1).err
    for name in ("show", "mix"):
        assert (
            "cai: standard output: the disk is full; free some space" in shell(f"cai {name} {prompts} > /dev/full", code=1).stderr
        )
    assert full.is_symlink()


def test_without_space_for_its_cache_a_judge_goes_on(disk: Disk, tiny: str, tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", [{**row, "responses": ["Yes.", "No."]} for row in asks(24)])
    with killer(CAI_NO_CACHE="", XDG_CACHE_HOME=str(disk.folder)) as run:
        for pages in (0, 4):
            disk.empty()
            disk.leave(pages)
            out, log = tmp_path / f"{pages}.jsonl", tmp_path / "log"
            command = ["label", source, "-m", tiny, *TRANSFORMERS, "--few-shot", "0", "-o", str(out)]
            assert run(Order(command, str(log))).code == 0, log.read_text()
            assert "so answers are not kept" in log.read_text()
            assert len(read_jsonl(out)) == 24


@pytest.mark.soak
@pytest.mark.parametrize("step", ["train-sft", "train-pm", "train-dpo", "rl"])
def test_a_trainer_whose_disk_fills_up_continues(step: str, disk: Disk, tiny: str, tiny_pm: str, tmp_path: Path) -> None:
    """Checkpoints, the steps' lines, the lists of records, the model, its card, the manifest, and the prepared examples."""
    rows = {"train-sft": revisions(16), "rl": rl_prompts(8)}.get(step, preferences())
    source, out = write_jsonl(tmp_path / "in.jsonl", rows), disk.folder / "out"
    command = [step, source, "-m", tiny, "--steps", "6", "--save-every", "2", "--dtype", "float32", "--batch-size", "4"]
    command += ["--pm", tiny_pm, "--max-tokens", "8", "--num-generations", "4"] if step == "rl" else []
    command += ["-o", str(out)]
    with killer(*TRAINERS, XDG_CACHE_HOME=str(disk.folder / "cache")) as run:
        assert not filled(run, disk, [command], 16_000, tmp_path / "log")
        weights = (out / "model.safetensors").read_bytes()
        used = sum(path.stat().st_blocks * 512 // PAGE for path in disk.folder.rglob("*") if path != disk.filler)
        failures = 0
        for part in range(16):
            disk.empty()
            failures += bool(filled(run, disk, [command], part * used // 4, tmp_path / "log"))
            assert (out / "model.safetensors").read_bytes() == weights
    print(f"\n{step}: full {failures} times")
    assert failures > 3
