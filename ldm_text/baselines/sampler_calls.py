"""How many calls the samplers of masked diffusion can be given, for a text of so many tokens."""


def check_at_most_one_call_a_token(
    num_tokens: int, num_inference_steps: int, **options: float
) -> None:
    """Refuse more calls than there are tokens.

    Raises:
        ValueError: If there would be calls that reveal nothing.
    """
    if num_inference_steps > num_tokens:
        raise ValueError(
            "`num_inference_steps` must be at most the number of tokens of a text with this "
            f"sampler, {num_tokens}, got {num_inference_steps}."
        )


def check_one_call_a_token(num_tokens: int, num_inference_steps: int) -> None:
    """Refuse another number of calls than that of the tokens.

    Raises:
        ValueError: If it is another one.
    """
    if num_inference_steps != num_tokens:
        raise ValueError(
            "`num_inference_steps` has no effect with the sampler 'first_hitting': there is a call "
            f"for each of the {num_tokens} tokens. Leave it out, got {num_inference_steps}."
        )


def check_blocks(
    num_tokens: int, num_inference_steps: int, block_length: int | None = None
) -> None:
    """Refuse blocks that differ in their tokens or calls; by default there is one.

    Raises:
        ValueError: If blocks or calls do not divide evenly.
    """
    check_at_most_one_call_a_token(num_tokens, num_inference_steps)
    num_blocks, rest = divmod(num_tokens, num_tokens if block_length is None else block_length)
    if rest:
        raise ValueError(
            f"`block_length` must divide the number of tokens of a text, {num_tokens}, got "
            f"{block_length}."
        )
    if num_inference_steps % num_blocks:
        raise ValueError(
            f"`num_inference_steps` must be a multiple of the number of blocks, {num_blocks}, got "
            f"{num_inference_steps}."
        )
