"""Prompts to token ids, such that text from a record never becomes a control token.

The chat template is rendered as usual and tokenised as usual, with one exception: where a
message's content spells one of the tokenizer's own tokens (`<|im_end|>`, `</think>`), the
spelling is cut in two, and the two halves are tokenised separately. The model reads the same
characters, as text.

Some tokenizers put a space before every text that they are given. A text that continues another one
is tokenised without it, so that an answer has the same tokens in training, scoring and generation.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

from cai_cli.data import reasoning
from cai_cli.data.jsonl import Record
from cai_cli.data.records import Messages, assistant
from cai_cli.engines.base import Completion, Request, common_prefix
from cai_cli.errors import InputError, Skipped
from cai_cli.method.prompts import Prompt
from cai_cli.method.template import Template, folded

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Asker(Protocol):
    """What a program of the method needs from the command that runs it: settings, a renderer, and requests for the model."""

    @property
    def format(self) -> str:
        """The prompt format, "chat" or "hh"."""
        ...

    @property
    def seed(self) -> int:
        """The run's --seed."""
        ...

    @property
    def renderer(self) -> Renderer:
        """Turns prompts into tokens for this model."""
        ...

    def request(self, prompt: Prompt, *parts: str | int) -> Request:
        """A request to continue a prompt, its seed drawn from the run's seed and `parts`."""
        ...

    def shown(self, record: Record) -> Record:
        """The record as the model may see it: with the answers' reasoning only if --show-reasoning asks for it."""
        ...


# One of these characters marks the cuts. They are of Unicode's private use area: without a meaning, so ordinary text rarely
# holds one, and not white space, so a template that trims its messages keeps them.
_MARKS = [chr(code) for code in range(0xE000, 0xE100)]
_ANCHOR = "\ue100"
"""A text before a text that continues another one. No vocabulary holds it, so no token joins the two."""

KEPT, KEPT_TOKENS = 1024, 1000
"""How many pieces of prompts are kept with their tokens, and how many tokens such a piece may have."""


def _texts(prompt: Prompt) -> list[str]:
    """The texts of a prompt that come from records."""
    return [prompt.text, prompt.prefill, *(m["content"] for m in prompt.messages or [])]


class Renderer:
    """Turns a `Prompt` into the token ids and the text that a model gets."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, template_args: Mapping[str, Any] | None = None, fold_system: bool = False
    ) -> None:
        """`template_args` and `fold_system`: see `Template`."""
        self.tokenizer = tokenizer
        self.template = Template(tokenizer, template_args, fold_system)
        self.keep_messages = False
        """Whether requests hold their messages too, for a server that may need them."""
        # tokens of each shared prefix, by its text; and results of `options`, by its arguments: a run has few of either
        self._prefixes: dict[str, list[int]] = {}
        self._options: dict[tuple[str, tuple[str, ...]], tuple[list[int], int, list[int]]] = {}
        self._kept: dict[str, list[int]] = {}

    @property
    def has_template(self) -> bool:
        """Whether the tokenizer has a chat template."""
        return bool(self.tokenizer.chat_template)

    def format(self, name: str) -> str:
        """The prompt format of --format, with "auto" resolved: chat if the tokenizer has a template, else hh."""
        if name == "chat" and not self.has_template:
            raise InputError("this model's tokenizer has no chat template; use --format hh")
        found = name if name != "auto" else "chat" if self.has_template else "hh"
        if found == "chat":
            self.template.require_arguments()
        return found

    @cached_property
    def _control(self) -> re.Pattern[str] | None:
        """Matches the spelling of every control token, the longest first; None if the tokenizer has none."""
        added = {token.content for token in self.tokenizer.added_tokens_decoder.values()}
        added |= set(self.tokenizer.all_special_tokens)
        added |= {tag for pair in reasoning.TAGS for tag in pair}  # templates look for them, whether or not they are tokens
        # a single character cannot be cut, and added tokens that are only white space are ordinary text
        spelled = sorted((token for token in added if len(token) > 1 and token.strip()), key=len, reverse=True)
        return re.compile("|".join(map(re.escape, spelled))) if spelled else None

    @cached_property
    def _start(self) -> list[int]:
        """What the tokenizer puts before every text: its first token (BOS), or nothing.

        Only plain text needs it: a chat template writes the first token itself if the model expects one.
        """
        # that a BOS is defined says little, since some tokenizers never add theirs; encoding an empty text shows it
        bos = self.tokenizer.bos_token_id
        ids = list(self.tokenizer("").input_ids)
        return [bos] if bos is not None and ids[:1] == [bos] else []

    def _mark(self, *contents: str) -> str:
        """A character that none of the texts holds. Skipped if they hold all 256 candidates."""
        # a record may hold any character, and `_encode` drops the mark: a fixed mark that the text holds would be lost
        for mark in _MARKS:
            if not any(mark in content for content in contents):
                return mark
        raise Skipped("it holds every character of the private use area that could mark a cut")

    def _cut(self, text: str, mark: str) -> str:
        """`text` with `mark` after the first character of every spelling of a control token."""
        if self._control is None:
            return text
        previous = None
        while previous != text:  # a cut creates no new spelling, but where two overlap, one pass cuts only the first
            previous = text
            text = self._control.sub(lambda m: f"{m[0][:1]}{mark}{m[0][1:]}", text)
        return text

    def _encode(self, text: str, mark: str) -> list[int]:
        """Token ids of a text with cuts, with nothing added before or after it."""
        # A tokenizer looks for its control tokens in the text of each call. The halves of a spelling are in different
        # calls, so neither is found. Between cuts the text stays whole and gets the tokens that it always gets.
        first, *others = text.split(mark)
        return self._ids(first) + [token for piece in others for token in self._continued(piece)]

    def _ids(self, text: str) -> list[int]:
        """Token ids of a text. What begins at a control token is kept, because many prompts hold the same few-shot examples."""
        first, *others = self._divider.split(text) if self._divider else [text]
        pieces = [first, *map("".join, zip(others[::2], others[1::2], strict=True))]
        known = {piece: self._kept.pop(piece) for piece in dict.fromkeys(pieces) if piece in self._kept}
        if new := [piece for piece in dict.fromkeys(pieces) if piece not in known]:
            known |= zip(new, self._tokenised(new), strict=True)
        found = [token for piece in pieces for token in known[piece]]
        self._kept |= {piece: ids for piece, ids in known.items() if len(ids) <= KEPT_TOKENS}  # the latest last
        while len(self._kept) > KEPT:
            del self._kept[next(iter(self._kept))]
        return found

    def _tokenised(self, texts: list[str]) -> list[list[int]]:
        """Token ids of each text, with nothing added before or after it."""
        if not self._plain:
            return list(self.tokenizer(texts, add_special_tokens=False).input_ids)
        backend: Any = self.tokenizer.backend_tokenizer
        if backend.truncation or backend.padding:
            backend.no_truncation()
            backend.no_padding()
        return [encoding.ids for encoding in backend.encode_batch_fast(texts, add_special_tokens=False)]

    @cached_property
    def _plain(self) -> bool:
        """Whether transformers only calls the library `tokenizers`, and then makes offsets and masks, which take long."""
        from transformers import PreTrainedTokenizerFast as Fast

        kind = type(self.tokenizer)
        same = issubclass(kind, Fast) and kind.__call__ is Fast.__call__ and kind._encode_plus is Fast._encode_plus
        return same and not self.tokenizer.split_special_tokens

    @cached_property
    def _divider(self) -> re.Pattern[str] | None:
        """Matches the tokens before which a text can be divided; None if there are none.

        A tokenizer looks for its added tokens first, and tokenises what is between them piece by piece. So the pieces alone have
        the same ids, if each keeps the added token before it, and if none of these tokens takes the space around it.
        """
        added = self.tokenizer.added_tokens_decoder.values()
        spelled = sorted((token.content for token in added if not token.normalized), key=len, reverse=True)
        if not self.tokenizer.is_fast or any(t.lstrip or t.rstrip or t.single_word for t in added):
            return None
        # only those of the template: Gemma has thousands, even line breaks, and to look for all takes longer than to tokenise
        template = str(self.tokenizer.chat_template or "")
        spelled = [token for token in spelled if token in template]
        if not spelled:
            return None
        return re.compile(f"({'|'.join(map(re.escape, spelled))})")

    def _continued(self, text: str) -> list[int]:
        """Token ids of a text that continues another one: without the space that some tokenizers put before a text."""
        anchor, whole = self._anchor, self._ids(_ANCHOR + text)
        return whole[len(anchor) :] if whole[: len(anchor)] == anchor else self._ids(text)

    @cached_property
    def _anchor(self) -> list[int]:
        return self._ids(_ANCHOR)

    def render(self, prompt: Prompt, complete: bool = False) -> tuple[list[int], str]:
        """(ids, text) of a prompt.

        With `complete` a chat is rendered as a finished conversation, with no turn opened for the
        assistant: the input of a preference model. Skipped if the template refuses the
        conversation (some refuse a system message).
        """
        mark = self._mark(*_texts(prompt))
        text = self._marked(prompt, mark, complete)
        return self._start_of(prompt) + self._encode(text, mark), text.replace(mark, "")

    def _start_of(self, prompt: Prompt) -> list[int]:
        return self._start if prompt.messages is None else []

    def _marked(self, prompt: Prompt, mark: str, complete: bool = False) -> str:
        """A prompt's text with a mark in every spelling of a control token."""
        # The cuts are made before the template is rendered: afterwards nothing tells the template's own control tokens,
        # which must stay whole, from those that a message spells.
        if prompt.messages is None:
            return self._cut(prompt.text, mark)
        messages: Messages = [{"role": m["role"], "content": self._cut(m["content"], mark)} for m in prompt.messages]
        shown = self.template.render(messages, complete)
        # the first words of an answer: no reasoning may be open before them
        return shown + self.template.before_answer + self._cut(prompt.prefill, mark) if prompt.prefill else shown

    def completion(self, prompt: Prompt, answer: str, reason: str | None = None) -> tuple[list[int], list[int]]:
        """(ids of a prompt, ids of an answer to it): what the model gets, and what it should write, without the end of the turn.

        The answer's ids are those that it has in the whole conversation. `reason`: reasoning that the model should write
        before it, between its own control tokens; without it, reasoning that the prompt opens is closed.
        """
        mark = self._mark(*_texts(prompt), answer, reason or "")
        text, more = self._marked(prompt, mark), self._cut(answer, mark)
        if prompt.messages is not None:
            opening, closing = self.template.reasoning
            more = (f"{opening}{self._cut(reason, mark)}{closing}" if reason else self.template.before_answer) + more
        before, whole = self._encode(text, mark), self._encode(text + more, mark)
        if whole[: len(before)] != before:  # a token would join the two, but generation begins after the prompt's last token
            first, *others = more.split(mark)
            whole = before + [token for piece in (first, *others) for token in self._continued(piece)]
        return self._start_of(prompt) + before, whole[len(before) :]

    def closing(self) -> list[int]:
        """The ids of what the template puts after an answer."""
        return self._continued(self.template.closing)

    def separate(self, request: Request, done: Completion) -> Completion:
        """A completion of `request` with its reasoning apart from its answer, if the model reasoned."""
        if not done.completion_tokens or done.reasoning is not None:  # the placeholder of a dry run; a server has done it
            return done
        template, text = self.template, done.text.strip()
        # if the tags, or what precedes an answer, are special tokens, `done.text` leaves them out
        whole = self._tags_are_special and bool(done.tokens)
        if whole:
            text = str(self.tokenizer.decode(list(done.tokens)))
            text = text[: min((at for stop in request.stop if (at := text.find(stop)) >= 0), default=len(text))].strip()
        opened = self.has_template and template.opens_reasoning and request.text.endswith(template.opened[-16:])
        if self.has_template and not opened:
            text = text.removeprefix(template.before_answer.strip())
        parts = reasoning.split(text, template.tags if self.has_template else reasoning.TAGS, opened)
        answer = self._special.sub("", parts.answer).strip() if whole else parts.answer
        if (answer, parts.reasoning, parts.cut) == (done.text.strip(), None, False):
            return done
        return replace(done, text=answer, reasoning=parts.reasoning, answered=not parts.cut)

    @cached_property
    def _special(self) -> re.Pattern[str]:
        """Matches the special tokens, which the text of a completion does not hold."""
        added = {token.content for token in self.tokenizer.added_tokens_decoder.values() if token.special}
        return re.compile("|".join(map(re.escape, sorted(added | set(self.tokenizer.all_special_tokens)))) or r"(?!)")

    @cached_property
    def _tags_are_special(self) -> bool:
        """Whether the text of a completion lacks the tags around reasoning, or what precedes an answer."""
        template = self.template
        around = [*(tag for pair in template.tags for tag in pair), template.before_answer] if self.has_template else []
        return any(self._special.search(text) for text in around)

    def _shared(self, prompt: Prompt, ids: list[int]) -> int:
        """How many of a prompt's `ids` belong to the prefix that it shares with other prompts."""
        if not prompt.shared:
            return 0
        if prompt.messages is None:
            prefix = replace(prompt, text=prompt.text[: prompt.shared])
        else:
            prefix = replace(prompt, messages=prompt.messages[: prompt.shared])
        key = prefix.text if prefix.messages is None else "\0".join(m["content"] for m in prefix.messages)
        if key not in self._prefixes:
            try:
                self._prefixes[key] = self.render(prefix, complete=True)[0]
            except Skipped:  # a template may refuse a system message that no user's message follows
                self._prefixes[key] = []
        # compared, and not only counted: a tokenizer may join the prefix's last token with the text after it
        return common_prefix(self._prefixes[key], ids)

    def options(self, end: str, letters: tuple[str, ...]) -> tuple[list[int], int, list[int]]:
        """(tokens of `end`, how many of them remain before a letter, token of each letter).

        InputError if the letters after `end` do not differ in one token each.
        """
        # A letter may join the last tokens of `end`: "(" and "A" may be one token "(A". So each letter is tokenised together
        # with `end`. What all the rows share stays in the prompt, and the first token that differs spells the letter.
        if (end, letters) not in self._options:
            alone = self.tokenizer(end, add_special_tokens=False).input_ids
            spelled = [self.tokenizer(end + letter, add_special_tokens=False).input_ids for letter in letters]
            same = 0
            while all(len(s) > same for s in spelled) and len({s[same] for s in spelled}) == 1:
                same += 1
            tokens = [s[same] if len(s) > same else -1 for s in spelled]
            if -1 in tokens or len(set(tokens)) < len(letters) or alone[:same] != spelled[0][:same]:
                named = ", ".join(letters)
                raise InputError(f"this tokenizer does not spell the options {named} as one token each; use another model")
            self._options[end, letters] = alone, same, tokens
        return self._options[end, letters]

    def request(self, prompt: Prompt, seed: int, max_tokens: int, temperature: float, top_p: float) -> Request:
        """A request to continue a prompt."""
        ids, text = self.render(prompt)
        made = Request("generate", ids, text, seed, max_tokens, temperature, top_p, prompt.stop, shared=self._shared(prompt, ids))
        return self._with_messages(made, prompt)

    def _with_messages(self, request: Request, prompt: Prompt) -> Request:
        """The request with its messages, if they are kept."""
        if not self.keep_messages or prompt.messages is None:
            return request
        messages = folded(prompt.messages) if self.template.fold_system else prompt.messages
        return replace(request, messages=[*messages, assistant(prompt.prefill)] if prompt.prefill else messages)

    def choice(self, prompt: Prompt, letters: tuple[str, ...]) -> Request:
        """A request for the probabilities of the letters that may come next (paper, section 4.1).

        The letters' tokens depend only on the prompt's last words, `prompt.end`, which hold no text of a record. InputError
        if the tokenizer joins these words with the text before them.
        """
        ids, text = self.render(prompt)
        end, same, tokens = self.options(prompt.end, letters)
        # the first token of `end` may differ: some tokenizers spell the start of a text in another way than its middle
        if ids[len(ids) - len(end) + 1 :] != end[1:]:
            raise InputError(f"this tokenizer joins {prompt.end!r} with the text before it; use another model")
        ids = ids[: len(ids) - (len(end) - same)]  # without the tokens that a letter joins
        options = dict(zip(letters, tokens, strict=True))
        return self._with_messages(Request("choose", ids, text, options=options, shared=self._shared(prompt, ids)), prompt)

    def likelihood_request(self, prompt: Prompt, answer: str) -> Request:
        """A request for a language model's log-likelihood of an answer to a prompt. Skipped if the answer has no tokens.

        What the template puts before an answer (closed reasoning) belongs to the prompt.
        """
        before, ids = self.completion(prompt, answer)
        _, given = self.completion(prompt, "")
        length = len(ids) - common_prefix(ids, given)
        if not length:
            raise Skipped("an answer is empty")
        before_answer = "" if prompt.messages is None else self.template.before_answer
        return Request("score", before + ids, f"{self.render(prompt)[1]}{before_answer}{answer}", answer=length)

    def score_request(self, prompt: Prompt) -> Request:
        """A request to score a finished conversation with a preference model."""
        ids, text = self.render(prompt, complete=True)
        return Request("score", ids, text)
