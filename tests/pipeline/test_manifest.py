"""The manifest beside each output."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path

from tests.conftest import Here
from tests.rows import read_jsonl
from tests.tiny import EXACT


def test_the_manifest_traces_the_output(here: Here, prompts: str, tiny: str, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    here("sample", prompts, "-m", tiny, *EXACT, "--seed", 3, "-o", out)
    manifest = json.loads((tmp_path / "out.jsonl.manifest.json").read_text())
    assert manifest["output"]["sha256"] == sha256(out.read_bytes()).hexdigest()
    assert manifest["inputs"] == [{"path": prompts, "sha256": sha256(Path(prompts).read_bytes()).hexdigest()}]
    assert manifest["model"]["name"] == tiny
    assert len(manifest["model"]["sha256"]) == 64
    assert manifest["seed"] == 3
    assert manifest["command"][:2] == ["cai", "sample"]
    counts = manifest["counts"]
    assert (counts["records_in"], counts["records_out"], counts["skipped"]) == (12, 12, 0)
    assert counts["completion_tokens"] == sum(row["meta"]["response"]["completion_tokens"] for row in read_jsonl(out))
    assert not list(tmp_path.glob("*.partial*"))
