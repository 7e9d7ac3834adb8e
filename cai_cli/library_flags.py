"""The flags of the library's functions, for type checkers and editors: those of the commands.

`python docs/generate.py` writes this file. A flag that takes a list also takes one value.
"""

# ruff: noqa: E501

from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Any, Literal, TypedDict

Text = str | PathLike[str]


class Workers(TypedDict, total=False):
    """How many GPUs and machines a model runs on."""

    replicas: int | None
    """Engines that share the work; by default as many as there are GPUs for, or, on up to four cores, one per core."""
    tensor_parallel: int
    """GPUs that share each layer of a model (vllm engine)."""
    pipeline_parallel: int
    """Parts of a model, each with GPUs of its own (vllm engine)."""
    vllm: Mapping[str, Any] | Sequence[Text] | None
    """Set an argument of vLLM's engine, as JSON or a text; repeatable."""
    address: str | None
    """The Ray cluster: auto, HOST:PORT or ray://HOST:PORT; by default one is started here."""
    resource: Mapping[str, Any] | Sequence[Text] | None
    """What a Ray worker reserves besides GPUs: CPU, memory (bytes), or a resource of your cluster; repeatable."""


class Model(Workers, total=False):
    """The model, and how it runs."""

    engine: Literal["auto", "vllm", "transformers", "ray", "server"]
    """auto: vllm where it can run, and on a CPU where it ends first; else transformers. ray: on a cluster. server: see --base-url."""
    base_url: Text | Sequence[Text] | None
    """An OpenAI-compatible server, such as http://127.0.0.1:8000/v1; repeatable."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"]
    """auto: bfloat16 if the processor supports it; float32 for probabilities, if memory allows."""
    batch_size: int | None
    """Requests at once (transformers, each server). Default: as many as fit a GPU's memory; CPU: 32; server: 64."""
    gpu_memory: float | None
    """Share of the GPU's memory to use (vllm engine); by default 0.9, or 0.3 in a pipe."""
    deterministic: bool
    """Byte-identical output on one machine: transformers, float32, one request at a time."""
    trust_remote_code: bool
    """Run code that comes with the model."""


class Sampling(TypedDict, total=False):
    """How texts are sampled."""

    max_tokens: int
    """Longest completion, in tokens."""
    temperature: float
    """Sampling temperature; 0 always takes the most likely token."""
    top_p: float
    """Sample only from the most likely tokens that have this probability in total."""
    seed: int
    """Random seed; with a record's id it determines every draw."""


class Prompting(TypedDict, total=False):
    """How conversations become a model's input."""

    format: Literal["auto", "chat", "hh"]
    """chat: the model's chat template. hh: plain transcripts. auto: chat if there is a template, else hh."""
    template_arg: Mapping[str, Any] | Sequence[Text] | None
    """Set a variable of the template, such as enable_thinking=false; repeatable."""
    fold_system: bool
    """Put a system message into the first user's message: for templates that reject one."""


class Principles(TypedDict, total=False):
    """The constitution, and which of its principles are used."""

    constitution: Text | Sequence[Text] | None
    """A packaged constitution's name (by default `default`), or a YAML or JSON file; repeatable."""
    principles: str | Sequence[str | float] | None
    """Draw only from these principles."""
    tags: str | Sequence[str | float] | None
    """Draw only from principles with one of them."""


class SampleFlags(Model, Sampling, Prompting, Principles, total=False):
    """The flags of `sample`."""

    turns: bool
    """Answer the user's messages in a record's `turns` (MT-bench) one after the other."""
    constitution_in_context: int | str | None
    """Show the model K principles drawn for each record, or all, in a system message; the record keeps its prompt."""
    resample: bool
    """Answer records again that hold answers; the old ones move to `previous`."""


class AnswerPrompting(Prompting, total=False):
    """How conversations become the input of a model that judges answers."""

    show_reasoning: bool
    """Show the model the reasoning before each answer, which is hidden by default."""


class CritiqueFlags(Model, Sampling, AnswerPrompting, Principles, total=False):
    """The flags of `critique`."""

    few_shot: int | None
    """Show the model only the constitution's first N examples; by default all."""
    retry: int
    """Sample a flagged text again, up to N times."""


class ReviseFlags(Model, Sampling, AnswerPrompting, Principles, total=False):
    """The flags of `revise`."""

    few_shot: int | None
    """Show the model only the constitution's first N examples; by default all."""
    retry: int
    """Sample a flagged text again, up to N times."""
    from_response: bool
    """Make whole rounds from answers: a critique, then its revision."""
    direct: bool
    """Make whole rounds without critiques."""


class Grading(TypedDict, total=False):
    """How a judge is asked."""

    orders: Literal["both", "ab", "ba"]
    """ab: show the first option as (A). ba: reversed. both: ask in both orders and take the mean."""
    cot: bool
    """Let the model reason before it answers (generates text)."""
    cot_samples: int
    """With --cot: take the mean over N samples of reasoning."""
    keep_cut: bool
    """With --cot: also take the letter after reasoning that was cut by --max-tokens."""


class Judging(Grading, total=False):
    """How a pair of answers is judged."""

    principles_per_pair: int | str
    """Judge each pair by K principles drawn for it, or by all, and take the mean."""
    few_shot: int | None
    """Show the model only the constitution's first N examples; by default all."""
    clamp: str | Sequence[str | float] | None
    """Keep each probability within these bounds; with --cot 0.4,0.6 by default."""


class LabelFlags(Model, Sampling, AnswerPrompting, Principles, Judging, total=False):
    """The flags of `label`."""

    pairs: str
    """Which pairs of more than two answers: the first two answers, all pairs, or K drawn pairs."""


class GradeFlags(Model, Sampling, AnswerPrompting, Grading, Principles, total=False):
    """The flags of `grade`."""

    rubric: Text | Sequence[Text] | None
    """A packaged rubric (hhh, refusal), or a YAML or JSON file; hhh by default; repeatable."""


class ScoreFlags(AnswerPrompting, Principles, Workers, total=False):
    """The flags of `score`."""

    engine: Literal["auto", "vllm", "transformers", "ray"]
    """auto: vllm if it is installed and there is a GPU, else transformers. ray: on a cluster."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"]
    """auto: float32, unless its weights take more than half of the memory."""
    batch_size: int | None
    """Texts computed at once (transformers engine). Default: 512 on a GPU, 32 on a CPU."""
    gpu_memory: float | None
    """Share of the GPU's memory to use (vllm engine); by default 0.9, or 0.3 in a pipe."""
    trust_remote_code: bool
    """Run code that comes with the model."""
