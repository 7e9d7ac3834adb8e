"""A model's chat template: what it is given, and what it does around an answer.

Models differ in what stands between the prompt and an answer: nothing, a space, an empty reasoning block, a channel. Nothing
of this is looked up by the model's name. The template is asked, with short probes.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

from cai_cli.data import reasoning
from cai_cli.data.records import Messages, user
from cai_cli.errors import InputError, Skipped

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_QUESTION, _ANSWER, _REASON = "qzqz", "azaz", "rzrz"
"""Texts of the probes: words that no template holds."""


class Template:
    """The chat template of a tokenizer, with the arguments of --template-arg."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, arguments: Mapping[str, Any] | None = None, fold_system: bool = False
    ) -> None:
        self.tokenizer, self.arguments, self.fold_system = tokenizer, dict(arguments or {}), fold_system

    @cached_property
    def variables(self) -> set[str]:
        """The names that the template reads. Empty if it cannot be parsed."""
        from jinja2 import TemplateError, ext, meta
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        text: Any = self.tokenizer.chat_template or ""
        text = text if isinstance(text, str) else text.get("default", "")
        try:
            return meta.find_undeclared_variables(ImmutableSandboxedEnvironment(extensions=[ext.loopcontrols]).parse(text))
        except (TemplateError, RecursionError):  # it has tags of transformers' own, or is nested too deep
            return set()

    def require_arguments(self) -> None:
        """InputError if the template reads no variable of the name that --template-arg sets."""
        for name in self.arguments:
            if self.variables and name not in self.variables:
                near = difflib.get_close_matches(name, self.variables, 1)
                hint = f"; did you mean '{near[0]}'?" if near else ""
                raise InputError(f"--template-arg: this model's chat template has no variable '{name}'{hint}")

    def render(self, messages: Messages, complete: bool) -> str:
        """A conversation as text; unless `complete`, with the assistant's turn opened. Skipped if the template refuses it."""
        if self.fold_system:
            messages = folded(messages)
        return self._apply([{"role": m["role"], "content": self._content(m["content"])} for m in messages], complete)

    def _content(self, text: str) -> Any:
        """A message's content, in the form that the template takes."""
        return [{"type": "text", "text": text}] if self._takes_parts else text

    def _apply(self, messages: list[dict[str, Any]], complete: bool) -> str:
        try:
            return str(
                self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=not complete, **self.arguments)
            )
        except Exception as problem:  # a template is a program: besides its own errors it may divide by zero or fill the memory
            refused = "; --fold-system puts a system message into the user's" if "ystem" in str(problem) else ""
            raise Skipped(f"the model's chat template refuses it ({problem}){refused}") from None

    @cached_property
    def _takes_parts(self) -> bool:
        """Whether a message's content must be a list of parts: such a template drops a string, or fails."""
        try:
            return _QUESTION not in self._apply([{"role": "user", "content": _QUESTION}], complete=False)
        except Skipped:
            return True

    def _probe(self, **more: str) -> str:
        """A finished exchange. `more`: keys of the assistant's message."""
        question, answer = ({"role": r, "content": self._content(t)} for r, t in (("user", _QUESTION), ("assistant", _ANSWER)))
        return self._apply([question, {**answer, **more}], complete=True)

    @cached_property
    def opened(self) -> str:
        """A question with the assistant's turn opened."""
        return self.render([user(_QUESTION)], complete=False)

    @cached_property
    def closing(self) -> str:
        """What the template puts after an answer."""
        return self._probe().rpartition(_ANSWER)[2]

    @cached_property
    def reasoning(self) -> tuple[str, str]:
        """What stands before and after reasoning in the assistant's turn, as control tokens; the answer follows.

        If the opened turn has the opening tag already, the first is "". If the template does not say, `<think>` is assumed.
        """
        whole = self._probe(**dict.fromkeys(reasoning.KEYS, _REASON))
        before, found, after = whole.removeprefix(self.opened).partition(_REASON)
        if whole.startswith(self.opened) and found and _ANSWER in after:
            return before, after.partition(_ANSWER)[0]
        opened = self.opened.rstrip().endswith(reasoning.OPEN)
        return "" if opened else f"{reasoning.OPEN}\n", f"\n{reasoning.CLOSE}\n\n"

    @property
    def opens_reasoning(self) -> bool:
        """Whether the assistant's turn begins inside the reasoning."""
        return not self.reasoning[0].strip() or self.opened.rstrip().endswith(reasoning.OPEN)

    @cached_property
    def before_answer(self) -> str:
        """What stands between the opened turn and an answer without reasoning.

        It closes reasoning that the turn opens. Some templates put an empty reasoning block, a channel or a space here.
        """
        whole = self._probe()
        if whole.startswith(self.opened):
            return whole.removeprefix(self.opened).partition(_ANSWER)[0]
        return self.reasoning[1] if self.opens_reasoning else ""

    @cached_property
    def tags(self) -> list[tuple[str, str]]:
        """The (opening, closing) tags that may enclose reasoning in a text of the model: its template's first, if it has any."""
        start, end = self.reasoning
        own = (start.strip() or reasoning.OPEN, end.strip())
        return list(dict.fromkeys([own, *reasoning.TAGS]))


def folded(messages: Messages) -> Messages:
    """The messages with a system message at their beginning put into the first user's message, before its text."""
    if len(messages) < 2 or messages[0]["role"] != "system":
        return messages
    system, *rest = messages
    for i, message in enumerate(rest):
        if message["role"] == "user":
            return [*rest[:i], user(f"{system['content']}\n\n{message['content']}"), *rest[i + 1 :]]
    return rest
