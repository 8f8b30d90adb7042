"""The folder of a BERT's tokenizer: vocab.txt or tokenizer.json, and settings."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from zlpr_jax._errors import InputError
from zlpr_jax.data._open import read_text
from zlpr_jax.data._wordpiece import (
    CLS,
    LONGEST_WORD,
    MASK,
    PAD,
    PREFIX,
    SEP,
    UNKNOWN,
    VOCABULARY,
    check_tokens,
    read_wordpiece_vocabulary,
    write_vocabulary,
)

FAST, CONFIG = "tokenizer.json", "tokenizer_config.json"
_HOLES = 1000  # ids without a token; more are no vocabulary, and would fill memory


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """What a folder says of its tokenizer; `None`: nothing."""

    lowercase: bool | None = None
    strip_accents: bool | None = None
    isolate_chinese: bool | None = None

    def filled_from(self, other: "Settings") -> "Settings":
        """These settings, and those of `other` where there are none."""
        mine, theirs = dataclasses.asdict(self), dataclasses.asdict(other)
        return Settings(
            **{
                name: theirs[name] if value is None else value
                for name, value in mine.items()
            }
        )


def read_folder(folder: Path) -> tuple[tuple[str, ...], Settings, dict[str, Any]]:
    """The tokens and the settings of a folder, and what this library wrote besides.

    tokenizer_config.json goes before tokenizer.json, as in transformers; the latter is
    read only if there is no vocab.txt.
    """
    config = _read_object(folder / CONFIG) if (folder / CONFIG).is_file() else {}
    settings = Settings(
        lowercase=_flag(config, "do_lower_case", folder / CONFIG),
        strip_accents=_flag(config, "strip_accents", folder / CONFIG),
        isolate_chinese=_flag(config, "tokenize_chinese_chars", folder / CONFIG),
    )
    own = config.get("zlpr_jax", {})
    if not isinstance(own, dict):
        raise InputError(
            f'{folder / CONFIG}: "zlpr_jax" must be an object, got {own!a}: save the '
            "tokenizer again"
        )
    if (folder / VOCABULARY).is_file():
        return read_wordpiece_vocabulary(folder), settings, own
    if not (folder / FAST).is_file():
        raise InputError(
            f"{folder}: holds neither {VOCABULARY} nor {FAST}; expected the folder "
            "of a BERT: name one that has it"
        )
    tokens, more = _read_fast(folder / FAST)
    return tokens, settings.filled_from(more), own


def write_folder(
    folder: Path, tokens: Sequence[str], settings: Settings, own: dict[str, Any]
) -> None:
    """Write what `read_folder` reads, which transformers can load too."""
    if (folder / FAST).exists():
        raise InputError(
            f"{folder / FAST}: is there, and other programs would read it before "
            f"{VOCABULARY}: remove it, or save to another folder"
        )
    folder.mkdir(parents=True, exist_ok=True)
    write_vocabulary(folder / VOCABULARY, tokens)
    config = {
        "tokenizer_class": "BertTokenizer",
        "do_lower_case": settings.lowercase,
        "strip_accents": settings.strip_accents,
        "tokenize_chinese_chars": settings.isolate_chinese,
        "unk_token": UNKNOWN,
        "pad_token": PAD,
        "cls_token": CLS,
        "sep_token": SEP,
        "mask_token": MASK,
        "zlpr_jax": own,
    }
    text = json.dumps(config, indent=2) + "\n"
    (folder / CONFIG).write_bytes(text.encode())


def _read_object(path: Path) -> dict[str, Any]:
    text = read_text(path)
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: is not JSON ({error}): copy it again") from None
    if not isinstance(value, dict):
        raise InputError(f"{path}: must be a JSON object: copy it again")
    return value


def _flag(values: dict[str, Any], name: str, path: Path) -> bool | None:
    value = values.get(name)
    if value is not None and not isinstance(value, bool):
        raise InputError(f'{path}: "{name}" must be true, false or null, got {value!a}')
    return value


def _read_fast(path: Path) -> tuple[tuple[str, ...], Settings]:
    """The tokens and settings of a tokenizer.json, if it cuts text as BERT does."""
    content = _read_object(path)
    parts = {
        name: value if isinstance(value := content.get(name), dict) else {}
        for name in ("model", "normalizer", "pre_tokenizer")
    }
    model, normalizer = parts["model"], parts["normalizer"]
    # Else the same vocabulary would give other tokens, and nothing would tell.
    for name, got, expected in (
        ("model.type", model.get("type"), "WordPiece"),
        ("model.unk_token", model.get("unk_token", UNKNOWN), UNKNOWN),
        ("prefix", model.get("continuing_subword_prefix", PREFIX), PREFIX),
        (
            "model.max_input_chars_per_word",
            model.get("max_input_chars_per_word", LONGEST_WORD),
            LONGEST_WORD,
        ),
        ("normalizer.type", normalizer.get("type"), "BertNormalizer"),
        ("normalizer.clean_text", normalizer.get("clean_text", True), True),
        ("pre_tokenizer.type", parts["pre_tokenizer"].get("type"), "BertPreTokenizer"),
    ):
        if got != expected:
            raise InputError(
                f"{path}: {name} must be {expected!r}, got {got!a}: expected the "
                "tokenizer of a BERT"
            )
    ids = model.get("vocab")
    if not isinstance(ids, dict) or not all(type(i) is int for i in ids.values()):
        raise InputError(f"{path}: model.vocab must give an id for each token")
    tokens = _in_order(ids, path)
    _check_added(content.get("added_tokens") or [], ids, path)
    try:
        check_tokens(tokens)
    except ValueError as error:
        raise InputError(f"{path}: {error}") from None
    return tokens, Settings(
        lowercase=_flag(normalizer, "lowercase", path),
        strip_accents=_flag(normalizer, "strip_accents", path),
        isolate_chinese=_flag(normalizer, "handle_chinese_chars", path),
    )


def _in_order(ids: dict[str, int], path: Path) -> tuple[str, ...]:
    """The tokens by their ids.

    transformers strips the lines of a vocab.txt, so that U+2028 became the empty token,
    and where it strips two alike an id has none. No text gives the token that is put
    there, since "[" is a word: as before, the id is never used.
    """
    size = max(ids.values(), default=-1) + 1
    if min(ids.values(), default=0) < 0 or size > len(ids) + _HOLES:
        raise InputError(
            f"{path}: the ids of model.vocab must be 0 to {len(ids) - 1}, got "
            f"{min(ids.values())} to {size - 1}"
        )
    tokens = [f"[hole{number}]" for number in range(size)]
    taken: dict[int, str] = {}
    for token, number in ids.items():
        if number in taken:
            raise InputError(
                f"{path}: {taken[number]!a} and {token!a} both have the id {number}"
            )
        taken[number] = token
        tokens[number] = token or tokens[number]
    return tuple(tokens)


def _check_added(added: Any, ids: dict[str, int], path: Path) -> None:
    entries = added if isinstance(added, list) else [added]
    for entry in entries:
        token = entry.get("content") if isinstance(entry, dict) else None
        if not isinstance(token, str) or token not in ids:
            raise InputError(
                f"{path}: the added token {token!a} is not in model.vocab: only tokens "
                "of the vocabulary can be read"
            )
