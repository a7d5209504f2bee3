"""The settings that a sweep lists."""

from pathlib import Path

import pytest

from ldm_text.evaluation.sweep_options import GeneratorOptions, SweepOptions


def test_a_sweep_is_every_combination_of_its_values():
    sweep = SweepOptions((1, 2), (1.0, 3.0), {"temperature": (0.5, 1.0)})
    points = sweep.points([4, 5])
    assert len(points) == len({str(point) for point in points}) == 8
    assert points[1].sampling == {"temperature": 1.0}
    assert {point.seeds for point in points} == {(4, 5)}


@pytest.mark.parametrize(
    ("sweep", "message"),
    [
        (SweepOptions(num_inference_steps=(4, 4)), r"`num_inference_steps` .* once, got \[4, 4\]"),
        (SweepOptions(sampling={"top_p": (0.5, 0.5)}), "`top_p` must hold each value once"),
        (SweepOptions(seeds=(1, 1)), "`seeds` must hold each value once"),
    ],
)
def test_a_value_that_is_there_twice_is_refused(sweep, message):
    """The standard error over equal seeds was 0."""
    with pytest.raises(ValueError, match=message):
        GeneratorOptions("a", Path("a"), (sweep,)).points([0])
