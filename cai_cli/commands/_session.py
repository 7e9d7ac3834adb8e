"""What the commands that run a model do with their flags: find the model, build the job, and load the weights late."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict
from enum import Enum
from functools import cached_property
from typing import TYPE_CHECKING, Any

from cai_cli.commands._command import require_input
from cai_cli.commands._flags import IO, Model, Sampling
from cai_cli.data.jsonl import Line, Record
from cai_cli.engines import models
from cai_cli.engines.base import Engine, Request, Scorer
from cai_cli.engines.scorer import require_preference_model
from cai_cli.method.constitution import Constitution
from cai_cli.method.prompts import Prompt
from cai_cli.pipeline import manifest, stage
from cai_cli.pipeline.seeds import draw

if TYPE_CHECKING:
    from cai_cli.method.tokens import Renderer


class Session:
    """A command's model and settings. The tokenizer is loaded at its first use, the weights by `open`."""

    def __init__(self, files: IO, model: Model, sampling: Sampling) -> None:
        require_input(files.input)
        models.share_cores()
        self.files, self.model, self.sampling = files, model, sampling
        self.folder = models.resolve(model.model)
        models.read_config(self.folder)

    @cached_property
    def renderer(self) -> Renderer:
        """Turns prompts into tokens for this model."""
        from cai_cli.method.tokens import Renderer

        return Renderer(models.load_tokenizer(self.folder, self.model.trust_remote_code))

    @cached_property
    def format(self) -> str:
        """--format, with "auto" resolved: chat if the tokenizer has a template, else hh."""
        return self.renderer.format(self.sampling.format.value)

    @property
    def seed(self) -> int:
        """--seed."""
        return self.sampling.seed

    def request(self, prompt: Prompt, *parts: str | int) -> Request:
        """A request to continue a prompt. Its seed is drawn from --seed and `parts`."""
        s = self.sampling
        return self.renderer.request(prompt, draw(s.seed, *parts), s.max_tokens, s.temperature, s.top_p)

    def open(self) -> Engine:
        """Load the weights into the engine of --engine."""
        from cai_cli.engines import select

        m = self.model
        dtype = models.resolve_dtype("float32" if m.deterministic and m.dtype.value == "auto" else m.dtype.value)
        return select.open_engine(
            self.engine,
            self.folder,
            self.renderer.tokenizer,
            dtype,
            m.batch_size,
            m.gpu_memory,
            m.deterministic,
            m.trust_remote_code,
        )

    @cached_property
    def engine(self) -> str:
        """The engine's name, with "auto" resolved."""
        from cai_cli.engines import select

        return select.pick(self.model.engine.value, self.model.deterministic)

    def run(
        self,
        name: str,
        check: Callable[[Record], str | None],
        program: stage.Program,
        constitution: Constitution | None = None,
        lines: Callable[[], Iterator[Line]] | None = None,
        observer: stage.Observer | None = None,
        window: int = stage.WINDOW,
        **extra: Any,
    ) -> None:
        """Run the step over the input. `extra`: other options that affect the output. See `stage.Job` for the rest."""
        if self.files.dry_run is None:
            _ = self.engine  # fails before any input is read if the engine cannot run here
        sampling = {k: v.value if isinstance(v, Enum) else v for k, v in asdict(self.sampling).items()}
        model_hash = manifest.hash_model(self.folder) if self.files.dry_run is None else ""
        about: manifest.Manifest = {"model": {"name": self.model.model, "sha256": model_hash}}
        options = {
            **sampling,
            "model": model_hash,
            "dtype": self.model.dtype.value,
            "engine": self.engine if self.files.dry_run is None else "",
            "deterministic": self.model.deterministic,
        }
        if constitution:
            drawn = list(constitution.by_id)
            named = {"name": constitution.name, "version": constitution.version, "sha256": constitution.sha256}
            about["constitution"] = {**named, "principles": drawn}
            options |= {"constitution": constitution.sha256, "principles": drawn}
        about["seed"] = self.sampling.seed
        # an option that another one hides would be missing from the fingerprint, and its change would go unnoticed
        assert not options.keys() & extra.keys(), options.keys() & extra.keys()
        options |= extra
        context = models.context_length(self.folder)
        job = stage.Job(
            name, check, program, self.open, context, options, about, f"{self.model.model} ({self.engine})", lines, observer
        )
        stage.run(job, stage.RunOptions(**asdict(self.files), window=window))


class ScoringSession:
    """A preference model and how it runs. Only its tokenizer is loaded at the start; `open` loads the weights."""

    def __init__(self, files: IO, model: str, dtype: str, batch_size: int, format: str, engine: str, gpu_memory: float) -> None:
        """InputError if the model is not a preference model."""
        from cai_cli.engines import select
        from cai_cli.method.tokens import Renderer

        require_input(files.input)
        models.share_cores()
        self.files, self.model, self.dtype, self.batch_size, self.gpu_memory = files, model, dtype, batch_size, gpu_memory
        self.folder = models.resolve(model)
        # on a CPU vLLM takes about twenty seconds to start
        self.engine = "transformers" if engine == "auto" and models.device() == "cpu" else select.pick(engine)
        require_preference_model(self.folder)
        self.renderer = Renderer(models.load_tokenizer(self.folder))
        self.format = self.renderer.format(format)

    def open(self) -> Scorer:
        """Load the weights into the engine of --engine."""
        if self.engine == "vllm":
            from cai_cli.engines.vllm import VllmPreferenceModel

            return VllmPreferenceModel(self.folder, models.resolve_dtype(self.dtype), self.gpu_memory)
        from cai_cli.engines.scorer import PreferenceModel

        return PreferenceModel(self.folder, self.dtype, self.batch_size)

    def run(
        self, name: str, check: Callable[[Record], str | None], program: stage.Program, observer: stage.Observer | None = None
    ) -> None:
        """Run the step over the input."""
        sha = manifest.hash_model(self.folder) if self.files.dry_run is None else ""
        options = {"model": sha, "dtype": self.dtype, "format": self.format, "engine": self.engine}
        about = {"model": {"name": self.model, "sha256": sha}}
        context = models.context_length(self.folder)
        job = stage.Job(name, check, program, self.open, context, options, about, self.model, observer=observer)
        stage.run(job, stage.RunOptions(**asdict(self.files)))
