"""The flags that several commands share, as types and dataclasses. `_command` makes one flag of each field."""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Option

from cai_cli.errors import InputError
from cai_cli.pipeline import memory

if TYPE_CHECKING:  # what reads the flags is imported when it does: a command's help needs none of it
    from cai_cli.method.constitution import Constitution


class EngineName(str, Enum):
    """--engine."""

    auto = "auto"
    vllm = "vllm"
    transformers = "transformers"
    ray = "ray"
    server = "server"


class LocalEngine(str, Enum):
    """--engine of a command that loads its model itself."""

    auto = "auto"
    vllm = "vllm"
    transformers = "transformers"


class ScorerEngine(str, Enum):
    """--engine of a command that runs a preference model."""

    auto = "auto"
    vllm = "vllm"
    transformers = "transformers"
    ray = "ray"


class Dtype(str, Enum):
    """--dtype."""

    auto = "auto"
    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


class Format(str, Enum):
    """--format."""

    auto = "auto"
    chat = "chat"
    hh = "hh"


Input = Annotated[str, Argument(help="A JSONL file (.gz too); - is standard input.")]
Output = Annotated[str, Option("--output", "-o", help="Where the output goes; - is standard output.")]
Seed = Annotated[int, Option("--seed", help="Random seed; with a record's id it determines every draw.")]
BootstrapSeed = Annotated[int, Option("--seed", help="Bootstrap seed.")]
Limit = Annotated[int | None, Option("--limit", min=1, help="Use only the first N records.", metavar="N")]
Constitutions = Annotated[
    list[str] | None,
    Option(
        "--constitution",
        "-c",
        help="A packaged constitution's name (by default `default`), or a YAML or JSON file; repeatable.",
    ),
]
TrustRemoteCode = Annotated[bool, Option("--trust-remote-code", help="Run code that comes with the model.")]
GpuMemory = Annotated[
    float | None,
    Option(
        "--gpu-memory",
        min=0.01,
        max=1.0,
        help="Share of the GPU's memory to use (vllm engine); by default 0.9, or 0.3 in a pipe.",
    ),
]
Retry = Annotated[int, Option("--retry", min=0, metavar="N", help="Sample a flagged text again, up to N times.")]
Quiet = Annotated[bool, Option("--quiet", help="Print only warnings and errors on standard error.")]
Debug = Annotated[bool, Option("--debug", help="Show tracebacks and the libraries' own logs.")]


@dataclass
class IO:
    """Input and output, and how the run treats them."""

    input: Input = "-"
    output: Output = "-"
    limit: Limit = None
    skip_bad: Annotated[
        bool, Option("--skip-bad", help="Skip bad lines, and records that fail however many do, into OUT.skipped.jsonl.")
    ] = False
    restart: Annotated[
        bool, Option("--restart", help="Start over: discard an unfinished OUT.partial, and replace a finished OUT.")
    ] = False
    manifest: Annotated[str | None, Option("--manifest", help="Where the manifest goes if the output is standard output.")] = None
    dry_run: Annotated[
        int | None,
        Option("--dry-run", min=1, metavar="N", help="Print the first N requests as the model would get them, and stop."),
    ] = None
    quiet: Quiet = False

    def __post_init__(self) -> None:
        """InputError if --manifest cannot be written: it would be lost at the end of the run."""
        if self.manifest and (Path(self.manifest).is_dir() or not Path(self.manifest).absolute().parent.is_dir()):
            raise InputError(f"--manifest {self.manifest}: give a file in a folder that exists")


@dataclass
class ShardIO(IO):
    """The same for a step whose records can be divided among several runs."""

    shard: Annotated[
        str | None,
        Option("--shard", metavar="I/N", help="Process only part I of N, by a hash of the id; by default a Slurm array task's."),
    ] = None

    def __post_init__(self) -> None:
        """The shard from Slurm's environment if none is given. InputError if it is none, or what it makes cannot be joined."""
        super().__post_init__()
        from cai_cli.pipeline import shards

        self.shard = self.shard or (None if memory.current.get() else shards.from_slurm())
        if self.shard is None:
            return
        self.shard = "{}/{}".format(*shards.parse(self.shard))
        if self.dry_run is None and self.shard != "1/1" and "-" in (self.input, self.output):
            raise InputError(f"--shard {self.shard}: give an input file and -o FILE; --shard 1/1 takes all records")


@dataclass(kw_only=True)
class Workers:
    """How many GPUs and machines a model runs on."""

    replicas: Annotated[
        int | None,
        Option(
            "--replicas",
            min=1,
            metavar="N",
            help="Engines that share the work; by default as many as there are GPUs for, or, on up to four cores, one per core.",
        ),
    ] = None
    tensor_parallel: Annotated[
        int, Option("--tensor-parallel", min=1, metavar="N", help="GPUs that share each layer of a model (vllm engine).")
    ] = 1
    pipeline_parallel: Annotated[
        int, Option("--pipeline-parallel", min=1, metavar="N", help="Parts of a model, each with GPUs of its own (vllm engine).")
    ] = 1
    vllm: Annotated[
        list[str] | None,
        Option("--vllm", metavar="KEY=VALUE", help="Set an argument of vLLM's engine, as JSON or a text; repeatable."),
    ] = None
    address: Annotated[
        str | None,
        Option("--address", help="The Ray cluster: auto, HOST:PORT or ray://HOST:PORT; by default one is started here."),
    ] = None
    resource: Annotated[
        list[str] | None,
        Option(
            "--resource",
            metavar="NAME=N",
            help="What a Ray worker reserves besides GPUs: CPU, memory (bytes), or a resource of your cluster; repeatable.",
        ),
    ] = None


@dataclass
class Model(Workers):
    """The model, and how it runs."""

    model: Annotated[str, Option("--model", "-m", help="A model directory (safetensors), or a Hugging Face name OWNER/MODEL.")]
    engine: Annotated[
        EngineName,
        Option(
            "--engine",
            help="auto: vllm where it can run, and on a CPU where it ends first; else transformers. ray: on a cluster. "
            "server: see --base-url.",
        ),
    ] = EngineName.auto
    base_url: Annotated[
        list[str] | None,
        Option("--base-url", metavar="URL", help="An OpenAI-compatible server, such as http://127.0.0.1:8000/v1; repeatable."),
    ] = None
    dtype: Annotated[
        Dtype,
        Option("--dtype", help="auto: bfloat16 if the processor supports it; float32 for probabilities, if memory allows."),
    ] = Dtype.auto
    batch_size: Annotated[
        int | None,
        Option(
            "--batch-size",
            min=1,
            help="Requests at once (transformers, each server). Default: as many as fit a GPU's memory; CPU: 32; server: 64.",
            show_default=False,
        ),
    ] = None
    gpu_memory: GpuMemory = None
    deterministic: Annotated[
        bool,
        Option("--deterministic", help="Byte-identical output on one machine: transformers, float32, one request at a time."),
    ] = False
    trust_remote_code: TrustRemoteCode = False

    def __post_init__(self) -> None:
        """InputError if the flags of a server conflict."""
        if (self.engine is EngineName.server) != bool(self.base_url):
            raise InputError("--engine server needs --base-url URL, and --base-url needs --engine server")
        if self.base_url and self.dtype is not Dtype.auto:
            raise InputError("--dtype: a server chose its own when it was started; leave it out with --engine server")


@dataclass
class Sampling:
    """How texts are sampled."""

    max_tokens: Annotated[int, Option("--max-tokens", min=1, help="Longest completion, in tokens.")] = 1024
    temperature: Annotated[
        float, Option("--temperature", min=0.0, help="Sampling temperature; 0 always takes the most likely token.")
    ] = 1.0
    top_p: Annotated[
        float,
        Option(
            "--top-p", min=0.001, max=1.0, help="Sample only from the most likely tokens that have this probability in total."
        ),
    ] = 1.0
    seed: Seed = 0

    def require_random(self, asked: bool, flag: str) -> None:
        """InputError if `flag` asks for several samples of one text (`asked`), and all of them would be the same."""
        if asked and not self.temperature:
            raise InputError(f"{flag} with --temperature 0 would give the same text again; give a higher temperature")


@dataclass
class Prompting:
    """How conversations become a model's input."""

    format: Annotated[
        Format,
        Option(
            "--format", help="chat: the model's chat template. hh: plain transcripts. auto: chat if there is a template, else hh."
        ),
    ] = Format.auto
    template_arg: Annotated[
        list[str] | None,
        Option(
            "--template-arg",
            metavar="KEY=JSON",
            help="Set a variable of the template, such as enable_thinking=false; repeatable.",
        ),
    ] = None
    fold_system: Annotated[
        bool, Option("--fold-system", help="Put a system message into the first user's message: for templates that reject one.")
    ] = False

    def options(self) -> dict[str, Any]:
        """The flags as a fingerprint holds them, with the template's arguments parsed. InputError for a bad --template-arg."""
        return {name: value.value if isinstance(value, Enum) else value for name, value in vars(self).items()} | {
            "template_arg": self.template_args()
        }

    def template_args(self) -> dict[str, Any]:
        """The arguments of the chat template. InputError if one is not KEY=VALUE with a JSON value."""
        found = {}
        for entry in self.template_arg or []:
            key, equals, value = entry.partition("=")
            if not equals or not key.isidentifier() or key in _TAKEN:
                raise InputError(f"--template-arg {entry}: write KEY=VALUE, KEY a variable of the chat template")
            try:
                found[key] = json.loads(value)
            except ValueError:
                raise InputError(
                    f"--template-arg {entry}: the value must be JSON: true, false, a number, or a string such as '\"{value}\"'"
                ) from None
        return found


_TAKEN = {"messages", "conversation", "tokenize", "tools", "documents", "chat_template", "add_generation_prompt",
          "continue_final_message", "padding", "truncation", "max_length", "return_tensors", "return_dict",
          "return_assistant_tokens_mask", "tokenizer_kwargs"}  # fmt: skip
"""What transformers' `apply_chat_template` takes itself."""


@dataclass
class AnswerPrompting(Prompting):
    """How conversations become the input of a model that judges answers."""

    show_reasoning: Annotated[
        bool, Option("--show-reasoning", help="Show the model the reasoning before each answer, which is hidden by default.")
    ] = False


@dataclass
class Principles:
    """The constitution, and which of its principles are used."""

    constitution: Constitutions = None
    principles: Annotated[str | None, Option("--principles", metavar="ID,ID", help="Draw only from these principles.")] = None
    tags: Annotated[str | None, Option("--tags", metavar="TAG,TAG", help="Draw only from principles with one of them.")] = None

    def load(self) -> Constitution:
        """Load the constitution, with only the principles that are asked for. InputError says what is wrong with it."""
        from cai_cli.method import constitution

        ids, tags = ([part.strip() for part in (text or "").split(",") if part.strip()] for text in (self.principles, self.tags))
        return constitution.load(*(self.constitution or [constitution.DEFAULT])).select(ids, tags)


def per_item(flag: str, many: str, found: Constitution) -> int:
    """How many principles are drawn: K, or those of the constitution for "all". InputError if it has fewer."""
    available = len(found.principles)
    count = available if many == "all" else int(many) if many.isdecimal() else 0
    if not 1 <= count <= available:
        raise InputError(f"{flag} {many}: give a number from 1 to {available}, or all")
    return count
