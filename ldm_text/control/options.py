"""Options of ``ldm-text generate --control.NAME``: known text, lengths, constraints, guidance."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from denoiser.guiders import GuiderName, make_guider
from ldm_text.control.candidates import ChooseBy
from ldm_text.control.constraints import Constraints
from ldm_text.control.request import Length, around_gap
from ldm_text.control.template import Part
from ldm_text.data.records import string_field
from ldm_text.labels import labelled_prompts, labels_of
from ldm_text.loading import TextPipeline, latent_pipeline, load_pipeline
from ldm_text.pipeline import LatentTextPipeline
from ldm_text.whole_lines import check_output_file


@dataclass(frozen=True)
class ControlOptions:
    """Control over the texts of ``generate``.

    Attributes:
        prefix: Text that all texts begin with, kept token for token.
        suffix: Text that all texts end with, likewise.
        length_tokens: Number of tokens of the texts, or the least and the largest, as ``[20,30]``.
        prefix_field: Field of a prompt's row that holds its own prefix.
        suffix_field: Field of a prompt's row that holds its own suffix.
        length_field: Field of a prompt's row that holds its own length: a number, or a list of two.
        label: Label of all texts, for a model that was trained with labels.
        label_field: Field of a prompt's row that holds its own label.
        required: Words or phrases that each text must hold.
        forbidden: Words or phrases that no text may hold.
        required_patterns: Regular expressions that must match in each text; candidates without a
            match fall away.
        forbidden_patterns: Regular expressions that must not match.
        num_candidates: Texts that are written for each one that is kept.
        choose_by: Keep the candidate that the model finds most probable (score), or the one that
            agrees most with the others (agreement).
        guider: Guidance of a latent pipeline in place of its own: constant, interval, projected or
            autoguidance, with ``--guidance_scale``.
        guider_start: Share of the steps after which guidance begins.
        guider_stop: Share of the steps after which it ends.
        weak_pipeline: Folder of a weaker pipeline with the same autoencoder, for autoguidance.
        trace: HTML file to write: the denoising of the first text of this run, step by step.
    """

    prefix: str = ""
    suffix: str = ""
    length_tokens: Length | None = None
    prefix_field: str | None = None
    suffix_field: str | None = None
    length_field: str | None = None
    label: str | None = None
    label_field: str | None = None
    required: tuple[str, ...] = ()
    forbidden: tuple[str, ...] = ()
    required_patterns: tuple[str, ...] = ()
    forbidden_patterns: tuple[str, ...] = ()
    num_candidates: int = 1
    choose_by: ChooseBy = "score"
    guider: GuiderName | None = None
    guider_start: float = 0.0
    guider_stop: float = 1.0
    weak_pipeline: Path | None = None
    trace: Path | None = None

    def constraints(self) -> Constraints:
        """Return what all texts must satisfy."""
        return Constraints(
            tuple(self.required),
            tuple(self.forbidden),
            tuple(self.required_patterns),
            tuple(self.forbidden_patterns),
        )

    def settings(self) -> dict[str, Any]:
        """Return what the texts depend on, as JSON."""
        settings = {name: value for name, value in asdict(self).items() if name != "trace"}
        return settings | {"weak_pipeline": self.weak_pipeline and str(self.weak_pipeline)}

    def parts_of(self, record: Mapping[str, Any]) -> tuple[Part, ...]:
        """Return the known text of a row and its gap.

        Raises:
            ValueError: If a field is missing or no string.
        """
        known = []
        for name in ("prefix", "suffix"):
            field = getattr(self, f"{name}_field")
            value = getattr(self, name) if field is None else field_of(record, field)
            if not isinstance(value, str):
                raise ValueError(f"`{field}` must be a string, got {value!r}.")
            known.append(value)
        return around_gap(*known)

    def label_of(self, record: Mapping[str, Any]) -> str | None:
        """Return the label that a row asks for.

        Raises:
            ValueError: If its field is missing or no string.
        """
        if self.label_field is None:
            return self.label
        return string_field(record, self.label_field)

    def length_of(self, record: Mapping[str, Any]) -> Length | None:
        """Return the length that a row asks for.

        Raises:
            ValueError: If its field is missing or holds no length.
        """
        if self.length_field is None:
            return self.length_tokens
        value = field_of(record, self.length_field)
        if value is None or is_count(value):
            return value
        if isinstance(value, list | tuple) and len(value) == 2 and all(map(is_count, value)):
            return (value[0], value[1])
        raise ValueError(
            f"`{self.length_field}` must be a number of tokens or a list of two, got {value!r}."
        )

    def check_label(self, pipeline: TextPipeline) -> None:
        """Check the options of labels against a pipeline.

        Raises:
            ValueError: If it has no labels, or not this one, or both options are given.
        """
        if self.label is not None and self.label_field is not None:
            raise ValueError("`label` and `label_field` exclude each other; give one.")
        if self.label_field is not None and labels_of(pipeline.config) is None:
            raise ValueError("`label_field` has no effect: the model was trained without labels.")
        labelled_prompts(labels_of(pipeline.config), [None], self.label)

    def check_trace(self, pipeline: TextPipeline) -> None:
        """Check that the page of a trace can be written.

        Raises:
            FileNotFoundError: If its folder is missing.
            ValueError: If the path is no file, or the pipeline has no latents.
        """
        if self.trace is not None:
            check_output_file("--control.trace", self.trace)
            latent_pipeline(pipeline, "trace")

    def set_guider(self, pipeline: TextPipeline, guidance_scale: float | None) -> None:
        """Replace the guider of a pipeline, if another one is asked for.

        Raises:
            ValueError: If the pipeline has none, or the options do not fit.
        """
        if self.guider is None:
            if (self.guider_start, self.guider_stop, self.weak_pipeline) != (0.0, 1.0, None):
                raise ValueError(
                    "`guider_start`, `guider_stop` and `weak_pipeline` have no effect without "
                    "`guider`."
                )
            return
        if not isinstance(pipeline, LatentTextPipeline):
            raise ValueError(
                f"`guider` has no effect: {type(pipeline.token_model).__name__} has none."
            )
        scale = pipeline.default_guidance_scale if guidance_scale is None else guidance_scale
        weak = None if self.weak_pipeline is None else weaker_pipeline(self.weak_pipeline, pipeline)
        pipeline.guider = make_guider(
            self.guider,
            3.0 if scale is None else scale,
            start=self.guider_start,
            stop=self.guider_stop,
            weak_denoiser=None if weak is None else weak.denoiser,
        )


def is_count(value: Any) -> bool:
    """Tell whether a value of a row is a whole number."""
    return isinstance(value, int) and not isinstance(value, bool)


def field_of(record: Mapping[str, Any], field: str) -> Any:
    """Return a field of a row.

    Raises:
        ValueError: If there is none.
    """
    if field not in record:
        raise ValueError(
            f"no field `{field}`; the fields there are {', '.join(map(repr, record))}."
        )
    return record[field]


def weaker_pipeline(path: Path, pipeline: LatentTextPipeline) -> LatentTextPipeline:
    """Load a pipeline that stands on the same autoencoder as another one.

    Raises:
        FileNotFoundError: If the folder or a part of it is missing.
        ValueError: If its latents are others.
    """
    weak = load_pipeline(path)
    if not isinstance(weak, LatentTextPipeline):
        raise ValueError(f"`weak_pipeline`: `{path}` is no latent pipeline.")
    ours, theirs = (part.autoencoder.state_dict() for part in (pipeline, weak))
    same = ours.keys() == theirs.keys() and all(
        ours[name].shape == theirs[name].shape and bool((ours[name] == theirs[name]).all())
        for name in ours
    )
    if not same:
        raise ValueError(
            f"`weak_pipeline`: `{path}` has another autoencoder, so its denoiser speaks of other "
            "latents."
        )
    return weak
