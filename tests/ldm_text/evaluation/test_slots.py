import pytest

from ldm_text.evaluation.slots import SlotChecker
from ldm_text.meaning_representations import parse_slots

SOURCES = [
    "name[The Rice Boat], eatType[restaurant], food[Indian], near[Caf\u00e9 Rouge]",
    "name[Rice Boat], eatType[coffee shop], area[city centre], priceRange[cheap]",
]
GOOD = "The Rice Boat is an Indian restaurant near Cafe Rouge."


@pytest.fixture
def checker():
    return SlotChecker(SOURCES)


def test_a_source_is_split_into_slots():
    assert parse_slots(SOURCES[1]) == {
        "name": "Rice Boat",
        "eatType": "coffee shop",
        "area": "city centre",
        "priceRange": "cheap",
    }


@pytest.mark.parametrize(
    ("source", "text", "missing", "invented"),
    [
        (SOURCES[0], GOOD, [], []),
        (SOURCES[0], GOOD.upper(), [], []),
        (SOURCES[0], GOOD.replace("Indian ", ""), ["indian"], []),
        (SOURCES[0], GOOD + " It is a coffee shop.", [], ["coffee shop"]),
        (SOURCES[0], GOOD.replace("The Rice Boat", "A place"), ["the rice boat"], []),
        (SOURCES[1], "The Rice Boat: coffee-shop, city center", ["rice boat"], ["the rice boat"]),
        (SOURCES[1], "Rice Boat is a coffee shop restaurant in the city center.", [], []),
    ],
)
def test_missing_and_invented_values_are_found(checker, source, text, missing, invented):
    assert checker.errors(source, text) == {"missing": missing, "invented": invented}


def test_paraphrased_slots_are_no_slot_errors(checker):
    errors = checker.errors("name[Rice Boat], priceRange[cheap]", "Rice Boat is expensive.")
    assert errors == {"missing": [], "invented": []}


def test_rates_are_shares_of_rows(checker):
    texts = [
        GOOD,
        "Nothing.",
        GOOD + " It is a coffee shop.",
        GOOD.replace("Indian", "coffee shop"),
    ]
    assert checker.error_rate([SOURCES[0]] * 4, texts) == {
        "slot_error_rate": 0.75,
        "rows_with_missing": 0.5,
        "rows_with_invented": 0.5,
        "rows_with_omitted": 0.0,
        "rows_with_contradicted": 0.0,
        "rows_without_fault": 0.25,
    }


BARE = "name[Rice Boat], priceRange[cheap], customer rating[3 out of 5], familyFriendly[no]"


@pytest.mark.parametrize(
    ("text", "omitted", "contradicted"),
    [
        ("Rice Boat.", ["priceRange", "customer rating", "familyFriendly"], []),
        ("Rice Boat is cheap, rated 3 out of 5, and not for kids.", [], []),
        ("A low-price place, no children, average customer rating.", [], []),
        ("Kid friendly, low customer rating, \u00a320-25.", [], list(parse_slots(BARE))[1:]),
        (
            "It takes families and costs less than 20 pounds.",
            ["customer rating"],
            ["familyFriendly"],
        ),
        ("Expensive, but rated three stars; adults only.", [], ["priceRange"]),
        ("Cheap. Low prices are rated highly. No kids.", [], ["customer rating"]),
    ],
)
def test_paraphrased_slots_are_omitted_or_contradicted(checker, text, omitted, contradicted):
    errors = checker.paraphrase_errors(BARE, text)
    assert errors == {"omitted": omitted, "contradicted": contradicted}
    rates = checker.error_rate([BARE], [text])
    assert rates["rows_with_omitted"] == float(bool(omitted))
    assert rates["rows_with_contradicted"] == float(bool(contradicted))
    is_faulty = rates["slot_error_rate"] or omitted or contradicted
    assert rates["rows_without_fault"] == float(not is_faulty)


@pytest.mark.parametrize("scale", ["{} out of 5 stars", "{} of 5 stars", "{}/5 stars", "{} stars"])
@pytest.mark.parametrize("stars", ["1", "3", "5"])
@pytest.mark.parametrize("value", ["1", "3", "5"])
def test_the_stars_that_there_are_at_most_are_no_rating(checker, value, stars, scale):
    """A text with 1 out of 5 stars was taken for one with 5."""
    text = f"It has a rating of {scale.format(stars)}."
    errors = checker.paraphrase_errors(f"customer rating[{value} out of 5]", text)
    assert errors["contradicted"] == ([] if value == stars else ["customer rating"])


def test_sources_without_slots_have_no_errors():
    checker = SlotChecker(["a plain source"])
    assert checker.errors("a plain source", "a text") == {"missing": [], "invented": []}
    assert checker.num_wrong_slots("a plain source", "a text") == 0


def test_only_what_the_source_has_is_asked_for(checker):
    errors = checker.paraphrase_errors("name[Rice Boat], food[Indian]", "Rated high.")
    assert errors == {"omitted": [], "contradicted": []}


def test_parts_of_other_words_do_not_speak_of_a_slot(checker):
    text = "The Starlight serves generous pirates."
    assert checker.paraphrase_errors("customer rating[low]", text)["omitted"] == ["customer rating"]


def test_a_word_in_the_name_of_a_place_does_not_speak_of_a_slot():
    source = "familyFriendly[yes]"
    checker = SlotChecker(["name[Family Star], familyFriendly[yes]"])
    errors = checker.paraphrase_errors(source, "Family Star is a pub.")
    assert errors == {"omitted": ["familyFriendly"], "contradicted": []}


def test_a_word_in_the_name_of_a_place_is_no_value_of_another_slot():
    """The food of a place near Raja Indian Cuisine was counted as invented, whatever it was."""
    source = "name[Alimentum], food[Chinese], near[Raja Indian Cuisine]"
    checker = SlotChecker([source, "name[Aromi], food[Indian]"])
    right = "Alimentum serves Chinese food near Raja Indian Cuisine."
    assert checker.errors(source, right) == {"missing": [], "invented": []}
    wrong = "Alimentum serves Indian food near Raja Indian Cuisine."
    assert checker.errors(source, wrong) == {"missing": ["chinese"], "invented": ["indian"]}
