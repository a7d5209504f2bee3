import json
from types import SimpleNamespace

import lightning
import pytest
import torch

from ldm_text.baselines.sequences import token_batch
from ldm_text.data import text_data_module
from ldm_text.data.corpus import Corpus
from ldm_text.data.text_data_module import TextDataModule
from ldm_text.tokenizer import encode_text

ROWS = [
    {"text": f"The Mill number {number}.", "source": f"name[Mill {number // 2}]"}
    for number in range(40)
]


@pytest.fixture
def make(tmp_path, tokenizer_folder, write_jsonl):
    def build(rows=ROWS, corpus=None, **options):
        (tmp_path / "validation.jsonl").write_text(
            "".join(json.dumps(row) + "\n" for row in rows[:5])
        )
        fields = {"source_field": "source"} if corpus is None else corpus
        corpus = Corpus(
            str(write_jsonl(rows)), validation=str(tmp_path / "validation.jsonl"), **fields
        )
        defaults = {"layout": "rows", "batch_size": 4, "max_length_tokens": 32}
        module = TextDataModule(
            corpus,
            tokenizer=tokenizer_folder,
            cache_dir=str(tmp_path / "cache"),
            **defaults | {"max_source_length_tokens": 28} | options,
        )
        module.prepare_data()
        module.setup("fit")
        return module

    return build


def all_batches(loader):
    return [{name: values.clone() for name, values in batch.items()} for batch in loader]


def same_batches(first, second):
    return len(first) == len(second) and all(
        torch.equal(a[name], b[name]) for a, b in zip(first, second, strict=True) for name in a
    )


def test_rows_hold_text_end_and_padding_and_the_mask_says_which(make, tokenizer):
    module = make()
    seen = []
    for batch in module.train_dataloader():
        assert set(batch) == {"input_ids", "attention_mask", "source_ids", "source_mask", "row"}
        assert batch["input_ids"].shape == batch["attention_mask"].shape == (4, 32)
        assert batch["source_ids"].shape == batch["source_mask"].shape == (4, 28)
        assert batch["input_ids"].dtype == batch["source_ids"].dtype == torch.int64
        assert batch["attention_mask"].dtype == batch["source_mask"].dtype == torch.bool
        assert batch["row"].dtype == torch.int64
        for place, row in enumerate(batch["row"].tolist()):
            seen.append(row)
            for ids, mask, text in (
                (batch["input_ids"], batch["attention_mask"], ROWS[row]["text"]),
                (batch["source_ids"], batch["source_mask"], ROWS[row]["source"]),
            ):
                expected = [*encode_text(tokenizer, text), module.end_token_id]
                assert ids[place, : len(expected)].tolist() == expected
                assert (ids[place, len(expected) :] == module.pad_token_id).all()
                assert mask[place].nonzero().ravel().tolist() == list(range(len(expected)))
    assert sorted(seen) == list(range(40))


def test_a_text_that_fills_its_row_keeps_its_end_token(make, tokenizer):
    text = "!" * 27
    assert len(encode_text(tokenizer, text)) == 27
    module = make([{"text": text}] * 5, {}, max_length_tokens=28, layout="rows")
    batch = next(iter(module.val_dataloader()))
    assert batch["attention_mask"].all()
    assert (batch["input_ids"][:, -1] == module.end_token_id).all()


def test_padding_between_the_fields_of_a_source_is_hidden(make, tokenizer):
    """Two data modules share a cache folder; baselines see the same tokens either way."""
    rows = [{"text": "A text.", "source": f"name[{'a' * n}], food[{n}]"} for n in range(8)]
    fields = {"source_field": "source", "source_separator": "],"}
    plain, padded = (
        next(iter(make(rows, corpus, max_source_length_tokens=32).val_dataloader()))
        for corpus in ({"source_field": "source"}, fields)
    )
    end, pad = tokenizer.eos_token_id, tokenizer.pad_token_id
    num_gaps = 0
    for row, record in enumerate(rows[:4]):
        ids, is_real = padded["source_ids"][row], padded["source_mask"][row]
        assert ids[is_real].tolist() == [*encode_text(tokenizer, record["source"]), end]
        assert (ids[~is_real] == pad).all()
        start = len(encode_text(tokenizer, record["source"].split(" food")[0]))
        start += -start % 4
        assert tokenizer.decode(ids[start:][is_real[start:]][:-1]) == f" food[{row}]"
        num_gaps += int((~is_real[:start]).sum())
    assert num_gaps > 0
    sources = [token_batch(batch, end) for batch in (plain, padded)]
    width = min(batch.source_mask.sum(dim=1).max() for batch in sources)
    for name in ("source_ids", "source_mask"):
        first, second = (vars(batch)[name][:, -width:] for batch in sources)
        assert torch.equal(first, second)


def test_without_sources_a_batch_has_none(make):
    batch = next(iter(make(corpus={}).train_dataloader()))
    assert set(batch) == {"input_ids", "attention_mask", "row"}


def test_training_drops_the_incomplete_batch_and_validation_keeps_order_and_all(make):
    module = make(ROWS[:39])
    assert [len(batch["row"]) for batch in module.train_dataloader()] == [4] * 9
    rows = [batch["row"].tolist() for batch in module.val_dataloader()]
    assert rows == [[0, 1, 2, 3], [4]]


def test_long_texts_can_become_rows_whose_source_is_the_row_before(make, tokenizer):
    text = " ".join(f"word {number}" for number in range(30))
    module = make(
        [{"text": text}] * 5,
        {},
        long_texts="split",
        previous_as_source=True,
        max_length_tokens=16,
        max_source_length_tokens=16,
        batch_size=1,
    )
    batches = all_batches(module.val_dataloader())
    per_text = len(batches) // 5
    assert per_text == -(-len(encode_text(tokenizer, text)) // 15)
    pieces, previous = [], []
    for batch in batches[:per_text]:
        *source, end = batch["source_ids"][batch["source_mask"]].tolist()
        assert (source, end) == (previous, module.end_token_id)
        *previous, end = batch["input_ids"][batch["attention_mask"]].tolist()
        assert end == module.end_token_id
        pieces += previous
    assert tokenizer.decode(pieces) == text
    assert batches[per_text]["source_mask"].sum() == 1


def test_packed_batches_hold_every_text_and_every_source_once(make, tokenizer):
    module = make(layout="packed", batch_size=1)
    found = []
    for batch in module.train_dataloader():
        assert batch["input_ids"].shape == batch["attention_mask"].shape == (1, 32)
        assert batch["document_ids"].shape == (1, 8)
        assert batch["document_ids"].dtype == batch["input_ids"].dtype == torch.int64
        of_token = batch["document_ids"].repeat_interleave(4, dim=1)
        assert not batch["attention_mask"][of_token < 0].any()
        assert torch.equal(batch["attention_mask"], batch["input_ids"] != module.pad_token_id)
        for number in range(int(batch["document_ids"].max()) + 1):
            *text, end = batch["input_ids"][(of_token == number) & batch["attention_mask"]].tolist()
            assert end == module.end_token_id
            found.append(tokenizer.decode(text))
    assert sorted(found) == sorted({row[name] for row in ROWS for name in ("text", "source")})


def test_only_packed_training_documents_are_followed_by_empty_latents(make):
    module = make(layout="packed", batch_size=1, empty_latent_prob=1.0)

    def empty_latents(loader):
        return sum(
            int(
                (
                    ~batch["attention_mask"].view(1, 8, 4).any(-1) & (batch["document_ids"] >= 0)
                ).sum()
            )
            for batch in loader
        )

    assert empty_latents(module.train_dataloader()) > 0
    assert empty_latents(module.val_dataloader()) == 0


@pytest.mark.parametrize("layout", ["rows", "packed"])
def test_batches_are_decided_by_the_seed(make, layout):
    batches = []
    for seed in (1, 1, 2):
        lightning.seed_everything(seed, verbose=False)
        batches.append(all_batches(make(layout=layout, batch_size=2).train_dataloader()))
    assert same_batches(batches[0], batches[1])
    assert not same_batches(batches[0], batches[2])


def test_the_seed_decides_how_documents_are_packed(make):
    packings = []
    for seed in (1, 1, 2):
        lightning.seed_everything(seed, verbose=False)
        rows = make(layout="packed").train_dataloader().dataset
        packings.append([rows[row] for row in range(len(rows))])
    assert same_batches(packings[0], packings[1])
    assert not same_batches(packings[0], packings[2])


def test_epochs_are_shuffled_anew(make):
    loader = make().train_dataloader()
    assert not same_batches(all_batches(loader), all_batches(loader))


def test_worker_processes_give_the_same_validation_batches(make):
    alone = all_batches(make().val_dataloader())
    assert same_batches(alone, all_batches(make(num_workers=1).val_dataloader()))


def test_the_cache_is_reused_and_follows_the_content_of_the_file(make, tmp_path, monkeypatch):
    calls = []
    original = text_data_module.build_token_cache

    def build(*arguments):
        calls.append(arguments[-1])
        original(*arguments)

    monkeypatch.setattr(text_data_module, "build_token_cache", build)
    make()
    assert len(calls) == 2
    make(batch_size=8, layout="packed", empty_latent_prob=0.1)
    assert len(calls) == 2
    make([{**row, "text": row["text"] + "!"} for row in ROWS])
    assert len(calls) == 4
    make(max_length_tokens=64)
    assert len(calls) == 6
    assert len(list((tmp_path / "cache").glob("[!.]*"))) == 6


def test_setup_alone_is_enough_and_validate_needs_no_training_batch(
    make, tmp_path, tokenizer_folder
):
    make()
    corpus = Corpus(str(tmp_path / "data.jsonl"), validation=str(tmp_path / "validation.jsonl"))
    module = TextDataModule(
        corpus,
        tokenizer=tokenizer_folder,
        layout="rows",
        batch_size=100,
        cache_dir=str(tmp_path / "other"),
    )
    module.setup("validate")
    assert len(next(iter(module.val_dataloader()))["row"]) == 5


def test_sizes_and_ids_are_known_before_any_data_is_read(tokenizer_folder, tokenizer):
    module = TextDataModule(
        Corpus("not there.jsonl"), tokenizer=tokenizer_folder, layout="rows", batch_size=2
    )
    assert module.vocab_size == len(tokenizer)
    assert (module.max_length_tokens, module.tokens_per_latent) == (64, 4)
    assert (module.pad_token_id, module.end_token_id, module.mask_token_id) == (0, 1, 2)
    assert module.has_sources is False
    with pytest.raises(FileNotFoundError, match=r"not there\.jsonl"):
        module.prepare_data()


def test_fewer_rows_than_a_batch_is_an_error_and_not_an_empty_epoch(make):
    with pytest.raises(ValueError, match=r"`batch_size` is 41, but the training set makes only 40"):
        make(batch_size=41)


def test_fewer_rows_than_a_batch_of_all_processes_is_an_error(make):
    """Two processes trained no step, and ended well."""
    module = make(batch_size=16)
    module.trainer = SimpleNamespace(world_size=2)
    module.setup("fit")
    module.trainer.world_size = 3
    message = r"`batch_size` is 16 in each of 3 processes, but the training set makes only 40 rows"
    with pytest.raises(ValueError, match=message):
        module.setup("fit")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_length_tokens": 30}, r"`max_length_tokens` must be a multiple of .* \(4\), got 30"),
        ({"max_source_length_tokens": 30}, r"`max_source_length_tokens` must be a multiple"),
        ({"tokens_per_latent": 0}, r"must be a multiple of `tokens_per_latent` \(0\)"),
        ({"batch_size": 0}, r"`batch_size` must be at least 1, got 0"),
        ({"empty_latent_prob": 1.5}, r"`empty_latent_prob` must be between 0 and 1, got 1\.5"),
        ({"long_texts": "split"}, r"`long_texts: \"split\"` cuts a text from its source"),
        ({"previous_as_source": True}, r"`previous_as_source` needs `long_texts: \"split\"`"),
        (
            {"layout": "packed", "max_source_length_tokens": 64},
            r"`max_source_length_tokens` \(64\) must not exceed `max_length_tokens` \(32\)",
        ),
    ],
)
def test_arguments_that_cannot_work_are_refused(make, options, message):
    with pytest.raises(ValueError, match=message):
        make(**options)


def test_the_length_of_sources_is_not_checked_where_there_are_none(make):
    module = make(corpus={}, max_length_tokens=33, tokens_per_latent=3)
    assert next(iter(module.val_dataloader()))["input_ids"].shape == (4, 33)


def test_previous_as_source_needs_room_for_a_whole_row(make):
    with pytest.raises(ValueError, match=r"of at least `max_length_tokens` \(32\), got 28"):
        make(corpus={}, long_texts="split", previous_as_source=True)


def test_the_options_are_readable_by_the_command_line(
    make, tmp_path, tokenizer_folder, write_jsonl
):
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(lightning.LightningDataModule, "data")
    parsed = parser.parse_object(
        {
            "data": {
                "class_path": "ldm_text.data.text_data_module.TextDataModule",
                "init_args": {
                    "corpus": {
                        "class_path": "ldm_text.data.corpus.Corpus",
                        "init_args": {"train": "excerpt:tinystories_train"},
                    },
                    "tokenizer": tokenizer_folder,
                    "layout": "packed",
                    "batch_size": 4,
                    "long_texts": "split",
                },
            }
        }
    )
    module = parser.instantiate(parsed).data
    assert isinstance(module, TextDataModule)
    assert module.corpus.train == "excerpt:tinystories_train"
