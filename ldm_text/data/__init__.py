"""From files of text to batches: readers, tokenized cache, packing and the data module.

Shapes: ``B`` rows in a batch, ``S`` tokens in a row, ``L`` latents in a row
(``L = S / tokens_per_latent``).
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ldm_text.data.corpus import Corpus
    from ldm_text.data.labels import LabelField, TextFieldLabels
    from ldm_text.data.text_data_module import TextDataModule

__all__ = ["Corpus", "LabelField", "TextDataModule", "TextFieldLabels"]


def __getattr__(name: str) -> Any:
    """Import on first use: readers and tokenizer must not wait for Lightning."""
    if name == "Corpus":
        from ldm_text.data.corpus import Corpus

        return Corpus
    if name in ("LabelField", "TextFieldLabels"):
        from ldm_text.data import labels

        return getattr(labels, name)
    if name == "TextDataModule":
        from ldm_text.data.text_data_module import TextDataModule

        return TextDataModule
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
