"""Prompts in the form in which a chat model is spoken to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgewise._errors import InputError
from edgewise.tasks._encode import Encoder, quote
from edgewise.tasks._generate import Pieces

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_QUESTION = "QUESTION"
# Templates that write today's date (Llama 3's) or a train of thought (Qwen 3's) would give other prompts every day, or
# no answer at the next token.
_FIXED = {"date_string": "26 Jul 2024", "enable_thinking": False}


def check_chat(name: str, chat: Any) -> None:
    """Refuse what is neither True nor False: any text would count as True."""
    if not isinstance(chat, bool):
        raise InputError(f"{name}: chat={chat!r} is neither True nor False; give one")


def has_chat(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the tokenizer comes with a chat template."""
    return bool(getattr(tokenizer, "chat_template", None))


def in_chat(question: Pieces, encoder: Encoder) -> Pieces:
    """A question as a user's message, with what comes before the assistant's answer. Raises `InputError` where the
    tokenizer has no chat template that can be used.
    """
    tokenizer = encoder.tokenizer
    if not has_chat(tokenizer):
        raise InputError("chat=True: this tokenizer has no chat template; use chat=False")
    try:
        message = [{"role": "user", "content": _QUESTION}]
        whole = tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True, **_FIXED)
    except Exception as error:  # whatever a template of the model's makers runs into
        raise InputError(f"chat=True: the chat template fails ({quote(str(error))}); use chat=False") from error
    before, found, after = str(whole).partition(_QUESTION)
    if not found or _QUESTION in after:
        raise InputError("chat=True: the chat template does not show the message once; use chat=False")
    if encoder.prefix and tokenizer.bos_token and before.startswith(str(tokenizer.bos_token)):
        before = before[len(str(tokenizer.bos_token)) :]  # the encoder puts it there
    return [before, *question, after]
