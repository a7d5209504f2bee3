"""Load a trained baseline, for use in configurations."""

from pathlib import Path

from autoencoder.checkpoint_file import check_checkpoint_file
from ldm_text.baselines.pipeline import TokenPipeline
from ldm_text.baselines.token_model import TokenModel


def load_token_model(path: Path) -> TokenModel:
    """Load the model of a pipeline folder or of a Lightning checkpoint.

    Raises:
        ValueError: If it is damaged or of another kind.
    """
    if path.is_dir():
        return TokenPipeline.from_pretrained(path).token_model
    from ldm_text.baselines.training import LitTokenModel  # it needs Lightning

    check_checkpoint_file(path)
    try:
        module = LitTokenModel.load_from_checkpoint(path, map_location="cpu", weights_only=True)
    except (TypeError, KeyError, RuntimeError) as error:
        raise ValueError(f"`{path}` is no checkpoint of a baseline: {error}") from error
    return module.token_model


class PretrainedTokenModel:
    """A trained baseline for a configuration, checked against the data module.

    Args:
        path: A pipeline folder as ``ldm-text export`` writes it, or a Lightning checkpoint
            (``.ckpt``) of ``LitTokenModel``.
        vocab_size: Size of the vocabulary that it will read; the command line links it to the data.

    Attributes:
        token_model: The model, in float32 and evaluation mode.

    Raises:
        FileNotFoundError: If there is nothing at ``path``.
        ValueError: If it holds no baseline, or one of other data.
    """

    def __init__(self, path: str, vocab_size: int | None = None) -> None:
        location = Path(path)
        if not location.exists():
            raise FileNotFoundError(
                f"No baseline at `{path}`: train one with `ldm-text fit -c configs/baselines/...`."
            )
        self.token_model = load_token_model(location).float().eval()
        trained = self.token_model.config.vocab_size
        if vocab_size is not None and vocab_size != trained:
            raise ValueError(
                f"The baseline at `{path}` was trained with vocab_size={trained}, the data module "
                f"has {vocab_size}: use the tokenizer of its training."
            )
