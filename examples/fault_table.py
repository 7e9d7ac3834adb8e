"""A Markdown table of what was flagged and stripped in files of revisions: a column a file, shares of their rounds.

python examples/fault_table.py runs/faults/*-examples.jsonl
"""

import sys
from collections import Counter
from pathlib import Path

from cai_cli.commands.stats import collect
from cai_cli.records import read_with_ids

stats = {Path(path).stem: collect(read_with_ids(path)) for path in sys.argv[1:]}
print("| | " + " | ".join(stats) + " |")
print("|---|" + "---|" * len(stats))
print("| rounds | " + " | ".join(str(s.rounds.total()) for s in stats.values()) + " |")
total: Counter[str] = Counter()
for s in stats.values():
    total.update({flag: found.total() for flag, found in s.flags.items()})
for flag in sorted(total):
    shares = (s.flags.get(flag, Counter()).total() / s.rounds.total() for s in stats.values())
    print(f"| {flag} | " + " | ".join(f"{share:.1%}" for share in shares) + " |")
