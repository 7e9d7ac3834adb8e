"""What the commands that run a model do with their flags: find the model, build the job, and load the weights late."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict
from enum import Enum
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cai_cli import streams
from cai_cli.commands._command import require_input
from cai_cli.commands._flags import IO, Model, Prompting, Sampling, Workers
from cai_cli.data import reasoning
from cai_cli.data.jsonl import Line, Record
from cai_cli.engines import answers, models, select
from cai_cli.engines.base import Engine, Request
from cai_cli.engines.dispatch import Dispatcher
from cai_cli.engines.scorer import require_preference_model
from cai_cli.errors import CaiError, InputError
from cai_cli.method.constitution import Constitution
from cai_cli.method.prompts import Prompt
from cai_cli.pipeline import manifest, memory, stage
from cai_cli.pipeline.observers import Filter, Observer
from cai_cli.pipeline.seeds import draw

if TYPE_CHECKING:
    from cai_cli.engines.server import ServerEngine
    from cai_cli.method.tokens import Renderer

ModelState = list[tuple[str, int, int]]
"""See `manifest.model_state`."""


class Session:
    """A command's model and settings. The tokenizer is loaded at its first use, the weights by `open`."""

    def __init__(self, files: IO, model: Model, sampling: Sampling, prompting: Prompting, exact: bool = False) -> None:
        """`exact`: whether the command reads probabilities. --dtype auto then computes in float32, and answers are kept.

        InputError if the model is not a language model.
        """
        require_input(files.input)
        models.share_cores()
        self.files, self.model, self.sampling, self.prompting, self.exact = files, model, sampling, prompting, exact
        self.options = prompting.options()
        # a server has the weights; the tokenizer, the template and the configuration are enough here
        self.folder = models.resolve(model.model, weights=not model.base_url)
        models.require_language_model(self.folder)
        # here, because the runner replaces standard output before it opens the engine
        self.piped = select.piped(files.input, files.output)
        self.gpu_memory = select.gpu_memory(model.gpu_memory, self.piped)

    @cached_property
    def renderer(self) -> Renderer:
        """Turns prompts into tokens for this model."""
        from cai_cli.method.tokens import Renderer

        tokenizer = models.load_tokenizer(self.folder, self.model.trust_remote_code)
        found = Renderer(tokenizer, self.options["template_arg"], self.prompting.fold_system)
        found.keep_messages = bool(self.model.base_url)
        return found

    @cached_property
    def server(self) -> ServerEngine:
        """The servers of --base-url. CaiError if none answers, or if they cannot do what the command needs."""
        from cai_cli.engines.server import ServerEngine

        m = self.model
        found = ServerEngine(m.base_url or [], m.model, self.folder, m.trust_remote_code, m.batch_size)
        found.require_prompts(self.format, self.options["template_arg"])
        return found

    def _served(self) -> Record:
        """What a manifest's `model` says about servers: URLs may change, what they serve may not. Empty without them."""
        if not self.model.base_url or self.files.dry_run is not None:
            return {}
        return {"engine": "server", **(self._recorded() or self.server.abilities())}

    def _recorded(self) -> Record:
        """What a finished output's manifest says about its servers, if none listens now: "already done" does not need one."""
        from cai_cli.engines.http_server import listens
        from cai_cli.engines.server import ABILITIES

        out, beside = Path(self.files.output), Path(f"{self.files.output}.manifest.json")
        finished = out.is_file() and beside.is_file() and not Path(f"{out}.partial").exists()
        if self.files.restart or not finished or any(map(listens, self.model.base_url or [])):
            return {}
        made = manifest.read(beside).get("model")
        return {name: made[name] for name in ABILITIES} if isinstance(made, dict) and made.keys() >= set(ABILITIES) else {}

    def _require_served(self, served: Record) -> None:
        """CaiError if the servers, if there are any, are not those of `served`: one may have started since."""
        if served and served != {"engine": "server", **self.server.abilities()}:
            raise CaiError("the server has started since this command began; run the command again")

    @cached_property
    def format(self) -> str:
        """--format, with "auto" resolved: chat if the tokenizer has a template, else hh."""
        return self.renderer.format(self.options["format"])

    def shown(self, record: Record) -> Record:
        """The record as the model may see it: with the answers' reasoning only if --show-reasoning asks for it."""
        return reasoning.shown(record) if self.options.get("show_reasoning") else record

    @property
    def seed(self) -> int:
        """--seed."""
        return self.sampling.seed

    def request(self, prompt: Prompt, *parts: str | int) -> Request:
        """A request to continue a prompt. Its seed is drawn from --seed and `parts`."""
        s = self.sampling
        return self.renderer.request(prompt, draw(s.seed, *parts), s.max_tokens, s.temperature, s.top_p)

    def open(self) -> Engine:
        """Load the weights into the engine of --engine. CaiError if they are not those that were hashed at the start."""
        if self.model.base_url:
            return self.server
        found = self.setup.open()
        _require_unchanged(self.folder, self.state)
        return found

    @cached_property
    def setup(self) -> select.Setup:
        """The model and how it runs. InputError if the engine or this machine does not have what is asked for."""
        m = self.model
        return select.Setup(
            self.engine,
            self.folder,
            self.dtype,
            batch_size=m.batch_size,
            gpu_memory=self.gpu_memory,
            deterministic=m.deterministic,
            trust_remote_code=m.trust_remote_code,
            **_placing(m, m.engine.value, m.model),
        )

    @cached_property
    def dtype(self) -> str:
        """--dtype, with "auto" resolved. A server's is not known."""
        if self.model.base_url:
            return "unknown"
        name = self.model.dtype.value
        if name == "auto" and self.model.deterministic:
            return "float32"
        return models.exact_dtype(name, self.folder) if self.exact else models.dtype_name(name)

    @cached_property
    def engine(self) -> str:
        """The engine's name, with "auto" resolved."""
        m = self.model
        name = select.pick(m.engine.value, m.deterministic)
        one = (m.tensor_parallel, m.pipeline_parallel, m.vllm) == (1, 1, None)
        if m.engine.value == "auto" and name == "vllm" and models.device() == "cpu" and one:
            generated = 0 if self.exact else self.sampling.max_tokens  # of a judge little more than the prompts counts
            name, why = select.pick_on_cpu(self.folder, self.files.input, self.files.limit, generated, self.piped)
            streams.say(f"cai: --engine auto: {name} ({why})", self.files.quiet)
        return name

    def _context(self, generates: bool) -> int:
        """The model's limit in tokens. InputError if --max-tokens leaves no room for a prompt."""
        found = models.context_length(self.folder)
        if generates and self.sampling.max_tokens >= found:
            wanted = f"--max-tokens {self.sampling.max_tokens}"
            raise InputError(f"{wanted} leaves no room for a prompt in the model's context of {found}")
        return found

    def run(
        self,
        name: str,
        check: Callable[[Record], str | None],
        program: stage.Program,
        constitution: Constitution | None = None,
        lines: Callable[[], Iterator[Line]] | None = None,
        observer: Observer | None = None,
        only: Filter | None = None,
        window: int | None = None,
        **extra: Any,
    ) -> None:
        """Run the step over the input. `extra`: other options that affect the output. See `stage.Job` for the rest."""
        context = self._context(generates=extra.get("cot", True))  # a judge without --cot generates nothing
        _ = self.format  # fails before the output is opened if --format or --template-arg does not suit the model
        if self.files.dry_run is None:
            _ = self.setup if self.model.base_url else self.setup.count()  # fails before any input is read if it cannot run here
        sampling = {k: v.value if isinstance(v, Enum) else v for k, v in asdict(self.sampling).items()}
        self.state = manifest.model_state(self.folder)
        model_hash, dtype = (manifest.hash_model(self.folder), self.dtype) if self.files.dry_run is None else ("", "")
        served = self._served()
        about: manifest.Manifest = {"model": {"name": self.model.model, "sha256": model_hash, "dtype": dtype, **served}}
        options = {
            **sampling,
            **self.options,
            "model": model_hash,
            "dtype": dtype,
            "engine": self.engine if self.files.dry_run is None else "",
            "deterministic": self.model.deterministic,
            **_vllm_options(self.model),
            **served,
        }
        if constitution:
            named, drawn = _named(constitution)
            about["constitution"] = named | {"principles": drawn}
            options |= {"constitution": constitution.sha256, "principles": drawn}
        about["seed"] = self.sampling.seed
        # an option that another one hides would be missing from the fingerprint, and its change would go unnoticed
        assert not options.keys() & extra.keys(), options.keys() & extra.keys()
        options |= extra
        shown = f"{self.model.model} ({self.engine})"
        loads = repr(self.model.base_url or (self.setup, self.state)) if self.files.dry_run is None else ""
        job = stage.Job(
            name, check, program, self.open, context, options, about, shown, lines, observer, only, loads,
            # what a server computes with is not known, so its answers are not kept
            _decides(options, self.setup, self.state) if self.exact and model_hash and not served else None,
            lambda: self._require_served(served),
        )  # fmt: skip
        _run(job, stage.RunOptions(**asdict(self.files), window=window or stage.WINDOW), self.model)


def _named(constitution: Constitution) -> tuple[Record, list[str]]:
    """A constitution as a manifest names it, and the ids of its principles."""
    return constitution.named(), list(constitution.by_id)


def _placing(workers: Workers, engine: str, model: str) -> Record:
    """The fields of a setup that say where it runs. `engine`: --engine, `model`: --model. InputError for a bad flag."""
    if engine != "ray" and (given := "--address" if workers.address else "--resource" if workers.resource else None):
        raise InputError(f"{given}: only --engine ray uses a cluster")
    return {
        "tensor_parallel": workers.tensor_parallel,
        "pipeline_parallel": workers.pipeline_parallel,
        "replicas": workers.replicas,
        "vllm": select.vllm_arguments(workers.vllm or []),
        "ray": workers.address or "local" if engine == "ray" else None,
        "resources": select.resources(workers.resource or []),
        "name": model,
    }


def _vllm_options(workers: Workers) -> Record:
    """--vllm in the fingerprint, if it is given."""
    return {"vllm": select.vllm_arguments(workers.vllm)} if workers.vllm else {}


def _run(job: stage.Job, files: stage.RunOptions, workers: Workers) -> None:
    """Run a job, and end its workers. With many, its window grows so that all are busy, and its manifest counts the devices.

    For the library it runs in memory (`inline`), and the workers stay.
    """
    if (given := memory.current.get()) is not None:
        from cai_cli.pipeline import inline

        inline.run(job, given)
        return
    load, opened = job.open_engine, list[Dispatcher]()
    devices = workers.tensor_parallel * workers.pipeline_parallel

    def open_engine() -> Engine:
        engine = load()
        count, remote = 1, False
        if isinstance(engine, Dispatcher):
            opened.append(engine)
            count, remote = engine.workers, engine.remote
        if files.window == stage.WINDOW:
            files.window = max(files.window, getattr(engine, "most", 0))
        if count * devices > 1 and (remote or models.device() == "cuda"):  # replicas on a CPU share one machine
            job.about["processes"] = count * devices
        return engine

    job.open_engine = open_engine
    try:
        stage.run(job, files)
    finally:
        for engine in opened:
            engine.close()


def _require_unchanged(folder: Path, state: ModelState) -> None:
    """CaiError if a model's files have changed since `state`: its hash would name another model than the one that answers."""
    if manifest.model_state(folder) != state:
        raise CaiError(f"{folder}: the model was changed while the command waited for its first record; start it again")


def _decides(options: Record, setup: select.Setup, state: ModelState) -> Record | None:
    """What decides a judge's answers besides the request; None if they are not kept."""
    # the model's hash leaves out its code; a dry run has no hash; which machines of a cluster compute is not known
    if setup.trust_remote_code or not options["model"] or setup.ray:
        return None
    deterministic = options.get("deterministic", False)
    large = sum(size for _, size, _ in state) > manifest.WHOLE  # its hash does not read every byte
    return {
        **{name: options[name] for name in ("model", "dtype", "engine", "vllm") if name in options},
        **({"files": state} if large else {}),
        "deterministic": deterministic,
        "machine": answers.machine(deterministic),
        "versions": manifest.versions(),
    }


class ScoringSession:
    """A preference model and how it runs. Only its tokenizer is loaded at the start; `open` loads the weights."""

    def __init__(
        self,
        files: IO,
        model: str,
        dtype: str,
        batch_size: int | None,
        prompting: Prompting,
        engine: str,
        gpu_memory: float | None,
        workers: Workers,
        trust_remote_code: bool = False,
    ) -> None:
        """InputError if the model is not a preference model."""
        from cai_cli.method.tokens import Renderer

        require_input(files.input)
        models.share_cores()
        self.files, self.model, self.workers, self.trust = files, model, workers, trust_remote_code
        self.folder = models.resolve(model)
        if engine == "server":
            raise InputError("--engine server: preference models are not read from a server; use another engine")
        # on a CPU vLLM takes about twenty seconds to start
        self.engine = "transformers" if engine == "auto" and models.device() == "cpu" else select.pick(engine)
        require_preference_model(self.folder)
        self.dtype = models.exact_dtype(dtype, self.folder) if files.dry_run is None else ""
        self.setup = select.Setup(
            self.engine,
            self.folder,
            self.dtype,
            preference_model=True,
            batch_size=batch_size,
            gpu_memory=select.gpu_memory(gpu_memory, select.piped(files.input, files.output)),
            trust_remote_code=trust_remote_code,
            **_placing(workers, engine, model),
        )
        self.options = prompting.options()
        tokenizer = models.load_tokenizer(self.folder, trust_remote_code)
        self.renderer = Renderer(tokenizer, self.options["template_arg"], prompting.fold_system)
        self.format = self.renderer.format(self.options["format"])

    def shown(self, record: Record) -> Record:
        """The record as the model may see it: with the answers' reasoning only if --show-reasoning asks for it."""
        return reasoning.shown(record) if self.options.get("show_reasoning") else record

    def open(self) -> Engine:
        """Load the weights into the engine of --engine. CaiError if they are not those that were hashed at the start."""
        found = self.setup.open()
        _require_unchanged(self.folder, self.state)
        return found

    def run(
        self,
        name: str,
        check: Callable[[Record], str | None],
        program: stage.Program,
        observer: Observer | None = None,
        constitution: Constitution | None = None,
    ) -> None:
        """Run the step over the input."""
        self.state = manifest.model_state(self.folder)
        sha = manifest.hash_model(self.folder) if self.files.dry_run is None else ""
        if self.files.dry_run is None:
            self.setup.count()  # fails before any input is read if there are too few GPUs
        options = {"model": sha, "dtype": self.dtype, "engine": self.engine, **self.options, "format": self.format}
        options |= _vllm_options(self.workers)
        about: Record = {"model": {"name": self.model, "sha256": sha, "dtype": self.dtype, "target": models.target(self.folder)}}
        if constitution:
            named, drawn = _named(constitution)
            about["constitution"] = named | {"principles": drawn}
            options |= {"constitution": constitution.sha256, "principles": drawn}
        context = models.context_length(self.folder)
        decides = _decides(options, self.setup, self.state)
        job = stage.Job(
            name, check, program, self.open, context, options, about, self.model, None, observer, None,
            repr((self.setup, self.state)), decides,
        )  # fmt: skip
        _run(job, stage.RunOptions(**asdict(self.files)), self.workers)
