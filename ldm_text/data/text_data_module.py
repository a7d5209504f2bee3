"""Lightning data module from text files to batches of token ids."""

import logging
from pathlib import Path
from typing import Any, Literal

import lightning
import torch
from torch.utils.data import DataLoader

from denoiser.latent_cache import LatentCache
from ldm_text.data.batches import PackedBatches, RecordRows, keep_batch
from ldm_text.data.corpus import Corpus
from ldm_text.data.documents import Documents
from ldm_text.data.length_policy import LengthPolicy, LongTexts
from ldm_text.data.packed_store import pack_corpus
from ldm_text.data.read_ahead import ReadAhead, present, rows_reader
from ldm_text.data.resumable_loader import ResumableLoader, ShuffledRows
from ldm_text.data.token_cache import (
    TokenCache,
    cache_key,
    default_cache_dir,
    open_token_cache,
)
from ldm_text.data.tokenization import build_token_cache
from ldm_text.source_fields import SourceFields
from ldm_text.tokenizer import load_tokenizer

Part = Literal["train", "validation"]

logger = logging.getLogger(__name__)


class TextDataModule(lightning.LightningDataModule):
    """Batches of token ids for every model of the project.

    Args:
        corpus: What to read.
        tokenizer: Folder of the tokenizer.
        layout: ``rows``: one record a row, ``input_ids`` and ``attention_mask`` ``(B, S)`` with
            ``source_ids`` and ``source_mask`` where there are sources, ``label`` ``(B,)`` where
            there are labels, and ``row`` ``(B,)``.
            ``packed``: texts and sources alike as documents, several a row, without ``row`` but
            with ``document_ids`` ``(B, L)``; for training an autoencoder.
        batch_size: Rows in a batch, ``B``.
        max_length_tokens: Length of a row, ``S``, the text's end token included.
        max_source_length_tokens: Length of a source, its end token included.
        tokens_per_latent: Tokens that share a latent; divides both lengths.
        long_texts: What to do with a longer text: stop with an ``error``, ``drop`` the record,
            ``truncate`` it, or ``split`` the text into consecutive rows.
        previous_as_source: With ``long_texts: split``, make each row's source the row before it
            in its text; the first row's source is empty.
        empty_latent_prob: Share of packed training documents followed by a random number of
            latents without text. Has a say in ``packed`` only.
        num_workers: Processes that prepare batches; 0 prepares them in the training process.
        cache_dir: Folder for token ids; None takes ``$LDM_TEXT_CACHE`` or ``~/.cache/ldm-text``.
    """

    def __init__(
        self,
        corpus: Corpus,
        *,
        tokenizer: str,
        layout: Literal["packed", "rows"],
        batch_size: int,
        max_length_tokens: int = 64,
        max_source_length_tokens: int = 64,
        tokens_per_latent: int = 4,
        long_texts: LongTexts = "error",
        previous_as_source: bool = False,
        empty_latent_prob: float = 0.5,
        num_workers: int = 0,
        cache_dir: str | None = None,
    ) -> None:
        super().__init__()
        self.corpus = corpus
        self.layout = layout
        self.batch_size = batch_size
        self.max_length_tokens = max_length_tokens
        self.max_source_length_tokens = max_source_length_tokens
        self.tokens_per_latent = tokens_per_latent
        self.long_texts: LongTexts = long_texts
        self.previous_as_source = previous_as_source
        self.empty_latent_prob = empty_latent_prob
        self.num_workers = num_workers
        self.cache_dir = default_cache_dir() if cache_dir is None else Path(cache_dir).expanduser()
        self._check_arguments()
        self.tokenizer = load_tokenizer(tokenizer)
        self._datasets: dict[Part, RecordRows | PackedBatches] = {}
        self._seed = 0

    @property
    def vocab_size(self) -> int:
        """Number of tokens, the special ones included."""
        return len(self.tokenizer)

    @property
    def token_texts(self) -> list[str]:
        """Text of each token id, with the space before it where it begins a word."""
        return self.tokenizer.batch_decode([[token_id] for token_id in range(self.vocab_size)])

    @property
    def pad_token_id(self) -> int:
        """Id of the padding."""
        return self.tokenizer.pad_token_id

    @property
    def end_token_id(self) -> int:
        """Id of the end of a text."""
        return self.tokenizer.eos_token_id

    @property
    def mask_token_id(self) -> int:
        """Id that stands for a hidden token."""
        return self.tokenizer.mask_token_id

    @property
    def has_sources(self) -> bool:
        """Whether records have a source."""
        has_own = self.corpus.source_field is not None or self.corpus.labels is not None
        return has_own or self.previous_as_source

    @property
    def attribute(self) -> str | None:
        """What the labels are of, such as ``topic``; None without labels."""
        return None if self.corpus.labels is None else self.corpus.labels.labels.name

    @property
    def label_names(self) -> list[str] | None:
        """Names of the labels by number; None without labels."""
        return None if self.corpus.labels is None else [*self.corpus.labels.labels.names]

    def prepare_data(self) -> None:
        """Tokenize what is not in the cache yet."""
        for part in ("train", "validation"):
            self._ensure_cache(part)

    def setup(self, stage: str | None = None) -> None:
        """Open the caches and, in the packed layout, pack the documents."""
        # What Lightning's `seed_everything` set, equal on every device; training sets other seeds.
        self._seed = torch.initial_seed()
        parts: tuple[Part, ...] = (
            ("validation",) if stage == "validate" else ("train", "validation")
        )
        for part in parts:
            if part not in self._datasets:
                self._datasets[part] = self._dataset(part)
        if "train" in parts:
            self._check_has_a_batch(len(self._datasets["train"]))

    def train_dataloader(self) -> DataLoader:
        """Return shuffled batches of equal shape; the last incomplete one is left out.

        The order depends on seed and epoch alone, and a resumed run goes on where it was.
        """
        dataset, trainer = self._datasets["train"], self.trainer
        order = ShuffledRows(
            dataset,
            batch_size=self.batch_size,
            num_replicas=trainer.world_size if trainer is not None else 1,
            rank=trainer.global_rank if trainer is not None else 0,
            seed=self._seed,
        )
        order.more_readers = self._latent_readers
        return ResumableLoader(dataset, sampler=order, drop_last=True, **self._loader_options())

    def val_dataloader(self) -> DataLoader:
        """Return all validation rows in order; the last batch may be smaller."""
        return DataLoader(self._datasets["validation"], **self._loader_options())

    def _latent_readers(self) -> list[ReadAhead]:
        """Return what has the system read latents that the model keeps in mapped files."""
        trainer = self.trainer
        cache = None if trainer is None else getattr(trainer.lightning_module, "cache", None)
        return present(map(rows_reader, cache.columns())) if isinstance(cache, LatentCache) else []

    def _loader_options(self) -> dict[str, Any]:
        return {
            "batch_size": self.batch_size,
            "collate_fn": keep_batch,
            "num_workers": self.num_workers,
            "persistent_workers": self.num_workers > 0,
            "pin_memory": torch.cuda.is_available(),
        }

    def _dataset(self, part: Part) -> RecordRows | PackedBatches:
        cache = open_token_cache(self._ensure_cache(part))
        if self.layout == "rows":
            logger.info("%s: %d rows.", part, len(cache))
            return RecordRows(
                cache,
                max_length_tokens=self.max_length_tokens,
                max_source_length_tokens=self.max_source_length_tokens,
                pad_token_id=self.pad_token_id,
                end_token_id=self.end_token_id,
            )
        return self._pack(cache, part)

    def _pack(self, cache: TokenCache, part: Part) -> PackedBatches:
        documents = Documents(cache)
        packed = pack_corpus(
            documents,
            self.cache_dir,
            seed=self._seed if part == "train" else 0,
            max_length_tokens=self.max_length_tokens,
            tokens_per_latent=self.tokens_per_latent,
            pad_token_id=self.pad_token_id,
            end_token_id=self.end_token_id,
            empty_latent_prob=self.empty_latent_prob if part == "train" else 0.0,
        )
        logger.info("%s: %d documents in %d rows.", part, len(documents), len(packed))
        return PackedBatches(packed, pad_token_id=self.pad_token_id)

    def _ensure_cache(self, part: Part) -> Path:
        corpus, is_train = self.corpus, part == "train"
        fingerprint = corpus.train_fingerprint() if is_train else corpus.validation_fingerprint()
        policy = LengthPolicy(
            long_texts=self.long_texts,
            max_length_tokens=self.max_length_tokens,
            max_source_length_tokens=self.max_source_length_tokens,
            previous_as_source=self.previous_as_source,
        )
        fields = SourceFields(self.corpus.source_separator, self.tokens_per_latent)
        folder = self.cache_dir / cache_key(fingerprint, self.tokenizer, policy, fields)
        if not folder.is_dir():
            logger.info("Tokenizing the %s set into %s.", part, folder)
            records = corpus.train_records() if is_train else corpus.validation_records()
            name = corpus.train if is_train else corpus.validation or f"{corpus.train} (held out)"
            build_token_cache(folder, records, self.tokenizer, policy, name, fields)
        return folder

    def _check_has_a_batch(self, num_rows: int) -> None:
        num_processes = self.trainer.world_size if self.trainer is not None else 1
        if num_rows < self.batch_size * num_processes:
            share = f" in each of {num_processes} processes" if num_processes > 1 else ""
            raise ValueError(
                f"`batch_size` is {self.batch_size}{share}, but the training set makes only "
                f"{num_rows} rows: no step would be trained."
            )

    def _check_arguments(self) -> None:
        for name in ("batch_size", "max_length_tokens", "max_source_length_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1, got {getattr(self, name)}.")
        # Without sources their length has no say, so its default must not stand in the way.
        for name in ("max_length_tokens", "max_source_length_tokens")[: 1 + self.has_sources]:
            if self.tokens_per_latent < 1 or getattr(self, name) % self.tokens_per_latent:
                raise ValueError(
                    f"`{name}` must be a multiple of `tokens_per_latent` "
                    f"({self.tokens_per_latent}), got {getattr(self, name)}."
                )
        if not 0 <= self.empty_latent_prob <= 1:
            raise ValueError(
                f"`empty_latent_prob` must be between 0 and 1, got {self.empty_latent_prob}."
            )
        self._check_sources()

    def _check_sources(self) -> None:
        has_own = self.corpus.source_field is not None or self.corpus.labels is not None
        if self.long_texts == "split" and has_own:
            raise ValueError(
                '`long_texts: "split"` cuts a text from its source; with a `source_field` or '
                'labels use "drop" or "truncate".'
            )
        if self.previous_as_source and self.long_texts != "split":
            raise ValueError(
                f'`previous_as_source` needs `long_texts: "split"`, got "{self.long_texts}".'
            )
        if self.previous_as_source and self.max_source_length_tokens < self.max_length_tokens:
            raise ValueError(
                "`previous_as_source` needs `max_source_length_tokens` of at least "
                f"`max_length_tokens` ({self.max_length_tokens}), "
                f"got {self.max_source_length_tokens}."
            )
        if (
            self.layout == "packed"
            and self.has_sources
            and self.max_source_length_tokens > self.max_length_tokens
        ):
            raise ValueError(
                "In the packed layout a source is a row's document: `max_source_length_tokens` "
                f"({self.max_source_length_tokens}) must not exceed `max_length_tokens` "
                f"({self.max_length_tokens})."
            )
