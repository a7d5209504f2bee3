r"""How well a pipeline holds to what is asked: the figures of docs/control.md.

    python tests/benchmarks/control.py --pipeline checkpoints/e2e \
        --data data/e2e_nlg/validation.jsonl.xz

Known text: templates made of human texts, with one to three gaps of one to three words, every
second one with its source. Lengths: texts of a given number of tokens. Calls: texts that stop
early, against the same texts that do not. Edits: how far a text moves with the strength. Prints
JSON; float32.
"""

import json
import random
import sys
from dataclasses import replace
from pathlib import Path
from statistics import fmean

from jsonargparse import auto_cli

from ldm_text.control.candidates import WriteOptions
from ldm_text.control.edit import edit_texts
from ldm_text.control.edit_request import EditRequest
from ldm_text.control.request import TextRequest
from ldm_text.control.template import Gap, Part
from ldm_text.control.write import write_texts
from ldm_text.data.records import TextRecord, read_records
from ldm_text.evaluation.references import group_by_source
from ldm_text.generated_rows import TextSettings
from ldm_text.pipeline import LatentTextPipeline
from ldm_text.tokenizer import encode_text

LENGTHS = (10, 15, 20, 25, 30, 40, 50)
STRENGTHS = tuple(tenth / 10 for tenth in range(11))


def make_template(text: str, draw: random.Random, pipeline: LatentTextPipeline) -> tuple[Part, ...]:
    """Take one to three stretches of one to three words out of a text; gaps keep their length."""
    words = text.split(" ")
    parts: list[Part] = []
    place = 0
    starts = sorted(draw.sample(range(1, len(words) - 1), min(draw.randint(1, 3), len(words) - 2)))
    for start in starts:
        if start <= place:  # a word of known text stands between two gaps
            continue
        end = min(start + draw.randint(1, 3), len(words) - 1)
        taken = " " + " ".join(words[start:end])
        num_tokens = len(pipeline.tokenizer(taken, add_special_tokens=False)["input_ids"])
        known = " ".join(words[place:start])
        parts += [known if place == 0 else " " + known, Gap(num_tokens, num_tokens)]
        place = end
    return (*parts, " " + " ".join(words[place:]))


def known_text(
    pipeline: LatentTextPipeline, records: list[TextRecord], settings: TextSettings
) -> dict[str, float]:
    """Fill templates, and look whether their known parts stand in the texts."""
    draw = random.Random(0)
    requests = []
    for row, record in enumerate(records):
        parts = make_template(record.text, draw, pipeline)
        requests.append(TextRequest(parts, record.source if row % 2 else None, row=row))
    written = write_texts(pipeline, requests, WriteOptions(settings=settings))
    whole = 0
    for request, result in zip(requests, written, strict=True):
        place, is_whole = 0, True
        for part in request.parts:
            if isinstance(part, str):
                found = result.text.find(part, place)
                is_whole = is_whole and found >= 0
                place = found + len(part)
        whole += is_whole
    return {"templates": len(requests), "texts_with_all_known_parts": whole}


def lengths(
    pipeline: LatentTextPipeline, sources: list[str], settings: TextSettings
) -> dict[str, float]:
    """Ask for texts of given lengths: mean absolute errors in tokens, and after tokenizing anew."""
    errors, errors_again = [], []
    for length in LENGTHS:
        requests = [
            TextRequest(source=source, length_tokens=length, row=row)
            for row, source in enumerate(sources)
        ]
        for result in write_texts(pipeline, requests, WriteOptions(settings=settings)):
            errors.append(abs(result.num_tokens - length))
            errors_again.append(abs(len(encode_text(pipeline.tokenizer, result.text)) - length))
    return {"error_tokens": fmean(errors), "error_tokens_again": fmean(errors_again)}


def calls(
    pipeline: LatentTextPipeline, sources: list[str], settings: TextSettings
) -> list[dict[str, float]]:
    """Let texts stop early: calls of a text on average, and texts that are as without."""
    rows = []
    for steps in (4, 8, 16):
        base = replace(settings, num_inference_steps=steps)
        requests = [TextRequest(source=source, row=row) for row, source in enumerate(sources)]
        plain = write_texts(pipeline, requests, WriteOptions(settings=base))
        for patience, confidence in ((1, None), (1, 0.5), (2, None)):
            sampling = {"stop_patience": patience}
            if confidence is not None:
                sampling["stop_confidence"] = confidence
            options = WriteOptions(settings=replace(base, sampling=sampling))
            stopped = write_texts(pipeline, requests, options)
            pairs = zip(plain, stopped, strict=True)
            same = sum(first.text == second.text for first, second in pairs)
            mean_calls = fmean(result.num_network_calls or steps for result in stopped)
            rows.append({"steps": steps, **sampling, "calls": mean_calls, "same": same})
    return rows


def edits(
    pipeline: LatentTextPipeline, records: list[TextRecord], settings: TextSettings
) -> dict[str, list[float]]:
    """Edit texts: share of tokens that changed at each strength, with and without a source."""
    settings = replace(settings, num_inference_steps=8)
    found: dict[str, list[float]] = {"strength": list(STRENGTHS)}
    for name in ("with_source", "without"):
        requests = [
            EditRequest(record.text, record.source if name == "with_source" else None, row=row)
            for row, record in enumerate(records)
        ]
        found[name] = [
            fmean(each.changed for each in edit_texts(pipeline, requests, strength, settings))
            for strength in STRENGTHS
        ]
    return found


def control(pipeline: Path, data: Path, num_templates: int = 1000) -> int:
    """Measure a latent pipeline on the validation split of E2E.

    Args:
        pipeline: Folder of the pipeline.
        data: JSON Lines with `source` and `target`.
        num_templates: Templates to fill.

    Returns:
        The exit code.
    """
    loaded = LatentTextPipeline.from_pretrained(pipeline)
    records = list(read_records(str(data), text_field="target", source_field="source"))
    limit = loaded.config.max_length_tokens - 1
    records = [
        record
        for record in records
        if len(record.text.split(" ")) > 3
        and len(encode_text(loaded.tokenizer, record.text)) < limit
    ]
    sources = [row.source for row in group_by_source(records) if row.source is not None]
    settings = TextSettings(num_inference_steps=4, guidance_scale=1.0, precision="float32")
    guided = replace(settings, guidance_scale=2.0)
    step = max(1, len(records) // num_templates)
    result = {
        "known_text": known_text(loaded, records[::step][:num_templates], settings),
        "lengths": lengths(loaded, sources[:24], guided),
        "calls": calls(loaded, sources[:64], guided),
        "edits": edits(loaded, records[:: len(records) // 24][:24], settings),
    }
    sys.stdout.write(json.dumps(result, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(auto_cli(control, as_positional=False))
