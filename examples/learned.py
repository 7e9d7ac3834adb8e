"""The measurements of `make learn` other than scores.

examples/learned.py answers BASE.jsonl RL.jsonl METRICS.jsonl     lengths, refusals, KL, and some answers of both models
examples/learned.py likelihood RECORDS.jsonl BASE MODEL           the loss on held-out answers, before and after training
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

from cai_cli.data import jsonl
from cai_cli.engines import models
from cai_cli.errors import Skipped
from cai_cli.evaluation.intervals import mean_interval
from cai_cli.method.tokens import Renderer
from cai_cli.training import examples
from cai_cli.training.shaping import is_refusal


def answers(base: str, after: str, metrics: str) -> None:
    """Print how the answers changed, and the mean KL of the last steps."""
    pairs = list(zip(jsonl.read(base), jsonl.read(after), strict=True))
    for name, side in (("base", 0), ("rl", 1)):
        texts = [pair[side]["response"] for pair in pairs]
        words = sum(len(text.split()) for text in texts) / len(texts)
        refusals = sum(map(is_refusal, texts)) / len(texts)
        print(f"{name:5} {len(texts)} answers, {words:.1f} words, {refusals:.1%} refusals")
    last = list(jsonl.read(metrics))[-10:]
    kl = sum(line["kl"] for line in last) / len(last)
    print(f"KL to the starting model over the last {len(last)} steps: {kl:.4f} per token")
    for before, later in pairs[:: max(1, len(pairs) // 4)][:4]:
        print(f"\n{before['prompt'][-1]['content'][:200]!r}")
        for name, record in (("base", before), ("rl", later)):
            print(f"  {name:5} {record['response'][:200]!r}")


@torch.inference_mode()
def losses(folder: str, source: str) -> dict[str, float]:
    """{id: loss} of every record: the mean negative log-likelihood per token, in nats. Its rounds have equal weight."""
    renderer = Renderer(models.load_tokenizer(Path(folder)))
    format = renderer.format("auto")
    maker = examples.AnswerMaker(renderer, format, examples.turn_end(renderer, format))
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    found = {}
    for record in jsonl.read(source):
        rounds = []
        for answer in examples.answers(record, "all"):
            try:
                example = examples.sft_example(maker, answer, models.context_length(Path(folder)), keep_cut=True)
            except Skipped:
                continue
            out = model(input_ids=torch.tensor([example["input_ids"]]), labels=torch.tensor([example["labels"]]))
            rounds.append(float(out.loss))
        if rounds:
            found[record["id"]] = sum(rounds) / len(rounds)
    return found


def likelihood(source: str, base: str, after: str) -> None:
    """Print the mean loss of both models, and the mean difference per record, with their intervals."""
    before, later = losses(base, source), losses(after, source)
    for name, found in (("before", before), ("after", later)):
        mean, low, high = mean_interval(list(found.values()))
        print(f"{name:7} {len(found)} records: {mean:.3f} nats per token ({low:.3f} to {high:.3f})")
    mean, low, high = mean_interval([before[key] - later[key] for key in before])
    print(f"gained  {mean:+.3f} nats per token ({low:+.3f} to {high:+.3f})")


if __name__ == "__main__":
    {"answers": answers, "likelihood": likelihood}[sys.argv[1]](*sys.argv[2:])
