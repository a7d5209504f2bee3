"""Prompts as every pipeline takes them: checked and tokenized."""

from transformers import PreTrainedTokenizerFast

from ldm_text.generation import Generators
from ldm_text.source_fields import SourceFields


def check_prompts(prompts: list[str | None], num_samples: int, generator: Generators) -> None:
    """Check prompts, the number of their samples, and that the generators fit.

    Raises:
        ValueError: If one is out of range or of a wrong kind.
    """
    if num_samples < 1:
        raise ValueError(f"`num_samples` must be at least 1, got {num_samples}.")
    for entry in prompts:
        if entry is not None and not isinstance(entry, str):
            raise ValueError(
                "`prompt` must be a string, a list of strings and None, or None, got "
                f"{type(entry).__name__}."
            )
    if not prompts:
        raise ValueError("`prompt` is an empty list: pass at least one, or None.")
    num_rows = len(prompts) * num_samples
    if isinstance(generator, list) and len(generator) != num_rows:
        raise ValueError(
            f"`generator` must hold one entry for each of the {num_rows} texts, "
            f"got {len(generator)}."
        )


def tokenize_prompts(
    tokenizer: PreTrainedTokenizerFast,
    prompts: list[str | None],
    max_source_length_tokens: int,
    truncate: bool = False,
    fields: SourceFields | None = None,
) -> list[list[int]]:
    """Tokenize source texts, each closed by the end token; ``None`` has no tokens at all.

    Args:
        tokenizer: The model's tokenizer.
        prompts: One entry a row; ``None`` means no source.
        max_source_length_tokens: Longest source, its end token included.
        truncate: Cut what is longer instead of refusing it.
        fields: How their fields are padded; by default they have none.

    Raises:
        ValueError: If a prompt is too long.
    """
    limit = max_source_length_tokens - 1
    # A character of a text is at least one of a token's: what is longer than this has too many
    # tokens, and they need not be counted, which takes 100 times the memory of the text.
    max_characters = max_source_length_tokens * max(map(len, tokenizer.get_vocab()))
    rows, fields = [], fields or SourceFields()
    for index, prompt in enumerate(prompts):
        if prompt is None:
            rows.append([])
            continue
        ids = fields.encode(tokenizer, [prompt[:max_characters]])[0]
        if len(ids) > limit and not truncate:
            count = len(ids) if len(prompt) <= max_characters else f"more than {limit}"
            raise ValueError(
                f"prompt[{index}] has {count} tokens, the model takes at most {limit}: "
                f"shorten it, or cut it with `truncate`. It begins with {prompt[:60]!r}."
            )
        rows.append([*ids[:limit], tokenizer.eos_token_id])
    return rows
