"""The vLLM engine: requests enter as they come, results leave as they finish.

`LLM.generate` returns only when all is done, so this drives the engine underneath it step by step.
The engine core runs in this process (no child that could outlive the command, half the start-up
time). vLLM resolves a request's sampling from its own seed.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cai_cli import models
from cai_cli.engines.base import Choice, Completion, Feed, Key, Request, Score
from cai_cli.errors import CaiError

if TYPE_CHECKING:
    import torch

IN_FLIGHT = 1024
"""Requests handed to vLLM at most."""
CPU_CACHE_BYTES = 2 * 2**30
"""Key-value cache on a CPU, in bytes, unless VLLM_CPU_KVCACHE_SPACE says otherwise."""


def _hush() -> None:
    """Close standard error as the interpreter ends: vLLM's extension modules then list what they leak."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


class VllmEngine:
    """A causal language model run by vLLM. See `engines.base.Engine`."""

    def __init__(
        self,
        folder: Path,
        dtype: torch.dtype,
        gpu_memory: float,
        deterministic: bool = False,
        trust_remote_code: bool = False,
        **more: Any,
    ) -> None:
        """`more` goes to vLLM as it is."""
        os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
        on_cpu = models.device() == "cpu"
        limits: dict[str, Any] = {"gpu_memory_utilization": gpu_memory}
        if on_cpu:
            os.environ.setdefault("VLLM_CPU_NUM_OF_RESERVED_CPU", "0")
            os.environ.setdefault(
                "VLLM_USE_AOT_COMPILE", "0"
            )  # the CPU build can't load what it stored, and compiles for a minute
            # a prompt that is computed in parts draws once a part, and has its generator set back: on a CPU that fails
            limits = {"enable_chunked_prefill": False}
            if not os.environ.get("VLLM_CPU_KVCACHE_SPACE"):
                limits["kv_cache_memory_bytes"] = CPU_CACHE_BYTES
        if deterministic:
            os.environ["VLLM_BATCH_INVARIANT"] = "1"
        name: Any = str(dtype).removeprefix("torch.")  # for vLLM a literal, which is unknown where it isn't installed
        atexit.register(_hush)
        from vllm import LLM

        try:
            self.llm = LLM(
                model=str(folder),
                dtype=name,
                enable_prefix_caching=True,
                disable_log_stats=True,
                trust_remote_code=trust_remote_code,
                load_format="safetensors",
                use_tqdm_on_load=False,
                max_model_len=-1,  # as many tokens as the cache holds, at most the model's own limit
                **limits,
                **more,
            )
        except (ValueError, RuntimeError, OSError) as problem:
            reason = str(problem).splitlines()[0] if str(problem) else type(problem).__name__
            cure = "give it more GiB with VLLM_CPU_KVCACHE_SPACE" if on_cpu else "take less with --gpu-memory, or free some"
            hint = f"{cure}; " if "memory" in str(problem).lower() else ""
            raise CaiError(f"{folder}: vLLM can't start ({reason}); {hint}--engine transformers runs without it") from None
        self.engine = self.llm.llm_engine
        self.context: int = self.engine.model_config.max_model_len
        self.serial = count()

    def _drive(self, feed: Feed, params: Callable[[Request], Any]) -> Iterator[tuple[Key, Request, Any]]:
        """Yield (key, request, vLLM's output) as requests finish."""
        from vllm import TokensPrompt

        waiting: dict[str, tuple[Key, Request]] = {}
        ended = False
        try:
            while True:
                while not ended and len(waiting) < IN_FLIGHT:
                    try:
                        entry = next(feed)
                    except StopIteration:
                        ended = True
                        break
                    if entry is None:
                        break
                    name = str(next(self.serial))
                    waiting[name] = entry
                    self.engine.add_request(name, TokensPrompt(prompt_token_ids=entry[1].ids), params(entry[1]))
                if not waiting:
                    return
                for output in self.engine.step():
                    if output.finished:
                        yield *waiting.pop(output.request_id), output
        finally:
            if waiting:
                self.engine.abort_request(list(waiting))

    def generate(self, feed: Feed) -> Iterator[tuple[Key, Completion]]:
        """Yield each request's completion as it finishes."""
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        def params(request: Request) -> SamplingParams:
            return SamplingParams(
                max_tokens=request.max_tokens,
                temperature=request.temperature,
                top_p=request.top_p,
                seed=request.seed if request.temperature > 0 else None,
                stop=list(request.stop),
                output_kind=RequestOutputKind.FINAL_ONLY,
            )

        for key, request, output in self._drive(feed, params):
            result = output.outputs[0]
            finish = "length" if result.finish_reason == "length" else "stop"
            lengths = len(request.ids), len(result.token_ids), output.num_cached_tokens or 0
            yield key, Completion(result.text, finish, request.seed, *lengths)

    def choose(self, feed: Feed) -> Iterator[tuple[Key, Choice]]:
        """Log probabilities of each request's options as the next token: one prefill each."""
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        def params(request: Request) -> SamplingParams:
            return SamplingParams(
                max_tokens=1,
                temperature=0.0,
                logprob_token_ids=list((request.options or {}).values()),
                output_kind=RequestOutputKind.FINAL_ONLY,
            )

        for key, request, output in self._drive(feed, params):
            found = output.outputs[0].logprobs[0]
            options = request.options or {}
            logprobs = {name: float(found[token].logprob) for name, token in options.items()}
            yield key, Choice(logprobs, len(request.ids), reused_tokens=output.num_cached_tokens or 0)


class VllmPreferenceModel(VllmEngine):
    """A preference model run by vLLM: its raw output, without the logistic function that vLLM would put after it."""

    def __init__(self, folder: Path, dtype: torch.dtype, gpu_memory: float) -> None:
        super().__init__(folder, dtype, gpu_memory, runner="pooling")

    def score(self, feed: Feed) -> Iterator[tuple[Key, Score]]:
        """Yield each request's score as it finishes."""
        from vllm import PoolingParams

        def params(_: Request) -> PoolingParams:
            return PoolingParams(task="classify", use_activation=False)

        for key, request, output in self._drive(feed, params):
            yield key, Score(float(output.outputs.data[0]), len(request.ids))
