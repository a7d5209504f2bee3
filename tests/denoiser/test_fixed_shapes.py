import pytest
import torch

from denoiser.fixed_shapes import FixedShapes
from denoiser.infilling import KnownLatents


def sizes_seen(shapes, num_rows):
    """Run rows 0, 1, ... and return the sizes that they ran at."""
    seen = []

    def double(rows):
        seen.append(len(rows))
        return 2 * rows

    rows = torch.arange(num_rows)
    assert torch.equal(shapes.run(double, rows), 2 * rows)
    return seen


def test_rows_run_at_the_smallest_size_that_holds_them():
    shapes = FixedShapes([8, 2])
    assert [sizes_seen(shapes, n) for n in (1, 2, 3, 8)] == [[2], [2], [8], [8]]


def test_more_rows_than_the_largest_size_run_in_parts():
    assert sizes_seen(FixedShapes([2, 4]), 9) == [4, 4, 4]


def test_without_sizes_a_function_is_given_the_very_tensors():
    rows, given = torch.randn(3, 2), []
    FixedShapes().run(lambda *inputs: given.extend(inputs) or inputs[0], rows, None)
    assert given[0] is rows
    assert given[1] is None


def test_all_inputs_are_filled_up_with_copies_of_the_last_row():
    known = KnownLatents(torch.randn(3, 2, 4), torch.tensor([[True, False]] * 3))
    rows = torch.randn(3, 2, 4)

    def put(rows, nothing, known):
        assert nothing is None
        assert len(rows) == len(known.latents) == len(known.mask) == 4
        assert torch.equal(rows[3], rows[2])
        return known.put(rows)

    assert torch.equal(FixedShapes([4]).run(put, rows, None, known), known.put(rows))


def test_sources_are_padded_to_powers_of_two_of_latents():
    shapes, eager = FixedShapes([4]), FixedShapes()
    lengths = (0, 1, 4, 5, 9, 17, 22)
    assert [eager.source_length(n, 4, 22) for n in lengths] == [4, 4, 4, 8, 12, 20, 24]
    assert [shapes.source_length(n, 4, 22) for n in lengths] == [4, 4, 4, 8, 16, 24, 24]


def test_batches_are_not_filled_up_again_to_a_size_that_took_too_much_memory():
    shapes = FixedShapes([1, 8])

    def run_out(rows):
        if len(rows) > 4:
            raise torch.OutOfMemoryError("too large")
        return rows

    with pytest.raises(torch.OutOfMemoryError):
        shapes.run(run_out, torch.zeros(8))
    assert shapes.batch_sizes == (1, 4)
    assert len(shapes.run(run_out, torch.zeros(4))) == 4


def test_an_error_of_another_kind_leaves_the_sizes_as_they_are():
    shapes = FixedShapes([8])
    with pytest.raises(RuntimeError, match="shape"):
        shapes.run(lambda rows: rows.view(3), torch.zeros(8))
    assert shapes.batch_sizes == (8,)


def test_a_size_without_rows_is_refused():
    with pytest.raises(ValueError, match=r"`batch_sizes` must be 1 or larger, got \[4, 0\]"):
        FixedShapes([4, 0])
