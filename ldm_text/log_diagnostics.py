"""The quantities of ``ldm-text diagnose`` that cost little, as validation metrics of a training."""

import torch
from lightning import LightningModule, Trainer
from torch import Tensor

from autoencoder.diagnostics import (
    decode_all,
    encode_all,
    intervene,
    latent_spectrum,
    midpoint_agreement,
    nearest_neighbours,
    noise_recovery,
    score_decoder,
)
from autoencoder.model import TextAutoencoder
from autoencoder.sharding import whole_networks
from autoencoder.training import LitAutoencoder
from denoiser.diagnostics import linear_noise_shift, predict_once, recovered_information
from denoiser.training import LitDenoiser
from ldm_text.first_batch import KeepFirstBatch

TIMES = (0.0, 0.2, 0.33, 0.5, 0.6, 0.67, 0.75, 0.8, 0.86, 0.9, 0.95, 1.0)
PREDICTION_TIMES = (0.5, 0.8, 0.9, 1.0)  # noise-to-signal ratios 1, 4, 9 and no signal


def documents_of(batch: dict[str, Tensor], num_texts: int) -> tuple[Tensor, Tensor]:
    """Take texts out of a packed batch, one a row.

    Args:
        batch: ``input_ids`` and ``attention_mask`` ``(B, S)``; ``document_ids`` ``(B, L)`` where
            texts share rows.
        num_texts: Most texts to take.

    Returns:
        Token ids and masks ``(N, S)``; the ids behind a text are of no text, and masked.
    """
    ids, mask = batch["input_ids"], batch["attention_mask"].bool()
    if "document_ids" not in batch:
        return ids[:num_texts], mask[:num_texts]
    documents = batch["document_ids"]
    owner = documents.repeat_interleave(ids.shape[1] // documents.shape[1], dim=1)
    positions = torch.arange(ids.shape[1], device=ids.device)
    taken: list[tuple[Tensor, Tensor]] = []
    for row in range(len(ids)):
        for document in documents[row].unique().tolist():
            place = (owner[row] == document) & mask[row]
            if document < 0 or not place.any() or len(taken) == num_texts:
                continue
            length = int(place.sum())
            text = torch.zeros_like(ids[row])
            text[:length] = ids[row, place]
            taken.append((text, positions < length))
    texts, masks = zip(*taken, strict=True)
    return torch.stack(texts), torch.stack(masks)


def diagnose_latents(
    autoencoder: TextAutoencoder, ids: Tensor, mask: Tensor, generator: torch.Generator
) -> dict[str, float]:
    """Measure what latents are worth for diffusion.

    Args:
        autoencoder: The autoencoder; its measured statistics have no say.
        ids: Token ids ``(N, S)``.
        mask: Their masks.
        generator: Source of all noise.

    Returns:
        ``noise_recovery``, the token accuracy averaged over times from data to noise (the area
        under the recovery curve over ``t``); ``midpoint_agreement``, the share of the tokens of
        midpoints between nearest texts that are of either end, where the ends differ;
        ``latents_owed``, how many nats a token the decoder loses with latents of another text;
        ``participation_ratio`` and ``active_channels`` of the spectrum; and ``noise_shift``, the
        one that would make recovered information fall linearly. What cannot be told is left out:
        of equal latents nothing, and of one text nothing that needs another.
    """
    latents = encode_all(autoencoder, ids, mask)
    held = latents[autoencoder.latent_mask(mask)]
    found: dict[str, float] = {}
    if (held != held[:1]).any():
        found |= diagnose_space(autoencoder, latents, held, ids, mask, generator)
    if (ids != ids[:1]).any():
        found |= diagnose_pairs(autoencoder, latents, ids, mask, generator)
    return found


def diagnose_space(
    autoencoder: TextAutoencoder,
    latents: Tensor,
    held: Tensor,
    ids: Tensor,
    mask: Tensor,
    generator: torch.Generator,
) -> dict[str, float]:
    """Measure recovery from noise and the spectrum, see ``diagnose_latents``.

    Args:
        autoencoder: The autoencoder.
        latents: Latents of the texts, ``(N, L, D)``.
        held: Those that hold text, ``(M, D)``, at least two of them different.
        ids: Token ids of the texts.
        mask: Their masks.
        generator: Source of all noise.
    """
    std, mean = torch.std_mean(held, dim=0)
    curve = noise_recovery(
        autoencoder, latents, ids, mask, TIMES, generator, noise_mean=mean, noise_std=std
    )
    times = torch.tensor(TIMES, dtype=torch.double)
    accuracies = torch.tensor([row["token_accuracy"] for row in curve], dtype=torch.double)
    found = {"noise_recovery": float(torch.trapezoid(accuracies, times))}
    if accuracies[0] > accuracies[-1]:
        found["noise_shift"] = linear_noise_shift(times, recovered_information(accuracies))[0]
    spectrum = latent_spectrum(held)
    found["participation_ratio"] = spectrum["participation_ratio"]
    found["active_channels"] = float(spectrum["num_active_channels"])
    return found


def diagnose_pairs(
    autoencoder: TextAutoencoder,
    latents: Tensor,
    ids: Tensor,
    mask: Tensor,
    generator: torch.Generator,
) -> dict[str, float]:
    """Measure what becomes of texts with latents of others, see ``diagnose_latents``.

    Args:
        autoencoder: The autoencoder.
        latents: Latents of the texts, ``(N, L, D)``.
        ids: Token ids of the texts, at least two of them different.
        mask: Their masks.
        generator: Source of the order.
    """
    scores = intervene(autoencoder, latents, ids, mask, generator)
    owed = scores["shuffled"]["cross_entropy"] - scores["matched"]["cross_entropy"]
    found = {"latents_owed": owed}
    neighbours = nearest_neighbours(latents, ids)
    midpoint_ids = decode_all(autoencoder, (latents + latents[neighbours]) / 2)
    agreement = midpoint_agreement(midpoint_ids, ids, mask, neighbours)
    if agreement["agreement_where_ends_differ"] is not None:
        found["midpoint_agreement"] = agreement["agreement_where_ends_differ"]
    return found


def diagnose_predictions(
    module: LitDenoiser, batch: dict[str, Tensor], generator: torch.Generator
) -> dict[str, float]:
    """Score the decoder on single predictions of the denoiser, at four amounts of noise.

    Returns:
        ``predicted_t_...``, the cross-entropy in nats a token.
    """
    ids, mask = batch["input_ids"], batch["attention_mask"]
    latents = module.encode(batch, "input")
    known = module.known_latents(batch, latents)
    found = {}
    for time in PREDICTION_TIMES:
        t = torch.full((len(ids),), time, device=ids.device)
        predicted = predict_once(module.denoiser, latents, *known, t, generator)
        decoded = module.autoencoder.statistics.unstandardize(predicted)
        score = score_decoder(module.autoencoder, decoded, ids, mask)
        found[f"predicted_t_{time:.2f}"] = score["cross_entropy"]
    return found


class LogDiagnostics(KeepFirstBatch):
    """Log quantities of ``ldm-text diagnose`` at each validation, on texts of its first batch.

    Of an autoencoder in training those of ``diagnose_latents``: reconstruction is not what makes
    latents worth diffusing, so an early stop should watch ``val/noise_recovery`` or
    ``val/midpoint_agreement``. Of a denoiser those of ``diagnose_predictions``. All are logged as
    ``val/NAME``; noise is the same every time.

    Args:
        num_texts: Most texts to measure on.
    """

    def __init__(self, num_texts: int = 64) -> None:
        if num_texts < 2:
            raise ValueError(f"`num_texts` must be at least 2, got {num_texts}.")
        super().__init__(num_texts)

    @torch.no_grad()
    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure and log; each process on its own texts."""
        if trainer.sanity_checking:
            return
        generator = torch.Generator().manual_seed(0)
        with whole_networks(pl_module), torch.compiler.set_stance("force_eager"):
            if isinstance(pl_module, LitAutoencoder):
                ids, mask = documents_of(self.batch, self.max_rows)
                found = diagnose_latents(pl_module.autoencoder, ids, mask, generator)
            elif isinstance(pl_module, LitDenoiser):
                found = diagnose_predictions(pl_module, self.batch, generator)
            else:
                return
        for name, value in found.items():
            pl_module.log(f"val/{name}", value)
