"""What every generating command does with its flags: find the model, open it late, build the job."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict
from enum import Enum
from functools import cached_property
from typing import TYPE_CHECKING, Any

from cai_cli import manifest, models, stage
from cai_cli.commands.options import IO, Model, Sampling, require_input
from cai_cli.constitution import Constitution
from cai_cli.engines.base import Engine, Request
from cai_cli.jsonl import Line, Record
from cai_cli.prompts import Prompt
from cai_cli.seeds import draw

if TYPE_CHECKING:
    from cai_cli.tokens import Renderer


class Session:
    """A command's model and settings. The tokenizer is loaded at first use, the weights by `open`."""

    def __init__(self, files: IO, model: Model, sampling: Sampling) -> None:
        require_input(files.input)
        models.share_cores()
        self.files, self.model, self.sampling = files, model, sampling
        self.folder = models.resolve(model.model)
        models.read_config(self.folder)

    @cached_property
    def renderer(self) -> Renderer:
        """Turns prompts into tokens for this model."""
        from cai_cli.tokens import Renderer

        return Renderer(models.load_tokenizer(self.folder, self.model.trust_remote_code))

    @cached_property
    def format(self) -> str:
        """--format, with "auto" resolved: chat where the tokenizer has a template."""
        return self.renderer.format(self.sampling.format.value)

    def request(self, prompt: Prompt, *parts: str | int) -> Request:
        """A request to continue a prompt, its seed drawn from --seed and `parts`."""
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
        """Run the step over the input. `extra` are further options that affect the output; see `stage.Job` for the rest."""
        if self.files.dry_run is None:
            _ = self.engine  # an engine that can't run here is known before any input is read
        sampling = {k: v.value if isinstance(v, Enum) else v for k, v in asdict(self.sampling).items()}
        model_hash = manifest.hash_model(self.folder) if self.files.dry_run is None else ""
        about: dict[str, Any] = {"model": {"name": self.model.model, "sha256": model_hash}}
        options = {
            **sampling,
            **extra,
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
        context = models.context_length(self.folder)
        job = stage.Job(
            name, check, program, self.open, context, options, about, f"{self.model.model} ({self.engine})", lines, observer
        )
        stage.run(job, stage.Files(**asdict(self.files), window=window))
