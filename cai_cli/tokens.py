"""Prompts to token ids, such that text from a record never becomes a control token.

The chat template is rendered as usual and tokenised as usual, with one exception: where a
message's content spells one of the tokenizer's own tokens (`<|im_end|>`, `</think>`), the
spelling is cut in two and each half tokenised for itself. The model reads the same characters,
as text.
"""

from __future__ import annotations

import re
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING

from jinja2 import TemplateError

from cai_cli.engines.base import Request
from cai_cli.errors import InputError, SetAside
from cai_cli.prompts import Prompt

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_CUTS = [chr(code) for code in range(0xE000, 0xE100)]


def common_prefix(a: list[int], b: list[int]) -> int:
    """How many tokens two rows begin with alike."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


class Renderer:
    """Turns a `Prompt` into the token ids and the text that a model gets."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        self._leads: dict[str, list[int]] = {}
        self._options: dict[tuple[str, tuple[str, ...]], tuple[list[int], int, list[int]]] = {}

    @property
    def has_template(self) -> bool:
        """Whether the tokenizer brings a chat template."""
        return bool(self.tokenizer.chat_template)

    def format(self, name: str) -> str:
        """The prompt format of --format, with "auto" resolved: chat where the tokenizer has a template, else hh."""
        if name == "chat" and not self.has_template:
            raise InputError("this model's tokenizer has no chat template; use --format hh")
        return name if name != "auto" else "chat" if self.has_template else "hh"

    @cached_property
    def _control(self) -> re.Pattern[str] | None:
        added = {token.content for token in self.tokenizer.added_tokens_decoder.values()}
        added |= set(self.tokenizer.all_special_tokens)
        spelled = sorted((token for token in added if len(token) > 1 and token.strip()), key=len, reverse=True)
        return re.compile("|".join(map(re.escape, spelled))) if spelled else None

    @cached_property
    def _prefix(self) -> list[int]:
        """What the tokenizer puts before every plain text (usually nothing, or its first token)."""
        bos = self.tokenizer.bos_token_id
        ids = list(self.tokenizer("").input_ids)
        return [bos] if bos is not None and ids[:1] == [bos] else []

    def _mark(self, *contents: str) -> str:
        """A character that stands in none of the texts. SetAside for a text that holds all of 256 rare ones."""
        for cut in _CUTS:
            if not any(cut in content for content in contents):
                return cut
        raise SetAside("it holds every character of the private use area that could mark a place in it")

    def _cut(self, text: str, mark: str) -> str:
        """`text` with `mark` inside every spelling of a control token."""
        if self._control is None:
            return text
        previous = None
        while previous != text:  # a cut can't make a new spelling, but spellings may overlap
            previous = text
            text = self._control.sub(lambda m: f"{m[0][:1]}{mark}{m[0][1:]}", text)
        return text

    def _encode(self, text: str, mark: str) -> list[int]:
        ids: list[int] = []
        for piece in text.split(mark):
            ids += self.tokenizer(piece, add_special_tokens=False).input_ids
        return ids

    def render(self, prompt: Prompt, complete: bool = False) -> tuple[list[int], str]:
        """(ids, text) of a prompt.

        With `complete` a chat is rendered as a finished conversation, with no turn opened for the
        assistant: what a preference model reads. SetAside where the template refuses the
        conversation (a system message in some, for instance).
        """
        contents = [prompt.prefill, *(m["content"] for m in prompt.messages)] if prompt.messages else [prompt.text]
        mark = self._mark(*contents)
        if prompt.messages is None:
            text = self._cut(prompt.text, mark)
            return self._prefix + self._encode(text, mark), text.replace(mark, "")
        messages = [{**m, "content": self._cut(m["content"], mark)} for m in prompt.messages]
        try:
            shown = self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=not complete)
        except TemplateError as problem:
            raise SetAside(f"the model's chat template refuses it ({problem})") from None
        text = str(shown) + self._cut(prompt.prefill, mark)
        return self._encode(text, mark), text.replace(mark, "")

    def _shared(self, prompt: Prompt, ids: list[int]) -> int:
        """How many of a prompt's `ids` belong to the part of it that it shares with other prompts."""
        if not prompt.shared:
            return 0
        if prompt.messages is None:
            lead = replace(prompt, text=prompt.text[: prompt.shared])
        else:
            lead = replace(prompt, messages=prompt.messages[: prompt.shared])
        key = lead.text if lead.messages is None else "\0".join(m["content"] for m in lead.messages)
        if key not in self._leads:
            self._leads[key] = self.render(lead, complete=True)[0]
        return common_prefix(self._leads[key], ids)

    def plain(self, text: str) -> list[int]:
        """Token ids of a piece of text from a record, with nothing put before or after it."""
        mark = self._mark(text)
        return self._encode(self._cut(text, mark), mark)

    def options(self, end: str, letters: tuple[str, ...]) -> tuple[list[int], int, list[int]]:
        """(tokens of `end`, how many of them stand before a letter, token of each letter): what really follows `end`.

        Found by tokenising `end` with each letter: a letter may join the last tokens of `end`. InputError where the
        letters don't differ in a single token.
        """
        if (end, letters) not in self._options:
            plain = self.tokenizer(end, add_special_tokens=False).input_ids
            spelled = [self.tokenizer(end + letter, add_special_tokens=False).input_ids for letter in letters]
            same = 0
            while all(len(s) > same for s in spelled) and len({s[same] for s in spelled}) == 1:
                same += 1
            tokens = [s[same] if len(s) > same else -1 for s in spelled]
            if -1 in tokens or len(set(tokens)) < len(letters) or plain[:same] != spelled[0][:same]:
                raise InputError(f"this tokenizer does not spell the options {', '.join(letters)} as one token each")
            self._options[end, letters] = plain, same, tokens
        return self._options[end, letters]

    def request(self, prompt: Prompt, seed: int, max_tokens: int, temperature: float, top_p: float) -> Request:
        """A request to continue a prompt."""
        ids, text = self.render(prompt)
        return Request("generate", ids, text, seed, max_tokens, temperature, top_p, prompt.stop, shared=self._shared(prompt, ids))

    def choice(self, prompt: Prompt, letters: tuple[str, ...]) -> Request:
        """A request to weigh the letters that may come next.

        Where they are read and which tokens they are depends on the prompt's last words alone (`prompt.end`), which hold no
        text of a record. InputError where the tokenizer joins them with what stands before.
        """
        ids, text = self.render(prompt)
        end, same, tokens = self.options(prompt.end, letters)
        if ids[len(ids) - len(end) + 1 :] != end[1:]:  # the first may be spelled otherwise at the start of a text
            raise InputError(f"this tokenizer does not keep {prompt.end!r} apart from the text before it")
        ids = ids[: len(ids) - (len(end) - same)]
        options = dict(zip(letters, tokens, strict=True))
        return Request("choose", ids, text, options=options, shared=self._shared(prompt, ids))

    def judgement(self, prompt: Prompt) -> Request:
        """A request to score a finished conversation."""
        ids, text = self.render(prompt, complete=True)
        return Request("score", ids, text)
