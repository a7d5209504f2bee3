"""Byte-level BPE tokenizers whose ``decode`` returns exactly the text given to ``encode``."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ldm_text.data.records import TextRecord, read_records
from ldm_text.phrases import add_phrases

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import BatchEncoding, PreTrainedTokenizerFast

PAD_TOKEN = "<|pad|>"
END_TOKEN = "<|end|>"
MASK_TOKEN = "<|mask|>"
SPECIAL_TOKENS = (PAD_TOKEN, END_TOKEN, MASK_TOKEN)  # the position is the id
MIN_VOCAB_SIZE = 256 + len(SPECIAL_TOKENS)

MAX_FILE_BYTES = 1 << 27  # a vocabulary of a million tokens takes less

PHRASE_SHARE = 1 / 3  # of the vocabulary, where tokens may be phrases

logger = logging.getLogger(__name__)


def train_tokenizer(
    data: str,
    output: Path,
    *,
    vocab_size: int = 2048,
    pre_tokenizer: Literal["words", "phrases"] = "words",
    text_field: str = "text",
    source_field: str | None = None,
    split: str = "train",
) -> None:
    """Train a byte-level BPE tokenizer and save it as a ``transformers`` folder.

    Args:
        data: Training text: a file, a dataset folder, ``hub:owner/name`` or ``excerpt:NAME``.
        output: Folder to write. Files of an earlier tokenizer in it are replaced.
        vocab_size: Number of tokens, the 256 bytes and the 3 special tokens included.
        pre_tokenizer: ``words`` keeps a token inside one word (GPT-2's rule); ``phrases`` gives a
            third of the vocabulary to frequent phrases of several words, see ``ldm_text.phrases``.
        text_field: Field that holds the text.
        source_field: Field with the source text, if the tokenizer must cover it as well.
        split: Split to read from a dataset folder or a hub dataset.

    Raises:
        FileNotFoundError: If ``data`` does not exist.
        ValueError: If ``vocab_size`` is too small or ``data`` cannot be read.
    """
    from transformers import PreTrainedTokenizerFast

    if vocab_size < MIN_VOCAB_SIZE:
        raise ValueError(
            f"`vocab_size` must be at least {MIN_VOCAB_SIZE} (256 bytes and "
            f"{len(SPECIAL_TOKENS)} special tokens), got {vocab_size}."
        )
    if pre_tokenizer not in ("words", "phrases"):
        raise ValueError(f"`pre_tokenizer` must be words or phrases, got '{pre_tokenizer}'.")
    records = read_records(data, text_field=text_field, source_field=source_field, split=split)
    backend = _train_backend(_training_texts(records), vocab_size, pre_tokenizer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token=PAD_TOKEN,
        eos_token=END_TOKEN,
        mask_token=MASK_TOKEN,
        clean_up_tokenization_spaces=False,
        # "<|end|>" written in a text is seven ordinary characters, not the end of the text.
        split_special_tokens=True,
    )
    output.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(output)
    if len(tokenizer) < vocab_size:
        logger.warning(
            "The text of %s yields only %d tokens, %d were asked for.",
            data,
            len(tokenizer),
            vocab_size,
        )
    logger.info("Saved a tokenizer of %d tokens to %s.", len(tokenizer), output)


def load_tokenizer(path: str | Path) -> PreTrainedTokenizerFast:
    """Load a tokenizer folder and check that it has what the models need.

    Args:
        path: Folder with a ``tokenizer.json``, as ``train_tokenizer`` writes it.

    Raises:
        FileNotFoundError: If there is no ``tokenizer.json`` in the folder.
        ValueError: If the file cannot be read or the pad, end or mask token is missing.
    """
    from transformers import PreTrainedTokenizerFast

    folder = Path(path)
    if not (folder / "tokenizer.json").is_file():
        raise FileNotFoundError(
            f"No tokenizer in {folder}: `tokenizer.json` is missing. "
            "Write one with `train_tokenizer`."
        )
    for file in folder.glob("*.json"):
        if file.stat().st_size > MAX_FILE_BYTES:
            raise ValueError(f"The tokenizer in {folder} cannot be read: {file.name} is too large.")
    try:
        tokenizer = PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
        tokenizer.decode(encode_text(tokenizer, "a text"))  # options of wrong kinds show here
    except Exception as error:  # the tokenizers library raises bare Exception on a broken file
        raise ValueError(f"The tokenizer in {folder} cannot be read: {error}") from error
    roles = {"pad": tokenizer.pad_token, "eos": tokenizer.eos_token, "mask": tokenizer.mask_token}
    missing = [f"{role}_token" for role, token in roles.items() if token is None]
    if missing:
        raise ValueError(f"The tokenizer in {folder} has no {', '.join(missing)}.")
    return tokenizer


def encode_text(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    """Return the token ids of a text, without special tokens."""
    return encode_texts(tokenizer, [text])[0]


def encode_texts(tokenizer: PreTrainedTokenizerFast, texts: Sequence[str]) -> list[list[int]]:
    """Return the token ids of several texts, without special tokens."""
    return _encode(tokenizer, texts)["input_ids"] if texts else []


def encode_with_offsets(
    tokenizer: PreTrainedTokenizerFast, texts: Sequence[str]
) -> list[tuple[list[int], list[tuple[int, int]]]]:
    """Return the token ids of several texts, and where in the text each token begins and ends."""
    if not texts:
        return []
    encoded = _encode(tokenizer, texts, return_offsets_mapping=True)
    return list(zip(encoded["input_ids"], encoded["offset_mapping"], strict=True))


def _encode(
    tokenizer: PreTrainedTokenizerFast, texts: Sequence[str], **options: bool
) -> BatchEncoding:
    return tokenizer(
        list(texts),
        add_special_tokens=False,
        split_special_tokens=True,
        return_attention_mask=False,
        return_token_type_ids=False,
        verbose=False,
        **options,
    )


def _training_texts(records: Iterator[TextRecord]) -> Iterator[str]:
    """Yield every text and each distinct source once: repeated sources must not rule the merges."""
    seen: set[str] = set()
    for record in records:
        yield record.text
        if record.source is not None and record.source not in seen:
            seen.add(record.source)
            yield record.source


def _train_backend(texts: Iterator[str], vocab_size: int, pre_tokenizer: str) -> Tokenizer:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    num_phrases = round(PHRASE_SHARE * vocab_size) if pre_tokenizer == "phrases" else 0
    num_phrases = min(num_phrases, vocab_size - MIN_VOCAB_SIZE)
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - num_phrases,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    kept_texts = list(texts)
    backend.train_from_iterator(kept_texts, trainer)
    return add_phrases(backend, kept_texts, num_phrases) if num_phrases else backend
