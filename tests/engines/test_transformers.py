"""The transformers engine against plain transformers: same tokens, same probabilities, in any batch."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from cai_cli.engines import attention, models
from cai_cli.engines import cache as kv
from cai_cli.engines.base import Request
from cai_cli.engines.transformers import TransformersEngine, sample
from tests.engine_feed import by_number, feed


def requests(n: int, **settings: Any) -> list[Request]:
    """Prompts of random tokens (not control tokens) and random lengths."""
    draw = random.Random(1)
    rows = [[draw.randint(10, 380) for _ in range(draw.randint(1, 60))] for _ in range(n)]
    return [Request("generate", ids, "", seed=1000 + i, **{"max_tokens": 12, **settings}) for i, ids in enumerate(rows)]


@pytest.fixture(scope="module")
def plain(tiny: str) -> LlamaForCausalLM:
    """The tiny model in plain transformers."""
    return LlamaForCausalLM.from_pretrained(tiny, dtype=torch.float32).eval()


def engine_of(tiny: str, batch_size: int = 4, deterministic: bool = False) -> TransformersEngine:
    return TransformersEngine(Path(tiny), models.load_tokenizer(Path(tiny)), torch.float32, batch_size, deterministic)


def count_rows(engine: TransformersEngine, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of rows of each pass from now on."""
    forward, computed = engine.model.forward, list[int]()

    def counted(*args: Any, **more: Any) -> Any:
        computed.append(len(more["input_ids"]))
        return forward(*args, **more)

    monkeypatch.setattr(engine.model, "forward", counted)
    return computed


@pytest.mark.parametrize("way", ["shared", "copied", "a model that changes its keys"])
def test_a_shared_prefix_is_computed_once_and_changes_nothing(way: str, tiny: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two prefixes in turn, in batches of four: the same tokens, probabilities to 1e-4, and each computed once.

    All rows share a prefix's keys and values, unless the model computes something else then, which is tried once.
    """
    engine = engine_of(tiny)
    if way == "copied":
        engine.shares = False
    elif way != "shared":
        monkeypatch.setattr(kv.SharedLayer, "update", kv.RoomyLayer.update)  # the attention gets keys without the prefix
    prefixes = [[draw.randint(10, 380) for _ in range(50)] for draw in (random.Random(7), random.Random(8))]
    plain = [Request("generate", prefixes[i % 2] + r.ids, "", r.seed, 12) for i, r in enumerate(requests(13))]
    shared = [replace(r, shared=50) for r in plain]
    want = by_number(engine.run(feed(plain)))
    forward, widths = engine.model.forward, list[tuple[int, ...]]()

    def counted(*args: Any, **more: Any) -> Any:
        widths.append(tuple(more["input_ids"].shape))
        return forward(*args, **more)

    monkeypatch.setattr(engine.model, "forward", counted)
    got = by_number(engine.run(feed(shared)))
    assert [replace(done, reused_tokens=0) for done in got] == want
    assert sorted(done.reused_tokens for done in got) == [0] * 2 + [50] * 11
    assert widths.count((1, 50)) == 2
    assert max(columns for _, columns in widths) <= 60  # no row is computed together with its prefix
    assert engine.shares is (way == "shared")
    options = {"A": 65, "B": 66}
    ours, theirs = (
        by_number(engine.run(feed([replace(r, kind="choose", options=options) for r in rows]))) for rows in (shared, plain)
    )
    for a, b in zip(ours, theirs, strict=True):
        assert a.logprobs == pytest.approx(b.logprobs, abs=1e-4)


@pytest.mark.parametrize("before", [0, 90])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("columns", [1, 3, 150])
def test_attention_is_torchs(columns: int, masked: bool, before: int) -> None:
    """In float32 to 1e-5: with groups of heads, earlier columns in the cache, hidden columns, and a prefix that rows share."""
    torch.manual_seed(0)
    rows, heads, shared, size, cached = 3, 6, 2, 16, 20 if masked else 0
    query, key, value = (
        torch.randn(rows, n, c, size) for n, c in ((heads, columns), (shared, cached + columns), (shared, cached + columns))
    )
    first = tuple(torch.randn(1, shared, before, size) for _ in range(2))
    causal = torch.ones(columns, cached + columns, dtype=torch.bool).tril(cached)[None, None].expand(rows, 1, -1, -1).clone()
    if masked:
        causal[1, :, :, :7] = False
    if before:
        key.before = first  # type: ignore[attr-defined]
    module: Any = SimpleNamespace(num_key_value_groups=heads // shared, is_causal=True, training=False)
    assert attention.MANY <= 150
    given: Any = causal if masked or columns == 1 else None
    found = (
        attention.attend(module, query, key, value, given)[0]
        if before or columns == 1
        else attention._columns(query, key, value, given, size**-0.5, None)
    )
    keys, values = (
        torch.cat([f.expand(rows, -1, -1, -1), own], 2).repeat_interleave(heads // shared, 1)
        for f, own in zip(first, (key, value), strict=True)
    )
    seen = torch.nn.functional.pad(causal, (before, 0), value=True)
    expected = torch.nn.functional.scaled_dot_product_attention(query, keys, values, attn_mask=seen).transpose(1, 2)
    assert (found - expected).abs().max() < 1e-5


@pytest.mark.parametrize("slow", [False, True], ids=["all at once", "one by one"])
def test_greedy_decoding_equals_transformers_own(tiny: str, plain: LlamaForCausalLM, slow: bool) -> None:
    """Thirteen prompts through a batch of four, so that rows leave, join and are padded."""
    engine = engine_of(tiny)
    entries = requests(13, temperature=0.0)
    for request, done in zip(entries, by_number(engine.run(feed(entries, slow))), strict=True):
        want = plain.generate(torch.tensor([request.ids]), max_new_tokens=12, do_sample=False)[0, len(request.ids) :].tolist()
        assert done.completion_tokens == len(want)
        assert done.text == engine.tokenizer.decode(want, skip_special_tokens=True)
        assert done.finish == ("stop" if want[-1] in engine.end_tokens else "length")


@pytest.mark.usefixtures("torch_settings")
def test_draws_of_a_request_depend_on_no_other_request(tiny: str) -> None:
    entries = requests(10, temperature=1.0)
    alone = [by_number(engine_of(tiny, 1).run(feed([entry])))[0].text for entry in entries]
    together = [done.text for done in by_number(engine_of(tiny, 4).run(feed(entries)))]
    assert sum(a == b for a, b in zip(alone, together, strict=True)) >= 9  # rounding may flip a draw at a boundary
    deterministic = engine_of(tiny, 4, deterministic=True)
    assert torch.get_num_threads() == 1  # the number that was set, not one per core
    assert [d.text for d in by_number(deterministic.run(feed(entries)))] == alone


def test_draws_follow_the_models_probabilities() -> None:
    """Frequencies over 20,000 seeds, against the probabilities, with temperature and top-p."""
    logits = torch.tensor([2.0, 1.0, 0.0, -1.0, -9.0])
    n = 20_000
    for temperature, top_p in ((1.0, 1.0), (0.5, 1.0), (1.0, 0.8)):
        rows = [Request("generate", [], "", seed=seed, temperature=temperature, top_p=top_p) for seed in range(n)]
        got = Counter(sample(logits.expand(n, -1), rows, [0] * n))
        p = torch.softmax(logits / temperature, -1)
        if top_p < 1:
            p[2:] = 0  # the two likeliest have 0.64 + 0.24 > 0.8
            p /= p.sum()
        for token, want in enumerate(p.tolist()):
            assert got[token] / n == pytest.approx(want, abs=4 * (want * (1 - want) / n) ** 0.5 + 1e-9)


def test_positions_draw_independently() -> None:
    row = [Request("generate", [], "", seed=7)]
    flat = torch.zeros(1, 1000)
    assert len({sample(flat, row, [i])[0] for i in range(50)}) > 40


def test_completions_end_at_stop_strings_which_are_cut_off(tiny: str) -> None:
    engine = engine_of(tiny)
    [free] = by_number(engine.run(feed(requests(1, temperature=0.0, max_tokens=40))))
    stop = free.text[10:13]
    [done] = by_number(engine.run(feed(requests(1, temperature=0.0, max_tokens=40, stop=(stop,)))))
    assert done.finish == "stop"
    assert done.text == free.text[: free.text.index(stop)]
    assert done.completion_tokens < free.completion_tokens


def test_score_gives_the_log_likelihood_of_a_plain_forward_pass(tiny: str, plain: LlamaForCausalLM) -> None:
    """Answers of 1 to 20 tokens, after prompts of other lengths, in batches of four."""
    entries = [Request("score", r.ids + [30 + i] * (i % 20 + 1), "", answer=i % 20 + 1) for i, r in enumerate(requests(23))]
    for request, found in zip(entries, by_number(engine_of(tiny).run(feed(entries, slow=True))), strict=True):
        with torch.no_grad():
            logprobs = torch.log_softmax(plain(torch.tensor([request.ids])).logits[0], -1)
        places = range(len(request.ids) - request.answer, len(request.ids))
        assert found.score == pytest.approx(sum(float(logprobs[i - 1, request.ids[i]]) for i in places), abs=1e-3)
        assert found.prompt_tokens == len(request.ids)


def test_choose_gives_the_log_probabilities_of_a_plain_forward_pass(tiny: str, plain: LlamaForCausalLM) -> None:
    options = {"A": 30, "B": 31}
    entries = [Request("choose", r.ids, "", options=options) for r in requests(9)]
    for request, choice in zip(entries, by_number(engine_of(tiny).run(feed(entries))), strict=True):
        with torch.no_grad():
            want = torch.log_softmax(plain(torch.tensor([request.ids])).logits[0, -1], -1)
        assert choice.logprobs == pytest.approx({name: float(want[token]) for name, token in options.items()}, abs=1e-4)


@pytest.mark.parametrize("shared", [0, 50], ids=["no examples", "examples"])
def test_two_questions_that_begin_alike_are_one_row(
    shared: int, tiny: str, plain: LlamaForCausalLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The orders of a pair, beside questions without a partner: fewer rows are computed, and the probabilities are the same."""
    draw = random.Random(3)

    def some(count: int) -> list[int]:
        return [draw.randint(10, 380) for _ in range(count)]

    options, examples = {"A": 30, "B": 31}, some(shared)
    asked = [(some(20 + i), some(9 + i), some(8)) for i in range(6)]
    rows = [examples + begin + x + y for begin, a, b in asked for x, y in ((a, b), (b, a))] + [examples + some(25)]
    entries = [Request("choose", ids, "", options=options, shared=shared) for ids in rows]
    engine = engine_of(tiny, batch_size=16)
    computed = count_rows(engine, monkeypatch)
    found = by_number(engine.run(feed(entries)))
    for ids, choice in zip(rows, found, strict=True):
        with torch.no_grad():
            want = torch.log_softmax(plain(torch.tensor([ids])).logits[0, -1], -1)
        assert choice.logprobs == pytest.approx({name: float(want[token]) for name, token in options.items()}, abs=1e-4)
    assert max(computed) == len(asked) + 1
    saved = sum(choice.reused_tokens for choice in found) - shared * (len(rows) - 1)
    assert 0 <= saved - sum(len(begin) for begin, *_ in asked) < 4  # the answers may begin alike too


def test_a_batch_has_as_many_rows_as_fit_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine's own GPU does not matter: a model of 8 billion parameters on three cards, and any model on a CPU."""
    config = LlamaConfig(
        hidden_size=4096, num_hidden_layers=32, num_attention_heads=32, num_key_value_heads=8, max_position_embeddings=8192
    )
    free = 0

    def model(device: str) -> Any:
        return SimpleNamespace(device=torch.device(device), dtype=torch.bfloat16, config=config)

    def rows(gib: int) -> int:
        nonlocal free
        free = gib * 2**30
        return kv.fitting_rows(model("cuda"))

    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (free, 2 * free))
    # a token has 2 x 32 layers x 8 heads x 128 numbers of two bytes: 128 KiB; a row of 2,048 tokens 256 MiB
    assert (rows(8), rows(60), rows(1000), rows(0), kv.fitting_rows(model("cpu"))) == (16, 120, 512, 1, 32)


@pytest.mark.parametrize("shared", [0, 40], ids=["no examples", "examples"])
def test_the_samples_of_a_record_compute_its_prompt_once(shared: int, tiny: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each draws what it draws alone."""
    draw = random.Random(5)
    prompts = [[draw.randint(10, 380) for _ in range(shared + 12 + i)] for i in range(3)]
    prompts = [prompts[0][:shared] + ids[shared:] for ids in prompts]
    entries = [
        Request("generate", ids, "", seed=10 * n + i, max_tokens=6 + i, temperature=1.0, shared=shared)
        for n, ids in enumerate(prompts)
        for i in range(4)
    ]
    alone = [by_number(engine_of(tiny, batch_size=1).run(feed([entry])))[0] for entry in entries]
    engine = engine_of(tiny, batch_size=16)
    computed = count_rows(engine, monkeypatch)
    found = by_number(engine.run(feed(entries)))
    assert [each.tokens for each in found] == [each.tokens for each in alone]
    assert computed[: 1 + bool(shared)] == ([1] if shared else []) + [3]
    assert sum(each.reused_tokens for each in found) == sum(3 * len(ids) for ids in prompts) + 2 * shared
