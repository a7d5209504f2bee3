"""What to feed with bytes: readers that must give a right answer or one ``ValueError``.

Each target takes bytes and a folder of its own; anything else that it raises is a finding. The
Hypothesis tests and the coverage-guided fuzzer share them.
"""

import gzip
import json
import lzma
from collections.abc import Callable
from pathlib import Path

import torch
import zstandard
from safetensors.torch import load_file

from autoencoder.checkpoint_file import check_checkpoint_file
from ldm_text.checkpoint import check_latent_pipeline_folder
from ldm_text.checksums import check_checksums
from ldm_text.component_files import read_options
from ldm_text.control.template import parse_template
from ldm_text.data.records import TextRecord, read_records
from ldm_text.one_line import one_line
from ldm_text.resume import newest_whole_checkpoint
from ldm_text.tokenizer import encode_text, load_tokenizer

KINDS = (".jsonl", ".txt", ".jsonl.gz", ".jsonl.xz", ".jsonl.zst", ".txt.zst", ".parquet")
PACK = {".gz": gzip.compress, ".xz": lzma.compress, ".zst": zstandard.compress}
REFUSALS = (ValueError, FileNotFoundError)


def refused(run: Callable[[], object]) -> bool:
    """Run; tell whether it was refused with a message that is one line on the command line."""
    try:
        run()
    except REFUSALS as error:
        message = one_line(str(error))
        assert message.strip(), "a refusal without a reason"
        assert "\n" not in message
        return True
    return False


def records(data: bytes, folder: Path) -> None:
    """Read a file of records whose kind the first byte chooses; the second packs what follows."""
    kind, content = KINDS[data[0] % len(KINDS)] if data else ".txt", data[2:]
    suffix = Path(kind).suffix
    if len(data) > 1 and data[1] % 2 and suffix in PACK:
        content = PACK[suffix](content)
    path = folder / f"data{kind}"
    path.write_bytes(content)

    def run() -> None:
        for record in read_records(path, source_field="source" if "jsonl" in kind else None):
            assert isinstance(record, TextRecord)
            assert isinstance(record.text, str)
            record.text.encode()  # no half of a surrogate pair

    refused(run)


def json_file(data: bytes, folder: Path) -> None:
    """Read a JSON file as those of a component are read."""
    path = folder / "config.json"
    path.write_bytes(data)
    if not refused(lambda: read_options(path)):
        assert isinstance(json.loads(data), dict)


def template(data: bytes, folder: Path) -> None:
    """Split a template with masks; its known texts and gaps stand in it in their order."""
    text = data.decode("utf-8", "surrogateescape")
    parts: list = []
    if not refused(lambda: parts.extend(parse_template(text))):
        assert any(not isinstance(part, str) for part in parts)
        known = [part for part in parts if isinstance(part, str)]
        assert len("".join(known)) <= len(text)


def checksums(data: bytes, folder: Path) -> None:
    """Read a list of checksums."""
    (folder / "SHA256SUMS").write_bytes(data)
    refused(lambda: check_checksums(folder))


def checkpoint(data: bytes, folder: Path) -> None:
    """Check a file for a checkpoint, and look for the newest whole one beside it."""
    path = folder / "last.ckpt"
    path.write_bytes(data)
    refused(lambda: check_checkpoint_file(path))
    refused(lambda: newest_whole_checkpoint(folder))


def weights(data: bytes, folder: Path, pipeline: Path | None = None) -> None:
    """Take bytes for the weights of a denoiser."""
    assert pipeline is not None, "a whole pipeline stands around them"
    path = pipeline / "denoiser" / "diffusion_pytorch_model.safetensors"
    path.write_bytes(data)
    if not refused(lambda: check_latent_pipeline_folder(pipeline)):
        assert all(value.is_floating_point() for value in load_file(path).values())


def tokenizer_file(data: bytes, folder: Path) -> None:
    """Take bytes for a tokenizer; one that loads writes ids for any text."""
    (folder / "tokenizer.json").write_bytes(data)

    def run() -> None:
        ids = encode_text(load_tokenizer(folder), "The Vaults \u00e9\U0001f600")
        assert all(isinstance(number, int) for number in ids)

    refused(run)


def exact_checkpoint(data: bytes, folder: Path, content: dict) -> None:
    """Take bytes for a checkpoint of known content: refused, or the same content."""
    path = folder / "exact.ckpt"
    path.write_bytes(data)
    try:
        check_checkpoint_file(path)
        loaded = torch.load(path, weights_only=True)
    except (ValueError, RuntimeError):  # PyTorch looks at the archive's directory itself
        return
    assert loaded.keys() == content.keys()
    assert all(torch.equal(loaded[name], content[name]) for name in content)


TARGETS = {
    "records": records,
    "json": json_file,
    "template": template,
    "checksums": checksums,
    "checkpoint": checkpoint,
    "tokenizer": tokenizer_file,
}
