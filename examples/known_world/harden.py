"""Turn soft labels into hard ones: the preferred answer gets probability 1, and ties are left out.

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
