"""`cai report`: the table of the steps, the page in a real browser, --serve and --markdown."""

from __future__ import annotations

import json
import re
import shutil
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from cai_cli.report import page, run
from cai_cli.report.records import collect
from tests.browser import opened
from tests.conftest import Here, in_process
from tests.processes import start
from tests.rows import asks, read_jsonl, write_jsonl
from tests.tiny import ROOT, TRANSFORMERS

SCRIPT = "</script><script>window.ran = 1</script><img src=x onerror='window.ran = 2'>"
HOSTILE = [f"{SCRIPT}\u2028\u2029 a\u202eb <!-- {{{{ 1 }}}} $x^2$", "<b>bold</b> &amp; \\u003c ]]> ${window.ran = 3}"]


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, tiny: str, tiny_pm: str) -> Path:
    """A run of tiny models whose prompts, ids, answers and principles hold HTML and scripts."""

    def cai(*args: object) -> None:
        assert in_process(*args) == 0

    folder = tmp_path_factory.mktemp("run") / "run"
    folder.mkdir()
    (folder / "mine.yaml").write_text(
        "name: mine\nversion: 1\nprinciples:\n"
        + "".join(
            f"- id: {json.dumps(name)}\n  critique: {json.dumps(HOSTILE[0])}\n  revision: Rewrite it.\n  compare: {json.dumps(HOSTILE[1])}\n"
            for name in (f"one {SCRIPT}", "two")
        )
    )
    rows = [
        {
            "id": f"{SCRIPT}{i}" if i == 0 else f"r{i}",
            "kind": f"<i>{i % 2}</i>",
            "prompt": f"{HOSTILE[i % 2]} {i}",
            "response": f"Sorry, {HOSTILE[i % 2]}",
        }
        for i in range(6)
    ]
    given = write_jsonl(folder.parent / "given.jsonl", rows)
    quick = ("-m", tiny, *TRANSFORMERS, "--max-tokens", 6, "--temperature", 1)
    mine = ("-c", folder / "mine.yaml", *quick)
    cai("revise", given, "--from-response", "--rounds", 2, "--few-shot", 0, *mine, "-o", folder / "revisions.jsonl")
    cai("score", folder / "revisions.jsonl", "-m", tiny_pm, "-o", folder / "scored.jsonl")
    cai("grade", folder / "scored.jsonl", "-r", "refusal", "-m", tiny, *TRANSFORMERS, "-o", folder / "graded.jsonl")
    cai("sample", given, "--resample", "-n", 2, *quick, "-o", folder / "pairs.jsonl")
    cai("label", folder / "pairs.jsonl", "--few-shot", 0, "--cot", "--keep-cut", *mine, "-o", folder / "labels.jsonl")
    cai("train-sft", folder / "revisions.jsonl", "-m", tiny, "--steps", 3, "--keep-cut", "-o", folder / "sft")
    cai(
        "eval",
        "compare",
        f"a={given}",
        f"b={folder / 'graded.jsonl'}",
        "-m",
        tiny,
        *TRANSFORMERS,
        "-o",
        folder / "compared.jsonl",
    )
    cai("report", folder)
    return folder


def test_the_terminal_shows_the_steps(here: Here, finished: Path, tmp_path: Path) -> None:
    done = here("report", finished, "-o", tmp_path / "page.html")
    lines = done.out.splitlines()
    assert lines[1].split()[:4] == ["revisions.jsonl", "revise", "6", "6"]
    assert lines[-1].split()[0] == "all"
    assert f"wrote {tmp_path / 'page.html'}" in done.err
    assert "has no manifest of a step" in here("report", ROOT / "examples", code=2).err
    assert "no such folder" in here("report", tmp_path / "none", code=2).err
    here("report", finished, "-o", tmp_path / "new" / "page.html")
    assert (tmp_path / "new" / "page.html").is_file()


def test_texts_of_records_stay_texts(browser: Any, finished: Path) -> None:
    with opened(browser, finished / "report.html") as shown:
        shown.get_by_role("button", name=SCRIPT).click()
        article = shown.locator("#record").inner_text()
        assert HOSTILE[0].partition("\u2028")[0] in article  # of the prompt
        assert "a\\u202eb" in article  # a character that turns the direction of text is spelled out, as in `cai show`
        shown.get_by_label("Principle", exact=True).select_option(f"one {SCRIPT}")
        assert SCRIPT in shown.locator("#filters").inner_text()
        assert shown.evaluate("window.ran") is None
        assert shown.locator("article img, article script, #list img").count() == 0
        assert shown.errors == []
        assert [url for url in shown.requests if not url.startswith("file:")] == []


def test_a_record_is_shown_with_all_that_was_made_from_it(browser: Any, finished: Path) -> None:
    with opened(browser, finished / "report.html") as shown:
        shown.get_by_role("button", name="r1", exact=True).click()
        text = shown.locator("#record").inner_text()
        [graded] = [row for row in read_jsonl(finished / "graded.jsonl") if row["id"] == "r1"]
        [label] = [row for row in read_jsonl(finished / "labels.jsonl") if row["source_id"] == "r1"]
        [compared] = [row for row in read_jsonl(finished / "compared.jsonl") if row["source_id"] == "r1"]
        assert f"score {graded['scores']['rounds'][-1]:.3f}" in text
        assert "Round 2" in text
        assert f"by order: ab {label['label']['orders']['ab']:.3f}, ba {label['label']['orders']['ba']:.3f}" in text
        assert f"helpful: p of the first answer {compared['comparisons']['helpful']['p_first']:.3f}" in text
        assert "The judge's reasoning by" in text
        assert "first words" in text
        way = "graded.jsonl:2 (cai grade) ← scored.jsonl:2 (cai score) ← revisions.jsonl:2 (cai revise) ← "
        assert way in text
        assert re.search(re.escape(way) + r"\S*given\.jsonl:2", text)


def test_revisions_show_the_words_that_they_add_and_remove(browser: Any, tmp_path: Path, here: Here, tiny_pm: str) -> None:
    rounds = [{"principle": "x", "critique": "c", "revision": "The old dog sleeps in a new house."}]
    rows = [{"id": "a", "prompt": "p", "response": "The old cat sleeps in a house.", "rounds": rounds}]
    here("score", write_jsonl(tmp_path / "in.jsonl", rows), "-m", tiny_pm, "-o", tmp_path / "scored.jsonl")
    here("report", tmp_path)
    with opened(browser, tmp_path / "report.html") as shown:
        shown.get_by_role("button", name="a", exact=True).click()
        assert shown.locator("#record del").all_inner_texts() == ["cat"]
        assert [text.strip() for text in shown.locator("#record ins").all_inner_texts()] == ["dog", "new"]


def test_filters_and_orders(browser: Any, finished: Path) -> None:
    graded = read_jsonl(finished / "graded.jsonl")
    with opened(browser, finished / "report.html") as shown:
        found = lambda: shown.locator("#count").inner_text().split()[0]  # noqa: E731
        names = lambda: shown.locator("#list button").all_inner_texts()  # noqa: E731
        assert found() == "6"
        shown.get_by_label("Kind", exact=True).select_option("<i>1</i>")
        assert names() == ["r1", "r3", "r5"]
        shown.get_by_role("button", name="Clear").click()
        shown.get_by_text("6 of 6 records").wait_for()
        shown.get_by_label("Search", exact=True).fill("BOLD</b> &amp; \\u003c ]]> ${window.ran = 3} 3")
        assert names() == ["r3"]
        assert "search=BOLD" in shown.url
        shown.reload()  # the address keeps the filters
        shown.locator("html[data-opened]").wait_for(state="attached")
        assert names() == ["r3"]
        shown.get_by_label("Search", exact=True).fill("")
        shown.get_by_label("Grade", exact=True).select_option("refusal: full-refusal")
        least = sorted(row["grades"]["refusal"]["full-refusal"] for row in graded)[3]
        shown.get_by_label("Grade at least", exact=True).fill(str(least))
        assert found() == "3"
        shown.get_by_label("Grade", exact=True).select_option("")
        shown.get_by_label("Order", exact=True).select_option("score")
        shown.get_by_label("Direction", exact=True).select_option("falling")
        scores = {row["id"]: row["scores"]["rounds"][-1] for row in graded}
        assert names() == sorted(scores, key=lambda name: -scores[name])


@pytest.mark.parametrize("width", [360, 1300])
@pytest.mark.parametrize("dark", [False, True])
def test_axe_finds_no_fault(browser: Any, finished: Path, width: int, dark: bool) -> None:
    from axe_playwright_python.sync_playwright import Axe

    with opened(browser, finished / "report.html", width, dark) as shown:
        shown.locator("#list button").nth(1).click()
        for summary in shown.locator("details > summary").all():
            summary.click()
        result = Axe().run(shown)
        assert result.violations_count == 0, result.generate_report()
        assert shown.evaluate("document.documentElement.scrollWidth") <= width  # nothing makes the page itself scroll sideways


def test_the_keyboard_is_enough(browser: Any, finished: Path) -> None:
    with opened(browser, finished / "report.html") as shown:
        shown.locator("#filter-search").focus()
        shown.keyboard.type("bold")
        for _ in range(30):
            shown.keyboard.press("Tab")
            if shown.evaluate("document.activeElement.closest('#list') !== null && document.activeElement.tagName") == "BUTTON":
                break
        shown.keyboard.press("Enter")
        assert shown.evaluate("document.activeElement.id") == "record"
        shown.keyboard.press("Tab")
        assert shown.evaluate("document.activeElement.textContent") == "Next record"  # the first record has none before it


def test_curves_figures_results_and_manifests(browser: Any, finished: Path) -> None:
    with opened(browser, finished / "report.html") as shown:
        shown.wait_for_selector("#curves canvas")
        assert shown.locator("#curves [aria-label^='loss of sft:']").count() == 1
        assert shown.locator("figure svg").count() >= 3  # revisions, principles, frontier
        assert "Elo" in shown.locator("#figures").inner_text()
        results = shown.locator("#results").inner_text()
        assert "Comparisons: compared.jsonl" in results
        assert "Refusals" in results
        boxes = shown.locator(".picture g").all_text_contents()
        assert any("given.jsonl" in text for text in boxes)
        assert any("labels.jsonl" in text and "cai label" in text for text in boxes)
        manifests = shown.locator("#manifests details").count()
        assert manifests == len(run.steps(finished))
        shown.locator("#manifests summary", has_text="labels.jsonl").click()
        assert '"step": "label"' in shown.locator("#manifests").inner_text()


def test_ten_thousand_records(browser: Any, here: Here, tmp_path: Path, tiny_pm: str) -> None:
    from cai_cli.pipeline.outputs import write_file

    text = " ".join(["A long answer about nothing in particular."] * 20)
    rows = [
        {"id": f"r{i}", "kind": "odd" if i % 2 else "even", "prompt": f"Question {i}?", "response": f"{i} {text}"}
        for i in range(12_000)
    ]
    write_file(str(tmp_path / "answers.jsonl"), (json.dumps(row).encode() + b"\n" for row in rows), {"step": "sample"})
    here("report", tmp_path)
    with opened(browser, tmp_path / "report.html") as shown:
        assert shown.locator("#count").inner_text() == "10,000 of 10,000 records"
        assert "The run has 12,000 prompts; these are 10,000 of them" in shown.locator("#records").inner_text()
        shown.get_by_label("Search", exact=True).fill("question 1199")
        kept = {row["id"] for row in collect(run.steps(tmp_path)).records}
        wanted = [row["id"] for row in rows if row["id"].startswith("r1199") and row["id"] in kept]
        assert shown.locator("#list button").all_inner_texts() == wanted


def test_what_is_drawn_is_the_same_in_every_file(tmp_path: Path) -> None:
    from cai_cli.pipeline.outputs import write_file

    for name in ("a", "b"):
        rows = [{"id": f"r{i}", "prompt": "p", "response": name} for i in range(300)]
        write_file(str(tmp_path / f"{name}.jsonl"), (json.dumps(row).encode() + b"\n" for row in rows), {"step": "sample"})
    found = collect(run.steps(tmp_path), limit=20)
    assert (len(found.records), found.total) == (20, 300)
    assert all(len(record["entries"]) == 2 for record in found.records)


def test_an_unfinished_step_is_shown(here: Here, tmp_path: Path, tiny: str) -> None:
    prompts = write_jsonl(tmp_path / "p.jsonl", asks(40))
    (out := tmp_path / "run").mkdir()
    process = start("sample", prompts, "-m", tiny, *TRANSFORMERS, "--max-tokens", 60, "-o", out / "a.jsonl", new_group=True)
    try:
        while not (out / "a.jsonl.partial.manifest.json").exists():
            assert process.poll() is None
    finally:
        process.kill()
        process.wait()
    assert "a.jsonl  sample (unfinished)" in here("report", out).out


def test_serve_follows_the_run_for_this_machine_only(browser: Any, here: Here, tmp_path: Path, tiny: str) -> None:
    prompts = write_jsonl(tmp_path / "p.jsonl", asks(3))
    (folder := tmp_path / "run").mkdir()
    sample = ("sample", prompts, "-m", tiny, *TRANSFORMERS, "--max-tokens", 4)
    here(*sample, "-o", folder / "first.jsonl")
    process = start("report", folder, "--serve", "--port", 0)
    try:
        assert process.stderr is not None
        [address] = re.findall(r"http://\S+/", process.stderr.readline())
        with opened(browser, address) as shown:
            shown.get_by_label("Search", exact=True).fill("q1")
            here(*sample, "-o", folder / "second.jsonl")
            shown.get_by_role("button", name="Show it as it is now").click(timeout=60_000)  # it does not disturb who is typing
            shown.locator("#run td", has_text="second.jsonl").wait_for()
            assert shown.locator("#list button").all_inner_texts() == ["q1"]  # the filter is kept
            assert shown.errors == []
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(urllib.request.Request(address, headers={"Host": "elsewhere.example"}))
        assert not (folder / "report.html").exists()
    finally:
        process.terminate()
        process.wait()


def test_the_results_enter_the_cards_of_the_models_once(here: Here, finished: Path, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(finished, copy)
    card = copy / "sft" / "README.md"
    before = card.read_text()
    for _ in range(2):
        assert str(card) in here("report", copy, "--cards").err
    after = card.read_text()
    assert after.startswith(before.rstrip())
    assert after.count("## Results of run") == 1
    assert "Refusals" in after
    assert SCRIPT not in after


def test_markdown_shows_texts_as_they_are(here: Here, finished: Path) -> None:
    out = here("report", finished, "--markdown").out
    assert "| output | step | in | out | skipped | steps | tokens | seconds |" in out
    assert re.search(r"\| revisions\.jsonl \| revise \| 6 \| 6 \|", out)
    assert "**Comparisons: compared.jsonl**" in out
    assert "<script" not in out


def test_json_in_the_page_can_not_end_its_script() -> None:
    held = page.embedded({"a": [*HOSTILE, "\ud83d\ude00"]})
    assert not set("<>&\u2028\u2029") & set(held)
    assert json.loads(held) == {"a": [*HOSTILE, "\ud83d\ude00"]}


def test_what_the_run_was_given_may_be_of_any_form(here: Here, tmp_path: Path, tiny: str) -> None:
    (tmp_path / "given.csv").write_text("prompt\nHow?\n")
    (run_folder := tmp_path / "run").mkdir()
    here("import", "csv", tmp_path / "given.csv", "-o", run_folder / "prompts.jsonl")
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"id": "a", "prompt": "Why?"}\nno JSON\n')
    here("sample", bad, "--skip-bad", "-m", tiny, *TRANSFORMERS, "--max-tokens", 4, "-o", run_folder / "answers.jsonl")
    assert "answers.jsonl" in here("report", run_folder).out
    found = collect(run.steps(run_folder))
    assert [(record["id"], len(record["entries"][0]["from"])) for record in found.records] == [("a", 1)]


def written(path: Path, step: str, rows: list[dict[str, Any]], *inputs: Path) -> None:
    from cai_cli.pipeline.outputs import source, write_file

    counts = {"records_in": len(rows), "records_out": len(rows)}
    about = {"step": step, "inputs": [source(str(place)) for place in inputs], "counts": counts}
    write_file(str(path), (json.dumps(row).encode() + b"\n" for row in rows), about)


def test_only_answers_to_one_prompt_are_shown_together(tmp_path: Path) -> None:
    written(tmp_path / "a.jsonl", "sample", [{"id": "1", "prompt": "How do I make a bomb?", "response": "No."}])
    written(tmp_path / "b.jsonl", "sample", [{"id": "1", "prompt": "What is 2 + 2?", "response": "4"}])
    assert [record["prompt"][0]["content"] for record in collect(run.steps(tmp_path)).records] == [
        "How do I make a bomb?",
        "What is 2 + 2?",
    ]


def test_an_answer_that_was_replaced_stays_beside_the_new_one(tmp_path: Path) -> None:
    written(tmp_path / "base.jsonl", "sample", [{"id": "1", "prompt": "p", "response": "Base."}])
    new = [{"id": "1", "prompt": "p", "response": "New.", "previous": {"response": "Base."}}]
    written(tmp_path / "sft.jsonl", "sample", new, tmp_path / "base.jsonl")
    [record] = collect(run.steps(tmp_path)).records
    assert sorted(entry["r"]["response"] for entry in record["entries"]) == ["Base.", "New."]


def test_refusals_are_counted_over_whole_files(here: Here, tmp_path: Path) -> None:
    rows = [{"id": str(i), "prompt": "p", "response": "Sorry, no." if i < 5 else "Yes."} for i in range(10)]
    written(tmp_path / "base.jsonl", "sample", rows)
    revised = [{**row, "rounds": [{"principle": "x", "critique": "c", "revision": "Yes."}]} for row in rows[:5]]
    written(tmp_path / "revised.jsonl", "revise", revised, tmp_path / "base.jsonl")
    lines = here("report", tmp_path, "--markdown").out.splitlines()
    assert any(line.startswith("| base.jsonl | all | 10 | 0.50 (") for line in lines)


def test_a_line_that_is_being_written_does_not_stop_the_report(tmp_path: Path) -> None:
    (folder := tmp_path / "sft.partial").mkdir()
    (folder / "manifest.partial.json").write_text('{"fingerprint": {"step": "train-sft"}}')
    (folder / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "loss": 1.0}\n{"step": 3, "lo')
    assert run.curves(run.steps(tmp_path)) == [{"name": "sft", "columns": {"step": [1, 2], "loss": [2.0, 1.0]}}]


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"grades": {"x": "high"}}, "in.jsonl:1: 'grades.x'"),
        ({"rounds": [{"principle": 1, "critique": "c", "revision": "r"}]}, "in.jsonl:1: 'rounds[0].principle' must be a string"),
    ],
)
def test_a_record_that_was_edited_by_hand_is_named(here: Here, tmp_path: Path, record: dict[str, Any], message: str) -> None:
    written(tmp_path / "in.jsonl", "grade", [{"id": "1", "prompt": "p", "response": "r", **record}])
    assert message in here("report", tmp_path, code=2).err


def test_a_manifest_of_another_form_is_named(here: Here, tmp_path: Path) -> None:
    written(tmp_path / "in.jsonl", "sample", [{"id": "1", "prompt": "p", "response": "r"}])
    (tmp_path / "in.jsonl.manifest.json").write_text('{"step": "sample", "inputs": [{"name": "x"}]}')
    assert "in.jsonl.manifest.json:1: not a manifest ('manifest.inputs[0]' has no 'path')" in here("report", tmp_path, code=2).err


def test_conversations_without_a_prompt_are_shown(browser: Any, here: Here, tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "Question?"}, {"role": "assistant", "content": "Answer."}]
    written(tmp_path / "sft.jsonl", "export sft", [{"id": "1", "messages": turns}])
    written(
        tmp_path / "pairs.jsonl",
        "import preferences",
        [{"id": "2", "chosen": turns, "rejected": [turns[0], {"role": "assistant", "content": "No."}]}],
    )
    here("report", tmp_path)
    with opened(browser, tmp_path / "report.html") as shown:
        for name, texts in (("1", ["Question?", "Answer."]), ("2", ["Question?", "Answer.", "No."])):
            shown.get_by_role("button", name=name, exact=True).click()
            assert all(text in shown.locator("#record").inner_text() for text in texts)
        assert shown.errors == []


def test_the_score_over_the_rounds_can_be_ordered_by(browser: Any, here: Here, tmp_path: Path, tiny_pm: str) -> None:
    rounds = [{"principle": "x", "critique": "c", "revision": "Quite another text, unlike it."}]
    rows = [{"id": f"r{i}", "prompt": "p", "response": f"The {i} answer.", "rounds": rounds} for i in range(3)]
    here("score", write_jsonl(tmp_path / "in.jsonl", rows), "-m", tiny_pm, "-o", tmp_path / "scored.jsonl")
    here("report", tmp_path)
    gains = {row["id"]: row["scores"]["rounds"][0] - row["scores"]["response"] for row in read_jsonl(tmp_path / "scored.jsonl")}
    with opened(browser, tmp_path / "report.html") as shown:
        shown.get_by_label("Order", exact=True).select_option("score: last answer minus first")
        assert shown.locator("#list button").all_inner_texts() == sorted(gains, key=lambda name: gains[name])
        shown.locator("#list button").first.click()
        assert "rewritten, so no words are marked" in shown.locator("#record").inner_text()
