"""The scripts of examples/cluster, run as far as one machine can: with stand-ins for sbatch and vllm."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from cai_cli.data.ids import read_with_ids
from cai_cli.pipeline.seeds import draw
from tests.conftest import Here
from tests.flags import flags
from tests.processes import CAI, environment
from tests.rows import asks, pair, read_jsonl, write_jsonl
from tests.tiny import EXACT, ROOT

CLUSTER = ROOT / "examples" / "cluster"
SETTINGS = {"CAI_ENGINE": "transformers", "CAI_DETERMINISTIC": "1", "CAI_MAX_TOKENS": "8"}
SBATCH = r"""
import os, re, subprocess, sys
from pathlib import Path
options = [word for word in sys.argv[1:] if word.startswith("-")]
script, *arguments = [word for word in sys.argv[1:] if not word.startswith("-")]
array = re.search(r"^#SBATCH.*--array=(\S+)", Path(script).read_text(), re.M)
first, last = map(int, (os.environ.get("SBATCH_ARRAY_INX", array[1]) if array else "0-0").split("-"))
for task in range(first, last + 1):
    names = {"ID": task, "COUNT": last - first + 1, "MIN": first, "MAX": last, "STEP": 1} if array else {}
    env = {**os.environ, **{f"SLURM_ARRAY_TASK_{name}": str(value) for name, value in names.items()}}
    subprocess.run(["bash", script, *arguments], env=env, check=True)
print("17" if "--parsable" in options else "Submitted batch job 18")
print(*options, file=sys.stderr)
"""
VLLM = r"""
import http.server, signal, sys
class Healthy(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
print(sys.argv, flush=True)
http.server.HTTPServer(("127.0.0.1", int(sys.argv[sys.argv.index("--port") + 1])), Healthy).serve_forever()
"""


def program(folder: Path, name: str, code: str) -> None:
    """An executable Python program."""
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(f"#!{sys.executable}\n{code}")
    path.chmod(0o755)


def run(command: list[str], bin_: Path, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a script with these programs, and `cai` among them."""
    if not (bin_ / "cai").exists():
        program(bin_, "cai", f"import os, sys\nos.execv({CAI[0]!r}, [*{CAI!r}, *sys.argv[1:]])")
    env = {**environment(), **SETTINGS, "PATH": f"{bin_}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT), **variables}
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done


def test_a_slurm_array_and_its_join_make_the_file_of_one_run(here: Here, tiny: str, tmp_path: Path) -> None:
    source, whole = write_jsonl(tmp_path / "in.jsonl", asks(9)), tmp_path / "whole.jsonl"
    program(tmp_path / "bin", "sbatch", SBATCH)
    command = ["sh", str(CLUSTER / "slurm.sh"), source, tiny, "runs/responses"]
    for said in ("2 shards, 9 records", "already done"):  # the same command again continues
        done = run(command, tmp_path / "bin", tmp_path, SBATCH_ARRAY_INX="1-2")
        assert "--dependency=afterok:17" in done.stderr
        assert said in done.stderr
    here("sample", source, "-m", tiny, *EXACT, "-n", 2, "-o", whole)
    assert (tmp_path / "runs" / "responses.jsonl").read_bytes() == whole.read_bytes()


def test_the_commands_of_the_skypilot_task_make_a_shard(tiny: str, tmp_path: Path) -> None:
    task = yaml.safe_load((CLUSTER / "sky.yaml").read_text())
    shutil.copytree(tiny, tmp_path / "model")
    (tmp_path / "results").mkdir()
    node = {"HOME": str(tmp_path), "SKYPILOT_NODE_RANK": "1", "SKYPILOT_NUM_NODES": "2", "CAI_LIMIT": "6"}
    run(["bash", "-ec", task["run"]], tmp_path / "bin", ROOT, **node)
    made = [row["id"] for row in read_jsonl(tmp_path / "results" / "responses-2.jsonl")]
    wanted = [row["id"] for row in read_with_ids(str(ROOT / "examples" / "red-team.jsonl"), 6)]
    assert made == [name for name in wanted if draw("shard", name) % 2 == 1]
    assert (tmp_path / "results" / "responses-2.jsonl.order").exists()  # `cai join` needs it


def test_two_servers_are_started_used_and_stopped(tmp_path: Path) -> None:
    if shutil.which("curl") is None:
        pytest.skip("needs curl")
    program(tmp_path / "bin", "vllm", VLLM)
    program(tmp_path / "bin", "cai", "import json, sys; print(json.dumps(sys.argv[1:]))")
    done = run(["sh", str(CLUSTER / "servers.sh"), "model", "pairs.jsonl", "out.jsonl"], tmp_path / "bin", tmp_path)
    asked = json.loads(done.stdout)
    assert [word for word in asked if word.startswith("http")] == [f"http://127.0.0.1:{port}/v1" for port in (8000, 8001)]
    for number in (0, 1):
        assert "'serve', 'model'" in (tmp_path / f"server-{number}.log").read_text()
    left = subprocess.run(["pgrep", "-f", str(tmp_path / "bin" / "vllm")], capture_output=True, text=True).stdout
    assert left == ""


def wait_for_ray(ray: str, address: str) -> None:
    """Wait until a cluster answers."""
    until = time.monotonic() + 60
    while subprocess.run([ray, "status", f"--address={address}"], env=environment(), capture_output=True).returncode:
        assert time.monotonic() < until


@pytest.mark.soak
def test_a_command_uses_a_ray_cluster_that_is_there(here: Here, needs_ray: None, tiny: str, tmp_path: Path) -> None:
    ray = str(Path(sys.executable).with_name("ray"))
    program(tmp_path / "bin", "ray", f"import os, sys\nos.execv({ray!r}, [{ray!r}, *sys.argv[1:]])")
    pairs, address = write_jsonl(tmp_path / "pairs.jsonl", [pair(i) for i in range(9)]), "127.0.0.1:6391"
    head = [ray, "start", "--head", "--block", "--port=6391", "--num-cpus=2", "--include-dashboard=false"]
    with subprocess.Popen(head, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as cluster:
        try:
            wait_for_ray(ray, address)
            variables = {"CAI_FEW_SHOT": "0", "RAY_ADDRESS": address}
            run(["sh", str(CLUSTER / "ray.sh"), pairs, tiny, "out.jsonl", "2"], tmp_path / "bin", tmp_path, **variables)
        finally:
            cluster.terminate()
    here("label", pairs, "-m", tiny, *EXACT[:-2], "--few-shot", 0, "-o", tmp_path / "whole.jsonl")
    assert (tmp_path / "out.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


@pytest.mark.parametrize("path", sorted(CLUSTER.glob("*.*")), ids=lambda path: path.name)
def test_the_scripts_use_flags_that_commands_have(path: Path) -> None:
    text = path.read_text().replace("\\\n", " ")
    for line in re.findall(r"^[^#\n]*\bcai (\w+ [^\n]*-o\b.*)$", text, re.M):
        words = line.split()
        assert {word for word in words if re.match("--?[a-z]", word)} <= flags(words[:1]), line
    assert len(text.splitlines()) <= 15 or path.suffix == ".md"


def test_shellcheck_finds_nothing() -> None:
    if shutil.which("shellcheck") is None:
        pytest.skip("shellcheck is not installed; on Debian: apt-get install shellcheck")
    scripts = [str(path) for path in sorted(CLUSTER.iterdir()) if path.suffix in (".sh", ".sbatch")]
    done = subprocess.run(["shellcheck", *scripts], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
