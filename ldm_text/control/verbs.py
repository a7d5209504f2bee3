"""What ``ldm-text variations``, ``interpolate`` and ``refine`` make of the texts of one row."""

from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from ldm_text.batch.work import Record
from ldm_text.control.near import (
    check_interpolation,
    check_variations,
    interpolate,
    variations,
)
from ldm_text.control.refine import check_refinement, refine
from ldm_text.generated_rows import TextSettings
from ldm_text.pipeline import LatentTextPipeline


class Verb(Protocol):
    """Make texts of one or several texts; all of a row's come out together.

    Attributes:
        name: The command.
        inputs: Names of the texts that it takes.
        fields: Name and type of the fields that its records have besides those of all commands.
    """

    name: ClassVar[str]
    inputs: ClassVar[tuple[str, ...]]
    fields: ClassVar[dict[str, type]]

    @property
    def num_samples(self) -> int:
        """Number of texts for each row."""
        ...

    def check(self) -> None:
        """Check the options.

        Raises:
            ValueError: If one is out of range.
        """
        ...

    def run(
        self,
        pipeline: LatentTextPipeline,
        texts: tuple[str, ...],
        source: str | None,
        settings: TextSettings,
        row: int,
    ) -> list[Record]:
        """Make the texts of a row.

        Args:
            pipeline: The pipeline.
            texts: One text for each of ``inputs``.
            source: Condition of the texts.
            settings: Steps, guidance, seed and the like.
            row: Number of the row, of which the noise is made.

        Returns:
            ``num_samples`` records: ``text``, and the ``fields``.
        """
        ...


@dataclass(frozen=True)
class Variations:
    """Write texts near a text; see ``near.variations``."""

    n: int
    distance: float

    name: ClassVar[str] = "variations"
    inputs: ClassVar[tuple[str, ...]] = ("text",)
    fields: ClassVar[dict[str, type]] = {"original": str, "distance": float, "changed": float}

    @property
    def num_samples(self) -> int:
        """Number of texts for each row."""
        return self.n

    def check(self) -> None:
        """Check the options; see ``Verb``."""
        check_variations(self.n, self.distance)

    def run(
        self,
        pipeline: LatentTextPipeline,
        texts: tuple[str, ...],
        source: str | None,
        settings: TextSettings,
        row: int,
    ) -> list[Record]:
        """Make the texts of a row, the nearest to the distance first; see ``Verb``."""
        (text,) = texts
        options: dict[str, Any] = {"source": source, "settings": settings, "row": row}
        found = variations(pipeline, text, self.n, self.distance, **options)
        common = {"original": text, "distance": self.distance}
        return [{"text": each.text, **common, "changed": round(each.changed, 4)} for each in found]


@dataclass(frozen=True)
class Interpolation:
    """Write texts on the way between two texts; see ``near.interpolate``."""

    n: int
    strength: float

    name: ClassVar[str] = "interpolate"
    inputs: ClassVar[tuple[str, ...]] = ("first", "last")
    fields: ClassVar[dict[str, type]] = {
        "first": str,
        "last": str,
        "position": float,
        "changed": float,
    }

    @property
    def num_samples(self) -> int:
        """Number of texts for each row, both ends included."""
        return self.n

    def check(self) -> None:
        """Check the options; see ``Verb``."""
        check_interpolation(self.n, self.strength)

    def run(
        self,
        pipeline: LatentTextPipeline,
        texts: tuple[str, ...],
        source: str | None,
        settings: TextSettings,
        row: int,
    ) -> list[Record]:
        """Make the texts of a row in their order; see ``Verb``."""
        first, last = texts
        options: dict[str, Any] = {"source": source, "settings": settings, "row": row}
        options["strength"] = self.strength
        found = interpolate(pipeline, first, last, self.n, **options)
        return [
            {
                "text": each.text,
                "first": first,
                "last": last,
                "position": round(place / (self.n - 1), 4),
                "changed": round(each.changed, 4),
            }
            for place, each in enumerate(found)
        ]


@dataclass(frozen=True)
class Refinement:
    """Write the weak places of a text again; see ``refine.refine``."""

    num_rounds: int
    share: float
    strength: float

    name: ClassVar[str] = "refine"
    inputs: ClassVar[tuple[str, ...]] = ("text",)
    fields: ClassVar[dict[str, type]] = {
        "original": str,
        "num_changes": int,
        "score_before": float,
        "score": float,
    }

    @property
    def num_samples(self) -> int:
        """Number of texts for each row."""
        return 1

    def check(self) -> None:
        """Check the options; see ``Verb``."""
        check_refinement(self.num_rounds, self.share, self.strength)

    def run(
        self,
        pipeline: LatentTextPipeline,
        texts: tuple[str, ...],
        source: str | None,
        settings: TextSettings,
        row: int,
    ) -> list[Record]:
        """Make the text of a row; see ``Verb``."""
        (text,) = texts
        refined = refine(
            pipeline,
            text,
            num_rounds=self.num_rounds,
            share=self.share,
            strength=self.strength,
            source=source,
            settings=settings,
            row=row,
        )
        record = {
            "text": refined.text,
            "original": text,
            "num_changes": len(refined.changes),
            "score_before": round(refined.scores[0], 4),
            "score": round(refined.scores[-1], 4),
        }
        return [record]
