import re
from dataclasses import replace

import pytest
import torch

from ldm_text.baselines import AutoregressiveModel, MaskedDiffusionModel
from ldm_text.baselines.pipeline import TokenPipeline
from ldm_text.batch.work import RowError
from ldm_text.control.candidates import WriteOptions
from ldm_text.control.constraints import Constraints, find_forbidden
from ldm_text.control.edit import edit
from ldm_text.control.placement import place_phrases
from ldm_text.control.request import TextRequest, around_gap, plan_text
from ldm_text.control.scoring import text_scores, token_log_probs, with_end
from ldm_text.control.template import parse_template
from ldm_text.control.write import infill, most_agreed, write_or_reject, write_texts
from ldm_text.generated_rows import TextSettings, row_generator

SETTINGS = TextSettings(num_inference_steps=3, precision="float32")
SOURCE = "name[The Mill]"


@pytest.fixture
def write(pipeline):
    def call(*requests, **options):
        return write_texts(pipeline, requests, WriteOptions(settings=SETTINGS, **options))

    return call


def filled(template, **options):
    return TextRequest(tuple(parse_template(template)), **options)


def length(pipeline, text):
    return len(pipeline.tokenizer(text)["input_ids"])


def test_a_request_for_nothing_is_plain_generation(write, pipeline):
    requests = [TextRequest(source=source, row=row) for row, source in enumerate((None, SOURCE))]
    generators = [row_generator(0, row, 0, pipeline.device) for row in range(2)]
    plain = pipeline.generate([None, SOURCE], generator=generators, num_inference_steps=3)
    assert [text.text for text in write(*requests)] == plain.texts


def test_known_text_is_kept_at_both_ends(write):
    for row in range(5):
        (text,) = write(TextRequest(around_gap("The Mill ", " is cheap."), SOURCE, row=row))
        assert text.text.startswith("The Mill ")
        assert text.text.endswith(" is cheap.")
    (text,) = write(TextRequest(around_gap("The Mill")))
    assert text.text.startswith("The Mill")


def test_gaps_are_filled_and_the_rest_is_kept(write):
    texts = write(*(filled("The [MASK:2] is [MASK:1-3].", row=row) for row in range(4)))
    for text in texts:
        assert re.fullmatch(r"The .+ is .+\.", text.text, re.DOTALL)
        assert text.num_candidates == 3  # the lengths of the second gap


def test_one_template_is_filled_in_one_call(pipeline):
    text = infill(pipeline, "The [MASK:2] is", SOURCE, WriteOptions(settings=SETTINGS)).text
    assert re.fullmatch("The .+ is", text, re.DOTALL)


def test_a_text_has_the_length_that_is_asked_for(write, pipeline):
    for tokens in (1, 5, 15):
        assert write(TextRequest(length_tokens=tokens))[0].num_tokens == tokens
    assert 4 <= write(TextRequest(length_tokens=(4, 6)))[0].num_tokens <= 6


def test_required_phrases_stand_in_the_text(write):
    constraints = Constraints(required=("nice", "a pub"))
    for text in write(*(TextRequest(row=row) for row in range(4)), constraints=constraints):
        assert re.search(r"\bnice\b", text.text)
        assert re.search(r"\ba pub\b", text.text)


def test_a_long_phrase_finds_a_gap_with_room_whatever_the_seed(pipeline):
    """It depended on the seed and on the row whether any of the lengths drawn had room."""
    constraints = Constraints(required=("coffee",))
    for seed in range(20):
        request = filled("The [MASK] is [MASK].")
        assert len(plan_text(pipeline, request, constraints, 2, seed).layouts) == 2


def test_an_impossible_request_does_not_end_the_others(pipeline):
    requests = [TextRequest(length_tokens=99), TextRequest(row=1), filled("The [MASK:99] is")]
    options = WriteOptions(settings=SETTINGS)
    first, second, third = write_or_reject(pipeline, requests, options)
    assert isinstance(first, RowError)
    assert isinstance(third, RowError)
    assert "asks for 99 tokens" in str(first)
    assert second == write_texts(pipeline, [requests[1]], options)[0]
    assert isinstance(write_or_reject(pipeline, requests[:1], options)[0], RowError)


def test_a_required_phrase_stands_where_the_draft_wants_it(pipeline):
    (layout,) = plan_text(pipeline, TextRequest(), Constraints(), 1).layouts
    (*_, ids) = (pipeline.tokenizer(" nice")["input_ids"],)
    log_probs = torch.full((16, 300), -5.0)
    log_probs[range(4, 4 + len(ids)), ids] = -0.1
    placed = place_phrases(layout, ["nice"], pipeline.tokenizer, log_probs=log_probs)
    assert placed.ids[4 : 4 + len(ids)] == ids
    within = place_phrases(
        layout, ["nice"], pipeline.tokenizer, num_tokens=4 + len(ids) - 1, log_probs=log_probs
    )
    # Behind the end of the draft a model means nothing.
    assert next(place for place, token in enumerate(within.ids) if token is not None) < 4


def test_forbidden_words_do_not_come_out_whatever_their_tokens(write):
    requests = [TextRequest(row=row, length_tokens=15) for row in range(6)]
    words = {word for text in write(*requests) for word in re.findall(r"[A-Za-z]{2,}", text.text)}
    forbidden = tuple(word for word in words if find_forbidden(f"{word}", (word,)))
    assert forbidden
    for text in write(*requests, constraints=Constraints(forbidden=forbidden)):
        assert not find_forbidden(text.text, forbidden)


def test_patterns_choose_among_candidates(write):
    free = write(*(TextRequest(row=row) for row in range(6)))
    assert not all(re.search("[a-e]", text.text) for text in free)
    constraints = Constraints(required_patterns=("[a-e]",))
    for text in write(
        *(TextRequest(row=row) for row in range(6)), constraints=constraints, num_candidates=8
    ):
        assert re.search("[a-e]", text.text)
        assert text.num_candidates == 8


def test_without_a_matching_candidate_the_text_is_refused(write):
    constraints = Constraints(required_patterns=("qqqq",))
    with pytest.raises(ValueError, match=r"None of 2 candidates of row 7 satisfies .* Raise"):
        write(TextRequest(row=7), constraints=constraints, num_candidates=2)


def test_the_candidate_that_the_model_finds_most_probable_is_kept(write, pipeline):
    (best,) = write(TextRequest(length_tokens=15), num_candidates=6)
    generators = [row_generator(0, 0, 0, pipeline.device)]
    first = pipeline.generate([None], generator=generators, num_inference_steps=3)
    score = text_scores(pipeline, [None], first.sequences)[0]
    assert best.score >= score - 1e-3
    assert best.num_candidates == 6


def test_agreement_keeps_the_text_most_like_the_others(write):
    assert most_agreed(["abcdefgh", "abcdefxh", "abcdefgy", "zzzzzzzz"]) == 0
    (text,) = write(TextRequest(), num_candidates=4, choose_by="agreement")
    assert text.num_candidates == 4
    assert text.score is None


def test_a_text_is_the_same_alone_and_among_others(write):
    requests = [filled("The [MASK:1-3] is", row=row) for row in range(3)]
    together = write(*requests, batch_size=4)
    assert [write(request)[0] for request in requests] == together


def test_scores_do_not_depend_on_the_batch_and_say_nothing_of_padding(pipeline):
    sequences = torch.randint(3, 300, (3, 16))
    sequences[1, 5:] = 0
    together = text_scores(pipeline, [None, SOURCE, None], sequences)
    alone = text_scores(pipeline, [SOURCE], sequences[1:2])
    assert alone[0] == pytest.approx(together[1], abs=1e-4)
    log_probs = token_log_probs(pipeline, [None, SOURCE, None], sequences)
    assert (log_probs[1, 6:] == 0).all()
    assert (log_probs[1, :6] < 0).all()
    assert with_end(sequences, 0, 1)[1].tolist()[5:7] == [1, 0]


@pytest.mark.parametrize(
    ("request_", "options", "message"),
    [
        (TextRequest(), {"num_candidates": 0}, "`num_candidates` must be at least 1, got 0"),
        (TextRequest(), {"choose_by": "luck"}, "`choose_by` must be score or agreement"),
        (TextRequest(length_tokens=99), {}, "asks for 99 tokens, the model's texts have at most"),
        (TextRequest(source="x" * 99), {}, "has .* tokens, the model takes at most 23"),
        (
            TextRequest(around_gap("a pub")),
            {"constraints": Constraints(forbidden=("pub",))},
            "`forbidden` contradicts",
        ),
        (
            filled("The [MASK:1] is"),
            {"constraints": Constraints(required=("coffee shop",))},
            "`required` needs|`required` does not fit",
        ),
    ],
)
def test_impossible_requests_are_refused_before_any_computation(
    pipeline, request_, options, message
):
    calls = []
    pipeline.denoiser.register_forward_pre_hook(lambda *_: calls.append(None))
    with pytest.raises(ValueError, match=message):
        write_texts(pipeline, [request_], WriteOptions(settings=SETTINGS, **options))
    assert not calls


def test_steps_out_of_range_are_refused(pipeline):
    options = WriteOptions(settings=replace(SETTINGS, num_inference_steps=0))
    with pytest.raises(ValueError, match="`num_inference_steps` must be between 1 and 1000"):
        write_texts(pipeline, [TextRequest()], options)


# Discrete models


@pytest.fixture
def make_token_pipeline(toy_tokenizer, activate):
    def make(family):
        model = activate(family(vocab_size=300, hidden_dim=16, num_layers=1, num_heads=2))
        return TokenPipeline(toy_tokenizer, model.eval(), 16, 24)

    return make


def test_a_masked_model_fills_gaps_and_chooses_their_length(make_token_pipeline):
    pipeline = make_token_pipeline(MaskedDiffusionModel)
    requests = [filled("The [MASK:1-3] is", row=row) for row in range(3)]
    for text in write_texts(pipeline, requests, WriteOptions(settings=SETTINGS)):
        assert re.fullmatch("The .+ is", text.text, re.DOTALL)
        assert text.num_candidates == 3
        assert text.score < 0
    constraints = Constraints(required=("nice",))
    options = WriteOptions(constraints, settings=SETTINGS)
    assert re.search(r"\bnice\b", write_texts(pipeline, [TextRequest()], options)[0].text)


def test_an_autoregressive_model_goes_on_with_a_prefix_and_refuses_gaps(make_token_pipeline):
    pipeline = make_token_pipeline(AutoregressiveModel)
    options = WriteOptions(settings=TextSettings(precision="float32"))
    (text,) = write_texts(
        pipeline, [TextRequest(around_gap("The Mill"), length_tokens=13)], options
    )
    assert text.text.startswith("The Mill")
    assert text.num_tokens == 13
    with pytest.raises(ValueError, match="writes from left to right and keeps no known text"):
        write_texts(pipeline, [filled("The [MASK:2] is")], options)


def test_a_model_without_known_tokens_or_latents_says_so(make_token_pipeline, monkeypatch):
    pipeline = make_token_pipeline(MaskedDiffusionModel)
    with pytest.raises(ValueError, match="`edit` works on latents, and MaskedDiffusionModel"):
        edit(pipeline, "a", 0.5)
    monkeypatch.setattr(MaskedDiffusionModel, "known_token_support", "none")
    with pytest.raises(ValueError, match="MaskedDiffusionModel cannot keep known tokens"):
        write_texts(pipeline, [TextRequest(length_tokens=5)], WriteOptions(settings=SETTINGS))
