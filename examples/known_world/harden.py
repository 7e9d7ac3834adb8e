"""Hard labels of soft ones: each preference's better answer as certainly better.

python examples/known_world/harden.py preferences.jsonl hard.jsonl
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

if __name__ == "__main__":
    source, target = map(Path, sys.argv[1:])
    rows = [json.loads(line) for line in source.read_text().splitlines()]
    target.write_text("".join(json.dumps({**row, "p_chosen": 1.0}) + "\n" for row in rows if row["p_chosen"] != 0.5))
