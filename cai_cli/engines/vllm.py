"""The vLLM engine: requests enter as they arrive, results leave as they finish.

`LLM.generate` returns only when all requests are done, so this module steps the engine inside `LLM` itself. The engine core
runs in this process: no child process can outlive the command, and the start takes half the time. A logits processor draws
each request's tokens (`engines.vllm_draws`), as the transformers engine does.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Iterator
from dataclasses import fields
from difflib import get_close_matches
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cai_cli.engines import models
from cai_cli.engines.base import Choice, Completion, Failure, Feed, Key, Request, Result, Score
from cai_cli.engines.draws import ARGUMENT
from cai_cli.errors import CaiError, InputError

if TYPE_CHECKING:
    import torch

IN_FLIGHT = 1024
"""The largest number of requests that vLLM holds at a time."""
CPU_CACHE_BYTES = 2 * 2**30
"""Size of the key-value cache on a CPU in bytes, unless VLLM_CPU_KVCACHE_SPACE is set."""


def _hush() -> None:
    """Silence standard error while the interpreter ends, because vLLM's extension modules then list their leaks on it."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


class VllmEngine:
    """A causal language model run by vLLM. See `engines.base.Engine`."""

    draws = True
    """Whether our logits processor draws the tokens, and not vLLM's own seeds."""

    def __init__(self, folder: Path, dtype: torch.dtype, gpu_memory: float, trust_remote_code: bool = False, **more: Any) -> None:
        """Load the model. `more`: further arguments for vLLM (--vllm).

        InputError if vLLM has no such argument; CaiError if it could not start.
        """
        os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")  # the engine core in this process
        on_cpu = models.device() == "cpu"
        limits: dict[str, Any] = {"gpu_memory_utilization": gpu_memory}
        if on_cpu:
            os.environ.setdefault("VLLM_CPU_NUM_OF_RESERVED_CPU", "0")
            # The CPU build cannot load the compiled code that it stored, so with this on every start takes a minute.
            os.environ.setdefault("VLLM_USE_AOT_COMPILE", "0")
            # vLLM draws once per chunk of a chunked prompt and then sets the request's generator back. On a CPU that fails.
            limits = {"enable_chunked_prefill": False}
            if not os.environ.get("VLLM_CPU_KVCACHE_SPACE"):
                limits["kv_cache_memory_bytes"] = CPU_CACHE_BYTES
        settings: dict[str, Any] = {
            "model": str(folder),
            "dtype": str(dtype).removeprefix("torch."),
            "enable_prefix_caching": True,  # many requests share a prefix: the few-shot examples
            "disable_log_stats": True,
            "trust_remote_code": trust_remote_code,
            "load_format": "safetensors",
            "use_tqdm_on_load": False,
            "max_model_len": -1,  # as many tokens as the cache holds, up to the model's own limit
        }
        atexit.register(_hush)
        from vllm import LLM, EngineArgs

        # with a draft model vLLM refuses them, and its own seeds must do
        self.draws = not {"speculative_config", "runner"} & more.keys()
        if self.draws:
            settings["logits_processors"] = ["cai_cli.engines.vllm_draws:Draws"]  # by name, for processes of vLLM's own
        _require_known(more, [field.name for field in fields(EngineArgs)])
        try:
            self.llm = LLM(**(settings | limits | more))
        except (TypeError, ValueError, RuntimeError, OSError) as problem:
            reason = _reason(problem)
            cure = f"give another --gpu-memory than {gpu_memory}, or free some memory"
            cure = "give it more GiB with VLLM_CPU_KVCACHE_SPACE" if on_cpu else cure
            hint = f"{cure}; " if "memory" in str(problem).lower() else ""
            raise CaiError(f"{folder}: vLLM could not start ({reason}); {hint}--engine transformers runs without it") from None
        self.engine = self.llm.llm_engine
        self.context: int = self.engine.model_config.max_model_len
        self.serial = count()

    def run(self, feed: Feed) -> Iterator[tuple[Key, Result]]:
        """Yield each request's result as it finishes. Scores and choices take one prefill per request."""
        from vllm import TokensPrompt

        waiting: dict[str, tuple[Key, Request]] = {}
        ended = False
        try:
            while True:
                # Hand over every request that is there, before the step, so that vLLM can batch them.
                while not ended and len(waiting) < IN_FLIGHT:
                    try:
                        entry = next(feed)
                    except StopIteration:
                        ended = True
                        break
                    if entry is None:
                        break
                    name, (key, request) = str(next(self.serial)), entry
                    try:
                        self.engine.add_request(name, TokensPrompt(prompt_token_ids=request.ids), self._params(request))
                    except ValueError as problem:  # the engine lives, so this costs one record
                        yield key, Failure(f"vLLM refused the request ({_reason(problem)})")
                    else:
                        waiting[name] = entry
                if not waiting:  # the feed has ended: it yields None only while results are due
                    return
                for output in self.engine.step():
                    if output.finished:
                        key, request = waiting.pop(output.request_id)
                        _require_whole(output)
                        yield key, self._result(request, output)
        finally:
            # The caller stopped early (an error, a full filter): the next call must not get their results.
            if waiting:
                self.engine.abort_request(list(waiting))

    def _params(self, request: Request) -> Any:
        """vLLM's parameters for a request."""
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        kind: dict[str, Any] = {"output_kind": RequestOutputKind.FINAL_ONLY}
        if request.kind == "generate":
            settings: dict[str, Any] = {"temperature": 0.0}
            if request.temperature > 0 and self.draws:
                settings |= {"extra_args": {ARGUMENT: [request.seed, request.temperature, request.top_p]}}
            elif request.temperature > 0:
                settings = {"seed": request.seed, "temperature": request.temperature, "top_p": request.top_p}
            return SamplingParams(max_tokens=request.max_tokens, stop=list(request.stop), **settings, **kind)
        # One token is the least that vLLM generates; it is not used. 0: of each prompt token only its own log probability.
        asked: dict[str, Any] = {"prompt_logprobs": 0}
        if request.kind == "choose":
            asked = {"logprob_token_ids": list((request.options or {}).values())}
        return SamplingParams(max_tokens=1, temperature=0.0, **asked, **kind)

    def _result(self, request: Request, output: Any) -> Result:
        """The result of a request from vLLM's output."""
        length, reused = len(request.ids), output.num_cached_tokens or 0
        if request.kind == "generate":
            done = output.outputs[0]
            counts = length, len(done.token_ids), reused
            return Completion(done.text, done.finish_reason, request.seed, *counts, tuple(done.token_ids))
        if request.kind == "choose":
            found = output.outputs[0].logprobs[0]
            logprobs = {name: float(found[token].logprob) for name, token in (request.options or {}).items()}
            return Choice(logprobs, length, reused_tokens=reused)
        answer = zip(request.ids[-request.answer :], output.prompt_logprobs[-request.answer :], strict=True)
        return Score(sum(found[token].logprob for token, found in answer), length)


class VllmPreferenceModel(VllmEngine):
    """A preference model run by vLLM: its results are raw scores."""

    def __init__(self, folder: Path, dtype: torch.dtype, gpu_memory: float, trust_remote_code: bool = False, **more: Any) -> None:
        super().__init__(folder, dtype, gpu_memory, trust_remote_code, runner="pooling", **more)

    def _params(self, request: Request) -> Any:
        from vllm import PoolingParams

        return PoolingParams(task="classify", use_activation=False)  # by default vLLM applies a sigmoid

    def _result(self, request: Request, output: Any) -> Result:
        return Score(float(output.outputs.data[0]), len(request.ids))


def _require_known(given: dict[str, Any], known: list[str]) -> None:
    """InputError for an argument that vLLM's engine does not have."""
    for key in given.keys() - known:
        instead = " or ".join(get_close_matches(key, known)) or "one that its EngineArgs has"
        raise InputError(f"--vllm {key}: vLLM has no such argument; give {instead}")


def _reason(problem: Exception) -> str:
    """The first line of vLLM's error; of one of pydantic's the third, below a heading and the argument's name."""
    lines = [line.strip() for line in str(problem).splitlines()]
    found = lines[2] if len(lines) > 2 and "validation error" in lines[0] else "".join(lines[:1])
    return found[:300] or type(problem).__name__


def _require_whole(output: Any) -> None:
    """CaiError if vLLM gave up on a request (finish reason "abort" or "error"): what it has is no completion."""
    reason = getattr(output.outputs[0], "finish_reason", "stop") if isinstance(output.outputs, list) else "stop"
    if reason not in ("stop", "length"):
        raise CaiError(
            f"vLLM gave up a request (finish reason '{reason}'); finished records are kept, and the same command continues"
        )
