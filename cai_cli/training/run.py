"""A run of a trainer, from its settings to the finished directory: the parts that SFT, PM, DPO and RL share.

Each trainer's `train` is a sequence of the steps of `Run`:

    run = Run(settings, check, ...)     check the model and every line, before anything slow is imported
    run.prepare(parts, make, ...)       turn records into examples, in tokens
    if not run.fit(...): return         decide whether it fits into memory, and how
    if not run.open(...): return        hash the model, take the output directory, list the records trained on
    trainer = run.build(TRLTrainer, run.config(...), ...)
    run.train(trainer)                  train, save, and finish the directory
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypedDict, TypeVar, cast

from cai_cli import streams
from cai_cli.data.jsonl import Record
from cai_cli.engines import heap, models
from cai_cli.engines.scorer import require_preference_model
from cai_cli.errors import CaiError, InputError
from cai_cli.method.tokens import Renderer
from cai_cli.pipeline import manifest
from cai_cli.training import arguments as trl
from cai_cli.training import card, data, libraries, memory, order, prepared, ranks, saving
from cai_cli.training.data import Data
from cai_cli.training.interrupts import Interrupts
from cai_cli.training.settings import Settings
from cai_cli.training.workspace import Workspace, disk_errors, finished, require_elsewhere, require_replaceable

if TYPE_CHECKING:
    from cai_cli.training.progress import ProgressCallback

T = TypeVar("T")
P = TypeVar("P")
Report = Callable[[Path], Record]
"""Evaluates a saved model; its result goes into the manifest."""
_SHOWN = ("step", "max_length", "format", "template_arg", "fold_system", "show_reasoning", "trust_remote_code")
"""The settings that examples depend on."""
_CORRUPT = ("SafetensorError", "UnpicklingError", "PytorchStreamReader", "JSONDecodeError", "EOFError", "FileNotFoundError")
"""Words in the errors of torch, safetensors and json for a damaged or missing file."""


class Counts(TypedDict):
    """What a run did, as its manifest holds it."""

    records_in: int
    """Rows of the training files, and bad lines."""
    records_out: int
    """Examples trained on."""
    skipped: int
    steps: int
    tokens: int
    seconds: float
    """Over all attempts of a resumed run."""


class Run(Generic[T]):
    """One run of one trainer on examples of type T. The module's docstring shows the order of its methods."""

    data: Data[T]
    """Set by `prepare`."""
    rows: int
    """Examples in a forward pass. Set by `fit`."""
    workspace: Workspace
    """Set by `open`, like the next two."""
    fingerprint: dict[str, Any]
    model_hash: str

    def __init__(
        self,
        settings: Settings,
        check: Callable[[Record], str | None],
        config: str,
        *others: Path,
        classifier: bool = False,
        **makes: Any,
    ) -> None:
        """Find the starting model, check every line with `check`, and load the tokenizer. InputError says what is wrong.

        `config`: the name of TRL's configuration class. `others`: further models that the run reads, which -o must not name
        either. `classifier`: whether the run trains a preference model, and so may start from one. `makes`: the options of this
        trainer that its examples depend on.
        """
        self.settings, self.classifier, self.config_class = settings, classifier, config
        self.trl = trl.extra(settings.step, config, settings.trl)
        trl.require_reporter(settings.report_to)
        self.folder = starting_model(settings, *others, classifier=classifier)
        trl.require_optimizer(settings)
        self.check, self.files = check, data.sources_of(settings)
        shown = [getattr(settings, name) for name in _SHOWN]
        self.entry = prepared.key(self.files.sources, settings.skip_bad, [*shown, makes], [self.folder, *others])
        if ranks.is_first() and not (prepared.cache() / self.entry).exists():
            self.files = data.check_lines(self.files, check, settings.skip_bad)
        ranks.join()  # from here on the processes of the run work together
        self.renderer = Renderer(
            models.load_tokenizer(self.folder, settings.trust_remote_code), settings.template_arg, settings.fold_system
        )
        self.format = self.renderer.format(settings.format)
        self.longest = min(settings.max_length, models.context_length(self.folder))
        self.about: dict[str, Any] = {}

    def prepare(
        self, parts: Callable[[Record], list[P]], make: Callable[[P], T], kind: type[T], size: Callable[[T], int]
    ) -> None:
        """Turn the records into examples, unless an earlier run has; see `prepared.Recipe`."""
        settings, files = self.settings, self.files
        recipe = prepared.Recipe(self.check, parts, make, kind, size)
        folder = prepared.prepared(
            self.entry,
            files.sources,
            recipe,
            settings.skip_bad,
            lambda: streams.Progress(f"cai {settings.step}: preparing", files.records, settings.quiet),
        )
        self.data = Data(folder, files, settings, kind)

    def fit(self, load: memory.Load) -> bool:
        """Decide how many examples are computed at once, and on gradient checkpointing, by what the run needs.

        InputError if it cannot fit.

        Returns False, after a table, if only a plan was asked for (`cai plan`).
        """
        libraries.calm(self.settings.debug)
        self.rows, load = memory.divided(self.settings.batch_size, load)
        if self.settings.plan:
            print("\n".join(memory.table(self.folder, self.settings, load)))
            return False
        self.checkpointing = memory.checkpointing(self.folder, self.settings, load)
        return True

    def open(self, **options: Any) -> bool:
        """Take the output directory, or the unfinished run in it, and write the lists of trained and skipped records.

        Returns False, after a message, if a run with the same fingerprint has finished the directory: nothing is to be done.
        `options`: further entries of the fingerprint. InputError if an unfinished run has another fingerprint.
        """
        found, settings = self.data, self.settings
        self.model_hash = manifest.hash_model(self.folder)
        self.fingerprint = settings.fingerprint(
            found.inputs, found.eval_inputs, model=self.model_hash, format=self.format, trl=self.trl or None, **options
        )
        made = None if settings.restart else finished(settings.output, settings.step, self.fingerprint)
        if made is not None:
            how = f" (stopped at {made['stopped']})" if "stopped" in made else ""
            streams.say(f"cai {settings.step}: already done: {settings.output}{how}; --restart trains again", settings.quiet)
            return False
        self.about = {"model": {"name": settings.model, "sha256": self.model_hash}}
        self.workspace = Workspace(settings.output, self.fingerprint, settings.restart)
        self.workspace.note(found.origins(), found.skips() if found.skipped else None)
        return True

    def config(self, longest: int | None = None, warmup: float | None = None, scheduler: str = "cosine", **own: Any) -> Any:
        """TRL's configuration: the arguments of `arguments.arguments`, this trainer's `own`, and those of --trl.

        `warmup`: None for the default share of the steps.
        """
        import trl as library

        if warmup is None:
            warmup = trl.warmup_steps(self.settings, len(self.data.training))
        options = (
            trl.arguments(self.settings, self.workspace.checkpoints, self.rows, warmup, longest, scheduler, self.checkpointing)
            | own
        )
        given = dict(self.trl)
        loading = options["model_init_kwargs"] | (given.pop("model_init_kwargs", None) or {})
        try:
            return getattr(library, self.config_class)(**options | {"model_init_kwargs": loading} | given)
        except (TypeError, ValueError) as problem:
            if not given:
                raise
            raise InputError(f"--trl {' '.join(self.settings.trl)}: TRL does not accept this ({problem})") from None

    def grouped(self, **own: Any) -> tuple[Any, Any]:
        """(dataset, configuration): the examples of the whole run in their order, those of a step of similar length.

        `own`: see `config`. Longer rows were skipped, so `max_length` must be None: TRL would truncate or drop them.
        """
        settings, training = self.settings, self.data.training
        sizes = self.data.sizes([*training, *self.data.held_out])
        per_step = settings.per_step()
        length = settings.steps * per_step if settings.steps else math.ceil(settings.epochs * len(training))
        drawn = order.grouped(sizes[: len(training)], length, per_step, settings.seed)
        steps = math.ceil(length / per_step)
        config = self.config(max(sizes), train_sampling_strategy="sequential", max_steps=steps, **own)
        return self.data.dataset([training[i] for i in drawn]), config

    def build(self, trainer: Any, config: Any, train_dataset: Any, eval_dataset: Any = None, **more: Any) -> Any:
        """TRL's trainer with the model loaded. Without an `eval_dataset`, it evaluates on the held-out examples."""
        if quantization := trl.quantization(self.settings):
            more["quantization_config"] = quantization
        if eval_dataset is None and self.data.held_out:
            eval_dataset = self.data.dataset(self.data.held_out)
        with models.loading(self.folder):
            built = trainer(
                model=str(self.folder),  # a path, not a model: TRL draws a new head right after it sets the seed
                args=config,
                train_dataset=train_dataset,
                eval_dataset=eval_dataset,
                processing_class=self.renderer.tokenizer,
                peft_config=trl.adapter(self.settings, self.classifier),
                **more,
            )
        for weight in built.model.parameters():
            if weight.requires_grad:  # a step of the optimizer is often too small for 16 bits
                weight.data = weight.data.float()
        return built

    def pair_collator(self, collator: Any, pad: int) -> Any:
        """TRL's collator of preferences with our columns, which computes a pair in one row if the model can."""
        from cai_cli.training.pairs import PairCollator

        # the weights of a sharded model are not there before the run begins
        example = None if self.settings.layout().sharded else dict(cast(Any, self.data[self.data.training[0]]))
        return PairCollator(collator, pad, example, self.data.longest())

    def train(
        self,
        trainer: Any,
        rows: int | None = None,
        ends: list[int] | None = None,
        report: Report | None = None,
        max_kl: float | None = None,
        stop_on_kl: bool = False,
    ) -> None:
        """Train to the end, from the last checkpoint if there is one, and finish the output directory.

        `rows`: examples in one pass, if the trainer cannot tell. `ends`: the tokens that end a turn, if answers are trained
        on. `report`: evaluates the saved model. `max_kl` and `stop_on_kl`: only for RL; see `ProgressCallback`.
        """
        start = time.monotonic()
        self._set_up(trainer)
        with Interrupts() as interrupts, disk_errors(self.workspace.partial):
            callback = self._fit(trainer, interrupts, rows, max_kl, stop_on_kl)
            saving.save(trainer, self.settings, self.folder, self.workspace.partial, ends)
        content = self._manifest(trainer, callback, time.monotonic() - start)
        if ranks.is_first():
            with disk_errors(self.workspace.partial):
                self._evaluate(trainer, content, report)
                card.write(self.workspace.partial, self.settings, content)
        self.workspace.finish(content)
        self._say_finished(content["counts"])

    def _set_up(self, trainer: Any) -> None:
        """Turn off what TRL does by default and `cai` does itself."""
        from transformers.trainer_callback import PrinterCallback

        if decide := getattr(trainer.data_collator, "decide", None):
            decide(trainer.model)

        if models.device() == "cpu":
            heap.keep()
        # not among the checkpoints, which are deleted at the end
        os.environ.setdefault("TENSORBOARD_LOGGING_DIR", str(self.workspace.partial / "runs"))
        if self.workspace.checkpoint:
            streams.say(f"cai {self.settings.step}: continuing after step {self.workspace.step}", self.settings.quiet)
        trainer.remove_callback(PrinterCallback)  # it prints every log to standard output
        trainer.create_model_card = lambda *_, **__: None  # TRL writes one beside the checkpoints, for publishing
        trainer.args.eval_on_start = trainer.eval_dataset is not None and not self.workspace.checkpoint

    def _fit(
        self, trainer: Any, interrupts: Interrupts, rows: int | None, max_kl: float | None, stop_on_kl: bool
    ) -> ProgressCallback:
        """Run TRL's trainer. KeyboardInterrupt if it was interrupted before its last step."""
        from cai_cli.training.progress import ProgressCallback
        from cai_cli.training.threads import ThreadsCallback

        workspace = self.workspace
        callback = ProgressCallback(trainer, self.settings, workspace, interrupts, rows, max_kl, stop_on_kl)
        trainer.add_callback(callback)
        if models.device() == "cpu":
            trainer.add_callback(ThreadsCallback())
        try:
            with reading(workspace.checkpoint, callback):
                trainer.train(resume_from_checkpoint=str(workspace.checkpoint) if workspace.checkpoint else None)
        finally:
            callback.close()
        if callback.interrupted and trainer.state.global_step < trainer.state.max_steps:
            streams.say(
                f"cai {self.settings.step}: interrupted; {workspace.partial} holds a checkpoint of step {workspace.step}; "
                "the same command continues from there"
            )
            raise KeyboardInterrupt
        return callback

    def _manifest(self, trainer: Any, callback: ProgressCallback, seconds: float) -> manifest.Manifest:
        counts: Counts = {
            "records_in": sum(entry["records"] for entry in self.data.inputs) + self.data.counts["bad"],
            "records_out": len(self.data.training),
            "skipped": self.data.skipped,
            "steps": trainer.state.global_step,
            "tokens": callback.tokens,
            "seconds": round(callback.seconds_before + seconds, 3),
        }
        return {
            "step": self.settings.step,
            "command": manifest.command_line(),
            "finished": manifest.now(),
            "versions": manifest.versions(),
            "processes": trainer.accelerator.num_processes,
            "inputs": self.data.inputs,
            "counts": counts,
            **self.about,
            "fingerprint": self.fingerprint,
            **({"stopped": callback.stopped} if callback.stopped else {}),
        }

    def _evaluate(self, trainer: Any, content: manifest.Manifest, report: Report | None) -> None:
        """Add the report to the manifest's content."""
        if report:
            trainer.optimizer = None  # the report loads the saved model, and needs the memory
            trainer.accelerator.free_memory()
            trainer.model.to("cpu")
            content["evaluation"] = report(self.workspace.partial)

    def _say_finished(self, counts: Counts) -> None:
        skipped = f", {streams.plural(counts['skipped'], 'row')} skipped" if counts["skipped"] else ""
        steps, examples = streams.plural(counts["steps"], "step"), streams.plural(counts["records_out"], "example")
        streams.say(
            f"cai {self.settings.step}: {steps}, {examples}, {streams.plural(counts['tokens'], 'token')}{skipped}, "
            f"{counts['seconds']:.1f} s -> {self.settings.output}",
            self.settings.quiet,
        )


def starting_model(settings: Settings, *others: Path, classifier: bool = False) -> Path:
    """The directory of the model that training starts from, checked before anything is loaded. InputError says what is wrong."""
    if settings.keep_adapter and not settings.lora:
        raise InputError("--keep-adapter needs --lora: there is no adapter to keep")
    if settings.load_in_4bit and not settings.lora:
        raise InputError("--load-in-4bit needs --lora: quantised weights cannot be trained, only an adapter beside them")
    folder = models.resolve(settings.model, weights=not settings.plan)
    models.read_config(folder)
    require_elsewhere(settings.output, folder, *others)
    require_replaceable(Path(settings.output))
    if not classifier:
        models.require_language_model(folder)
    elif models.is_preference_model(folder):
        require_preference_model(folder)
    return folder


@contextmanager
def reading(checkpoint: Path | None, callback: ProgressCallback) -> Iterator[None]:
    """Report an unreadable checkpoint in one sentence. `callback` knows whether training has begun."""
    try:
        yield
    except Exception as problem:
        if checkpoint and not callback.begun and any(sign in f"{type(problem).__name__} {problem}" for sign in _CORRUPT):
            raise CaiError(
                f"{checkpoint}: this checkpoint is damaged ({' '.join(str(problem).split())[:200]}); start over with --restart"
            ) from problem
        raise
