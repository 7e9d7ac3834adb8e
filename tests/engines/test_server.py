"""The server engine against real HTTP servers: what it asks, and what it does when they fail."""

from __future__ import annotations

import gzip
import math
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from cai_cli.engines import http_client, http_server, models, server
from cai_cli.engines.base import Completion, Failure, Request
from cai_cli.engines.http_server import check_urls
from cai_cli.engines.server import ServerEngine
from cai_cli.engines.transformers import TransformersEngine
from cai_cli.errors import CaiError, InputError
from cai_cli.method import prompts
from cai_cli.method.constitution import Principle
from cai_cli.method.tokens import Renderer
from tests.conftest import Here
from tests.engine_feed import by_number, feed
from tests.rows import asks, pair, write_jsonl
from tests.servers import Site, TinyApi, Trouble, free_port, site

pytest.importorskip("openai", reason="needs the extra `server`")
GARBAGE = [
    b"", b"<html>busy</html>", b"[]", b"null", b'{"choices": []}', b'{"choices": [{"text": 3, "finish_reason": "stop"}]}',
    b'{"choices": [{"text": "\\ud800", "finish_reason": "stop"}]}', b'{"choices": [{"text": "x", "finish_reason": null}]}',
    b'{"choices": [{"text": "x", "finish_reason": "stop", "token_ids": "no"}]}',
    b'{"choices": [{"text": "x", "finish_reason": "stop", "token_ids": [-1]}], "usage": {"completion_tokens": 1e400}}', b"[" * 100_000, b'{"a": ' + b"9" * 10_000 + b"}",
]  # fmt: skip


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, one_thread: None) -> None:
    """Short waits."""
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.01)
    monkeypatch.setattr(server, "WAIT", 3.0)


@pytest.fixture(scope="module")
def api(tiny: str) -> TinyApi:
    return TinyApi(tiny)


@pytest.fixture(scope="module")
def asking(tiny: str) -> Renderer:
    """A renderer whose requests hold their messages too."""
    made = Renderer(models.load_tokenizer(Path(tiny)))
    made.keep_messages = True
    return made


def texts(renderer: Renderer, count: int = 12, heat: float = 1.0, format: str = "chat") -> list[Request]:
    return [renderer.request(prompts.answer(record, format), i, 6, heat, 1.0) for i, record in enumerate(asks(count))]


def letters(renderer: Renderer, count: int = 12) -> list[Request]:
    principle = Principle("p", compare="Choose the kinder answer.")
    made = [prompts.comparison(r["prompt"], r["responses"][0], "No.", principle, "chat") for r in map(pair, range(count))]
    return [renderer.choice(prompt, prompts.OPTIONS) for prompt in made]


def ask(sites: Site | list[Site], requests: list[Request], name: str) -> list[Any]:
    urls = [one.url for one in (sites if isinstance(sites, list) else [sites])]
    return by_number(ServerEngine(urls, name, Path(name)).run(feed(requests)))


def test_a_server_that_takes_tokens_gives_what_the_model_gives_here(api: TinyApi, asking: Renderer, tiny: str) -> None:
    likelihoods = [asking.likelihood_request(prompts.answer(record, "chat"), "It is Paris.") for record in asks(4)]
    asked = texts(asking) + texts(asking, 4, 0.0) + letters(asking) + likelihoods
    here = by_number(TransformersEngine(Path(tiny), asking.tokenizer, torch.float32, 1).run(feed(asked)))
    with site(api) as one:
        there = ask(one, asked, tiny)
    assert [(r.text, r.finish, r.tokens, r.completion_tokens) for r in there[:16]] == [
        (r.text, r.finish, r.tokens, r.completion_tokens) for r in here[:16]
    ]
    for a, b in zip(here[16:28], there[16:28], strict=True):
        assert b.logprobs == pytest.approx(a.logprobs, abs=1e-4)
        assert b.outside == 0
    assert [r.score for r in there[28:]] == pytest.approx([r.score for r in here[28:]], abs=1e-3)
    assert [r.prompt_tokens for r in there] == [len(request.ids) for request in asked]
    # what the model's generation_config.json, which a server may take its defaults from, must not change
    sent = [body for _, _, body in one.seen if body["max_tokens"] == 6]
    assert len(sent) == 16
    assert all((body["top_k"], body["repetition_penalty"], body["top_p"]) == (-1, 1.0, 1.0) for body in sent)


def test_answers_end_at_every_stop_string_although_servers_take_four(api: TinyApi, asking: Renderer, tiny: str) -> None:
    plain = texts(asking, 4)
    with site(api) as one:
        stops = [result.text[2:4] for result in ask(one, plain, tiny)]
        asked = [replace(each, stop=("\nA:", "\nB:", "\nC:", "\nD:", stop)) for each, stop in zip(plain, stops, strict=True)]
        there = ask(one, asked, tiny)
    here = by_number(TransformersEngine(Path(tiny), asking.tokenizer, torch.float32, 1).run(feed(asked)))
    assert [(result.text, result.finish) for result in there] == [(result.text, result.finish) for result in here]
    assert {result.finish for result in there} == {"stop"}


def choices(api: TinyApi, renderer: Renderer, count: int) -> list[Request]:
    """Letters of which both, one, or none is among the most likely tokens, in turn."""
    made = []
    for i, request in enumerate(texts(renderer, count)):
        likely = [token for token, _ in api._most_likely(request.ids, 400) if str(renderer.tokenizer.decode([token])).isascii()]
        first, second = [(0, 1), (0, -1), (-1, -2)][i % 3]
        made.append(Request("choose", request.ids, "", options={"A": likely[first], "B": likely[second]}))
    return made


def test_plain_servers_take_tokens_and_letters_outside_the_top_get_their_bound(
    tiny: str, asking: Renderer, capfd: pytest.CaptureFixture[str]
) -> None:
    api = TinyApi(tiny, "plain")
    asked = choices(api, asking, 24)
    exact = by_number(TransformersEngine(Path(tiny), asking.tokenizer, torch.float32, 1).run(feed(asked)))
    with site(api) as one:
        engine = ServerEngine([one.url], tiny, Path(tiny))
        assert engine.prompts == "tokens"
        assert "it shows the 5 most likely tokens" in capfd.readouterr().err
        found = by_number(engine.run(feed(asked)))
        assert [r.text for r in by_number(engine.run(feed(texts(asking))))] == [r.text for r in ask(one, texts(asking), tiny)]
    top = [[value for _, value in api._most_likely(request.ids, 5)] for request in asked]
    for real, shown, values in zip(exact, found, top, strict=True):
        inside = {name: value for name, value in real.logprobs.items() if value >= values[-1] - 1e-4}
        if not inside:
            assert isinstance(shown, Failure)
            assert "none of the options" in shown.reason
            continue
        assert shown.outside == 2 - len(inside)
        expected = {name: inside.get(name, values[-1]) for name in real.logprobs}
        assert shown.logprobs == pytest.approx(expected, abs=1e-4)
    assert {type(shown).__name__ for shown in found} == {"Failure", "Choice"}


def test_letters_outside_the_top_are_exact_where_a_server_gives_likelihoods(tiny: str, asking: Renderer) -> None:
    api = TinyApi(tiny, "vllm-old")
    asked = choices(api, asking, 6)
    exact = by_number(TransformersEngine(Path(tiny), asking.tokenizer, torch.float32, 1).run(feed(asked)))
    with site(api) as one:
        engine = ServerEngine([one.url], tiny, Path(tiny))
        assert engine.letters == "exact"
        found = by_number(engine.run(feed(asked)))
    for real, shown in zip(exact, found, strict=True):
        assert shown.logprobs == pytest.approx(real.logprobs, abs=1e-4)
        assert not shown.outside


@pytest.mark.parametrize("style", ["chat", "vllm-chat"])
def test_chat_servers_get_messages(tiny: str, asking: Renderer, style: str) -> None:
    with site(TinyApi(tiny, style)) as one:
        engine = ServerEngine([one.url], tiny, Path(tiny))
        assert engine.prompts == "messages"
        [done] = by_number(engine.run(feed(texts(asking, 1, 0.0))))
        here = by_number(TransformersEngine(Path(tiny), asking.tokenizer, torch.float32, 1).run(feed(texts(asking, 1, 0.0))))
        assert (done.text, done.prompt_tokens) == (here[0].text, here[0].prompt_tokens)
        list(engine.run(feed(letters(asking, 1))))
        *_, last = one.seen[-1][2]["messages"]
        with pytest.raises(CaiError, match="takes no token ids, so it needs --format chat"):
            list(engine.run(feed(texts(asking, 1, format="hh"))))
        with pytest.raises(CaiError, match="no log probabilities of a prompt's tokens"):
            list(engine.run(feed([Request("score", [5, 6], "", answer=1)])))
    if style == "chat":  # it cannot continue an answer, so the question asks for the letter
        assert last["role"] == "user"
        assert last["content"].endswith("\n\nAnswer with the letter alone.")
    else:
        assert last == {"role": "assistant", "content": prompts.ANSWER}


def once(*troubles: Any) -> Trouble:
    """Each prompt meets one of the troubles once, in turn; later the answer comes."""
    met: dict[str, Any] = {}

    def trouble(number: int, path: str, body: dict[str, Any]) -> Any:
        key = str(body.get("prompt"))
        if body.get("max_tokens") != 6 or key in met:
            return None
        met[key] = troubles[len(met) % len(troubles)]
        return met[key]

    return trouble


@pytest.mark.parametrize(
    "troubles",
    [
        [(429, {"retry-after": "0.1"}, b"{}"), (429, {}, b"{}")],
        [(500, {}, b"oops"), (503, {}, b"{}"), (502, {}, b"<html>")],
        ["half", "reset"],
        [(200, {}, body) for body in GARBAGE],
        [(200, {"content-type": "text/html"}, b"<html>")],
    ],
    ids=["429", "5xx", "half", "garbage", "html"],
)
def test_what_fails_once_is_asked_again(api: TinyApi, asking: Renderer, tiny: str, troubles: list[Any]) -> None:
    with site(api) as well:
        expected = ask(well, texts(asking), tiny)
    with site(api, once(*troubles)) as ill:
        assert ask(ill, texts(asking), tiny) == expected


def test_a_server_that_does_not_answer_a_request(
    api: TinyApi, asking: Renderer, tiny: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_server, "TIMEOUT", 1.0)
    monkeypatch.setattr(http_server, "PER_TOKEN", 0.0)
    with site(api, once("hang")) as ill, site(api) as well:
        assert ask(ill, texts(asking, 3), tiny) == ask(well, texts(asking, 3), tiny)


@pytest.mark.parametrize("reply", [(500, {}, b'{"error": {"message": "CUDA error"}}'), (400, {}, b"bad"), (200, {}, b"{}")])
def test_a_request_that_always_fails_is_skipped(api: TinyApi, asking: Renderer, tiny: str, reply: Any) -> None:
    requests = texts(asking)
    poison = requests[4].ids
    with site(api, lambda n, path, body: reply if body.get("prompt") == poison else None) as one:
        results = ask(one, requests, tiny)
    assert [i for i, result in enumerate(results) if isinstance(result, Failure)] == [4]
    assert {200: "not a reply of the API", 400: "400", 500: "CUDA error"}[reply[0]] in results[4].reason


@pytest.mark.parametrize("headers", [{}, {"content-encoding": "gzip"}], ids=["long", "packed"])
def test_no_reply_fills_the_memory(
    api: TinyApi, asking: Renderer, tiny: str, monkeypatch: pytest.MonkeyPatch, headers: dict[str, str]
) -> None:
    """A long one, and one that unpacks to a long one. The record is skipped."""
    monkeypatch.setattr(http_client, "MAX_REPLY", 2**16)
    text = b'{"choices": [{"text": "x", "finish_reason": "stop"}], "x": "' + b" " * 2**17 + b'"}'
    reply = 200, headers, gzip.compress(text) if headers else text
    requests = texts(asking)
    poison = requests[4].ids
    with site(api, lambda n, path, body: reply if body.get("prompt") == poison else None) as one:
        results = ask(one, requests, tiny)
        assert {made["accept-encoding"] for _, made, _ in one.seen} == {"identity"}
    assert [i for i, result in enumerate(results) if isinstance(result, Failure)] == [4]
    assert "a packed reply" in results[4].reason if headers else "a reply of more than" in results[4].reason


def test_a_server_that_cuts_prompts_is_found_out(api: TinyApi, asking: Renderer, tiny: str) -> None:
    cut = b'{"choices": [{"text": "x", "finish_reason": "stop"}], "usage": {"prompt_tokens": 3}}'
    requests = texts(asking)
    poison = requests[2].ids
    with site(api, lambda n, path, body: (200, {}, cut) if body.get("prompt") == poison else None) as one:
        assert ask(one, requests, tiny)[2].reason == f"the server read 3 tokens of a prompt of {len(poison)}"


def test_a_server_that_fails_every_request_ends_the_run(
    api: TinyApi, asking: Renderer, tiny: str, here: Here, tmp_path: Path
) -> None:
    """It refuses each request and not the probes; or it answers nonsense to everything."""
    source = write_jsonl(tmp_path / "in.jsonl", asks(40))
    with site(api, lambda n, path, body: (400, {}, b'{"error": {"message": "no seeds"}}') if "seed" in body else None) as one:
        flags = ("--engine", "server", "--base-url", one.url, "-m", tiny, "-o", tmp_path / "out")
        said = here("sample", source, *flags, code=1).err
    assert "16 records in a row failed, the last one with:" in said
    assert "no seeds" in said
    with (
        site(api, lambda n, path, body: (200, {}, b"{}") if n > 4 else None) as one,
        pytest.raises(
            CaiError, match=r"could not be used for .* minutes \(its list of models cannot be read.*the same command continues"
        ),
    ):
        ask(one, texts(asking, 40), tiny)


def test_a_busy_server_is_not_a_failure_until_it_answers_nothing(api: TinyApi, asking: Renderer, tiny: str) -> None:
    with (
        site(api, lambda n, path, body: (429, {}, b'{"error": {"message": "slow down"}}') if "seed" in body else None) as one,
        pytest.raises(CaiError, match=r"answered no request for 0 minutes.*slow down"),
    ):
        ask(one, texts(asking, 2), tiny)


def test_the_least_busy_of_several_servers(api: TinyApi, asking: Renderer, tiny: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "EACH", 2)
    with site(api) as quick, site(api, slow=0.3) as slow:
        found = ask([quick, slow], texts(asking, 20), tiny)
        asked = [sum("seed" in body for _, _, body in one.seen) for one in (quick, slow)]
    with site(api) as one:
        assert found == ask(one, texts(asking, 20), tiny)
        assert max(quick.most, slow.most) <= 2
    assert sum(asked) == 20
    assert asked[0] > asked[1] > 0


def test_a_lost_server_costs_nothing_and_comes_back_into_use(
    api: TinyApi, asking: Renderer, tiny: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with site(api) as one:
        expected = ask(one, texts(asking, 100), tiny)
    capfd.readouterr()
    with site(api, slow=0.02) as stays, site(api, slow=0.02) as lost:
        engine, results = ServerEngine([stays.url, lost.url], tiny, Path(tiny)), {}
        for key, result in engine.run(feed(texts(asking, 100))):
            results[key] = result
            if len(results) == 5:
                lost.close()
        assert [results[i] for i in range(100)] == expected
        lost.open()
        while not all(one.can for one in engine.servers):
            threading.Event().wait(0.05)
        lost.seen.clear()
        assert by_number(engine.run(feed(texts(asking, 100)))) == expected
        assert sum("seed" in body for _, _, body in lost.seen) > 5
    said = capfd.readouterr().err
    assert said.count("does not answer") == 1
    assert "the other 1 continue with its requests" in said
    assert said.count(f"{lost.url} answers again") == 1


def test_the_only_server_stops_and_starts_again(
    api: TinyApi, asking: Renderer, tiny: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with site(api) as one:
        expected = ask(one, texts(asking, 30), tiny)
        capfd.readouterr()
        engine, results = ServerEngine([one.url], tiny, Path(tiny)), {}
        one.slow = 0.05
        for key, result in engine.run(feed(texts(asking, 30))):
            results[key] = result
            if len(results) == 5:
                one.close()
                while engine.servers[0].can:
                    threading.Event().wait(0.05)
                one.open()
    assert [results[i] for i in range(30)] == expected
    said = capfd.readouterr().err
    assert said.count("waiting for up to") == said.count("answers again") == 1


def test_a_server_that_is_not_there_and_one_that_is_starting(api: TinyApi, asking: Renderer, tiny: str) -> None:
    with pytest.raises(CaiError, match=r"has not answered for 0 minutes \(.*[Cc]onnect.*\)"):
        ServerEngine([f"http://127.0.0.1:{free_port()}/v1"], tiny, Path(tiny))
    with site(api) as one:
        one.close()
        threading.Timer(0.5, one.open).start()
        assert len(ask(one, texts(asking, 3), tiny)) == 3


def test_another_model_after_a_restart_is_not_asked(api: TinyApi, asking: Renderer, tiny: str) -> None:
    with site(api) as one:
        engine = ServerEngine([one.url], tiny, Path(tiny))
        one.close()
        one.api = TinyApi(tiny, name="another")
        one.open()
        with pytest.raises(CaiError, match=r"could not be used for .* \(serves 'another', not "):
            list(engine.run(feed(texts(asking, 3))))


def changed(less: str, tiny: str) -> TinyApi:
    """A server that can do less than before."""
    made = TinyApi(tiny, "plain" if less == "letters" else "vllm")
    made.draws, made.context = less == "context", 64 if less == "context" else 4096
    return made


@pytest.mark.parametrize(
    ("less", "idle", "said"),
    [
        ("draws", False, "it can do less than the run's first server"),
        ("draws", True, "it can do less than the run's first server"),
        ("letters", False, "unknown: "),
        ("context", False, "its context of 64 tokens is smaller than the 4096 of"),
    ],
)
def test_a_server_that_can_do_less_after_a_restart_is_not_asked(
    tiny: str,
    asking: Renderer,
    less: str,
    idle: bool,
    said: str,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Without our draws it would answer every request greedily; with a shorter context it would refuse long prompts."""
    whole = TinyApi(tiny)
    whole.draws = True
    with site(whole) as one:
        engine = ServerEngine([one.url], tiny, Path(tiny))
        assert engine.draws == "cai"
        expected = by_number(engine.run(feed(texts(asking, 30))))
        if idle:
            monkeypatch.setattr(server, "IDLE", 0.0)
        one.slow = 0.02
        results: dict[Any, Any] = {}

        def restart() -> None:
            one.close()
            one.api = changed(less, tiny)
            one.open()

        if idle:
            restart()

        def ask_all() -> None:
            for key, result in engine.run(feed(texts(asking, 30))):
                results[key] = result
                if len(results) == 5:
                    restart()

        with pytest.raises(CaiError, match=said):
            ask_all()
    assert 5 * (not idle) <= len(results) < 30
    print(
        sorted(results),
        [(k, results[k].text, expected[k].text) for k in results if results[k] != expected[k]],
        [(b.get("seed"), b.get("vllm_xargs")) for _, _, b in one.seen],
    )
    assert results == {key: expected[key] for key in results}
    assert f"{one.url} cannot be used now (" in capfd.readouterr().err


def test_servers_that_start_together_are_compared(tiny: str, asking: Renderer, capfd: pytest.CaptureFixture[str]) -> None:
    """Neither is there when the command begins, so both are inspected at one time."""
    api, other = TinyApi(tiny), TinyApi(tiny, "plain", name="another")
    with site(api) as one, site(other, slow=0.3) as two:
        one.close()
        two.close()
        for each in (one, two):
            threading.Timer(0.7, each.open).start()
        engine = ServerEngine([one.url, two.url], tiny, Path(tiny))
        assert len(by_number(engine.run(feed(texts(asking, 20))))) == 20
        threading.Event().wait(3)
        assert [bool(each.can) for each in engine.servers] == [True, False]
        assert (engine.served, engine.letters) == (tiny, "exact")
    assert f"{two.url} cannot be used now (serves 'another', not '{tiny}')" in capfd.readouterr().err


def test_a_busy_gateway_is_still_the_same_server(
    api: TinyApi, asking: Renderer, tiny: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """It refuses every third request, also the small ones by which the server shows that it is the same."""
    with site(api) as one:
        expected = ask(one, texts(asking, 60), tiny)
    busy = (503, {"retry-after": "0.01"}, b'{"error": {"message": "overloaded"}}')
    with site(api) as one:
        engine = ServerEngine([one.url], tiny, Path(tiny))
        one.trouble = lambda number, path, body: busy if number % 3 == 0 else None
        assert by_number(engine.run(feed(texts(asking, 60)))) == expected
    assert not capfd.readouterr().err


def test_a_request_that_ends_its_servers_is_given_up(api: TinyApi, asking: Renderer, tiny: str) -> None:
    """Each time something starts the server again, as for a server in a cluster."""
    requests = texts(asking, 30)
    poison, deaths = requests[7].ids, []
    with site(api) as one:
        expected = ask(one, requests, tiny)

    def dies(number: int, path: str, body: dict[str, Any]) -> Any:
        if body.get("prompt") != poison:
            return None
        deaths.append(number)
        threading.Thread(target=one.close).start()
        threading.Timer(1.5, one.open).start()
        one.closing.wait()
        return "reset"

    with site(api, dies, slow=0.02) as one:
        found = ask(one, requests, tiny)
    assert isinstance(found[7], Failure)
    assert "servers went down 5 times while they had it" in found[7].reason
    assert [result for i, result in enumerate(found) if i != 7] == [result for i, result in enumerate(expected) if i != 7]
    assert len(deaths) == 5


def test_the_key_goes_to_the_server_alone(
    api: TinyApi, asking: Renderer, tiny: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_ADMIN_KEY", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID"):
        monkeypatch.setenv(name, "canary-of-openai")
    with site(api) as other:
        ask(other, texts(asking, 1), tiny)
        assert not any("canary" in str(headers) or "authorization" in headers for _, headers, _ in other.seen)
        monkeypatch.setenv("CAI_API_KEY", "canary-2718")
        ask(other, texts(asking, 1), tiny)
        assert other.seen[-1][1]["authorization"] == "Bearer canary-2718"
        other.seen.clear()
        moved = (307, {"location": f"{other.url}/completions"}, b"")
        with site(api, lambda *_: moved) as one, pytest.raises(CaiError, match="redirects to another address"):
            ask(one, texts(asking, 1), tiny)
        assert not other.seen
        refused: Any = (401, {}, b'{"error": {"message": "wrong key canary-2718"}}')
        with site(api, lambda *_: refused) as one, pytest.raises(CaiError, match="refuses the API key") as caught:
            ask(one, texts(asking, 1), tiny)
    assert "CAI_API_KEY holds it" in str(caught.value)
    assert "canary" not in str(caught.value) + capfd.readouterr().err


@pytest.mark.parametrize("url", ["http://me:secret-5@host/v1", "http://me@host/v1", "http://host/v1?key=secret-5"])
def test_a_secret_in_a_url_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(InputError, match="leave out the user, password and query") as caught:
        check_urls([url])
    assert "secret-5" not in str(caught.value)
    with pytest.raises(InputError, match="give a URL such as"):
        check_urls(["localhost:8000"])


def test_which_of_several_served_models(api: TinyApi, tiny: str, capfd: pytest.CaptureFixture[str]) -> None:
    def serving(*names: str) -> Iterator[Any]:
        listed = b", ".join(b'{"id": "%s"}' % name.encode() for name in names)
        return lambda n, path, body: (200, {}, b'{"data": [%s]}' % listed) if path == "/v1/models" else None  # type: ignore[return-value]

    with site(api, serving("base", tiny, "adapter")) as one:  # type: ignore[arg-type]
        assert ServerEngine([one.url], tiny, Path(tiny)).served == tiny
        assert not capfd.readouterr().err
    with site(api, serving("base", "adapter")) as one, pytest.raises(InputError, match="serves 'adapter', 'base'; give -m"):  # type: ignore[arg-type]
        ServerEngine([one.url], tiny, Path(tiny))
    with site(TinyApi(tiny, name="judge-70b")) as one:
        ServerEngine([one.url], tiny, Path(tiny))
    assert "the server calls its model 'judge-70b'" in capfd.readouterr().err


def test_letters_are_never_nan(api: TinyApi, asking: Renderer, tiny: str) -> None:
    with site(api) as one:
        for result in ask(one, letters(asking, 3), tiny):
            assert all(math.isfinite(value) and value <= 0 for value in result.logprobs.values())
        assert isinstance(ask(one, texts(asking, 1), tiny)[0], Completion)
