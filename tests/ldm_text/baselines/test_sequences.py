import torch

from ldm_text.baselines.sequences import prompt_batch, right_aligned, token_batch

PAD, END = 0, 1
CPU = torch.device("cpu")


def rows(lists, width):
    """Left-aligned token ids with pad tokens behind them, and their mask."""
    ids = torch.tensor([row + [PAD] * (width - len(row)) for row in lists])
    lengths = torch.tensor([[len(row)] for row in lists])
    return ids, torch.arange(width) < lengths


def as_data(texts, sources=None, width=6):
    """A batch as ``TextDataModule`` delivers it in the layout ``rows``."""
    ids, mask = rows(texts, width)
    batch = {"input_ids": ids, "attention_mask": mask}
    if sources is not None:
        batch["source_ids"], batch["source_mask"] = rows(sources, width)
    return batch


def real(ids, mask):
    """The tokens of each row that are real."""
    return [row[seen].tolist() for row, seen in zip(ids, mask, strict=True)]


TEXTS = [[5, 6, END], [7, END], [8, 9, 10, 11, 12, END]]


def test_right_alignment_keeps_the_order_of_the_tokens():
    ids, mask = rows([[5, 6, 7], [], [8, 9, 10, 11]], width=4)
    moved, moved_mask = right_aligned(ids, mask)
    assert moved.tolist() == [[PAD, 5, 6, 7], [PAD] * 4, [8, 9, 10, 11]]
    assert moved_mask.tolist() == [[False, True, True, True], [False] * 4, [True] * 4]


def test_right_alignment_closes_gaps():
    ids = torch.tensor([[5, PAD, 6, PAD], [PAD, 7, 8, 9]])
    moved, moved_mask = right_aligned(ids, ids != PAD)
    assert real(moved, moved_mask) == [[5, 6], [7, 8, 9]]
    assert moved_mask.tolist() == [[False, False, True, True], [False, True, True, True]]


def test_sources_end_where_the_text_begins():
    sources = [[20, 21, END], [22, 23, 24, 25, 26, END], [27, END]]
    batch = token_batch(as_data(TEXTS, sources), END)
    assert real(batch.source_ids, batch.source_mask) == sources
    assert (batch.source_ids[:, -1] == END).all()
    assert batch.source_mask[:, -1].all()
    assert real(batch.input_ids, batch.attention_mask) == TEXTS
    assert len(batch) == 3


def test_a_source_without_tokens_is_a_lone_end_token():
    batch = token_batch(as_data(TEXTS, [[20, 21, END], [], [22, END]]), END)
    assert real(batch.source_ids, batch.source_mask) == [[20, 21, END], [END], [22, END]]


def test_data_without_sources_has_empty_ones():
    batch = token_batch(as_data(TEXTS), END)
    assert batch.source_ids.tolist() == [[END]] * 3
    assert batch.source_mask.all()
    assert real(batch.input_ids, batch.attention_mask) == TEXTS


def test_dropped_sources_are_those_of_data_without():
    batch = token_batch(as_data(TEXTS, [[20, 21, END], [22, 23, END], [24, END]]), END)
    dropped = batch.without_sources(torch.tensor([True, False, True]), END)
    assert real(dropped.source_ids, dropped.source_mask) == [[END], [22, 23, END], [END]]
    assert real(batch.source_ids, batch.source_mask)[0] == [20, 21, END]  # the original is intact
    assert torch.equal(dropped.input_ids, batch.input_ids)


def test_prompts_are_arranged_like_the_sources_of_data():
    sources = [[20, 21, END], [], [22, 23, 24, 25, 26, END]]
    prompts = prompt_batch(sources, END, CPU)
    batch = token_batch(as_data(TEXTS, sources), END)
    assert real(prompts.source_ids, prompts.source_mask) == real(
        batch.source_ids, batch.source_mask
    )
    assert torch.equal(prompts.source_mask, batch.source_mask)
    assert prompts.input_ids.shape == (3, 0)
    assert len(prompts) == 3


def test_prompts_are_as_wide_as_the_longest():
    assert prompt_batch([[], []], END, CPU).source_ids.tolist() == [[END], [END]]
    assert prompt_batch([[5, END], []], END, CPU).source_ids.shape == (2, 2)
