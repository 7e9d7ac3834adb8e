"""What `make learn` measures beside scores.

examples/learned.py answers BASE.jsonl RL.jsonl METRICS.jsonl     lengths, refusals, KL, and answers side by side
examples/learned.py likelihood RECORDS.jsonl BASE MODEL           how likely held-out answers are, before and after
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

from cai_cli import jsonl, models
from cai_cli.errors import SetAside
from cai_cli.evaluation.intervals import mean_interval
from cai_cli.tokens import Renderer
from cai_cli.training import data
from cai_cli.training.shaping import is_refusal


def answers(base: str, after: str, metrics: str) -> None:
    """Print what changed in the answers, and the KL of the last steps."""
    pairs = list(zip(jsonl.read(base), jsonl.read(after), strict=True))
    for name, side in (("base", 0), ("rl", 1)):
        texts = [pair[side]["response"] for pair in pairs]
        words = sum(len(text.split()) for text in texts) / len(texts)
        refusals = sum(map(is_refusal, texts)) / len(texts)
        print(f"{name:5} {len(texts)} answers, {words:.1f} words, {refusals:.1%} refusals")
    last = list(jsonl.read(metrics))[-10:]
    print(f"KL to the starting model over the last {len(last)} steps: {sum(line['kl'] for line in last) / len(last):.4f} a token")
    for before, later in pairs[:: max(1, len(pairs) // 4)][:4]:
        print(f"\n{before['prompt'][-1]['content'][:200]!r}")
        for name, record in (("base", before), ("rl", later)):
            print(f"  {name:5} {record['response'][:200]!r}")


@torch.inference_mode()
def losses(folder: str, source: str) -> dict[str, float]:
    """{id: mean negative log likelihood of its answers' tokens, in nats} of every record: all its rounds, each counting alike."""
    renderer = Renderer(models.load_tokenizer(Path(folder)))
    format = renderer.format("auto")
    end = data.turn_end(renderer, format)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    found = {}
    for record in jsonl.read(source):
        rounds = []
        for part in data.conversations(record, "all"):
            try:
                example = data.sft_example(renderer, format, end, *part, models.context_length(Path(folder)))
            except SetAside:
                continue
            out = model(input_ids=torch.tensor([example["input_ids"]]), labels=torch.tensor([example["labels"]]))
            rounds.append(float(out.loss))
        if rounds:
            found[record["id"]] = sum(rounds) / len(rounds)
    return found


def likelihood(source: str, base: str, after: str) -> None:
    """Print the mean loss of both models, and the mean of the differences by record with its interval."""
    before, later = losses(base, source), losses(after, source)
    for name, found in (("before", before), ("after", later)):
        mean, low, high = mean_interval(list(found.values()))
        print(f"{name:7} {len(found)} records: {mean:.3f} nats a token ({low:.3f} to {high:.3f})")
    mean, low, high = mean_interval([before[key] - later[key] for key in before])
    print(f"gained  {mean:+.3f} nats a token ({low:+.3f} to {high:+.3f})")


if __name__ == "__main__":
    {"answers": answers, "likelihood": likelihood}[sys.argv[1]](*sys.argv[2:])
