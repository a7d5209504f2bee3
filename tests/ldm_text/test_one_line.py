from ldm_text.one_line import one_line

UNION = """Parser key "scheduler":
  Does not validate against any of the Union subtypes
  Subtypes: [typing.Literal['euler', 'heun'], <class 'NoneType'>]
  Errors:
    - Expected a typing.Literal['euler', 'heun']
    - Expected a <class 'NoneType'>
  Given value type: <class 'str'>
  Given value: ddim"""
NESTED = """Does not validate against any of the Union subtypes
Subtypes: [<class 'LightningModule'>, <class 'NoneType'>]
Errors:
  - Does not validate against any of the Union subtypes
    Subtypes: [<class 'PretrainedAutoencoder'>, <class 'TextAutoencoder'>]
    Errors:
      - No autoencoder at `x`: train one.
      - Import path PretrainedAutoencoder does not correspond to a subclass of TextAutoencoder
    Given value type: <class 'Namespace'>
    Given value: Namespace(path='x')
  - Expected a <class 'NoneType'>
Given value type: <class 'Namespace'>
Given value: Namespace(class_path='LitDenoiser')"""


def test_a_wrong_value_is_told_with_what_was_expected():
    assert one_line(UNION) == "`--scheduler`: expected one of 'euler', 'heun', got ddim."
    message = "Parser key \"seed\":\n  Expected a <class 'int'>. Got value: a"
    assert one_line(message) == "`--seed`: expected int, got a."


def test_the_reason_inside_nested_alternatives_is_told_alone():
    assert one_line(NESTED) == "No autoencoder at `x`: train one."


def test_missing_options_are_named_as_they_are_typed():
    message = "the following arguments are required: fit.data, fit.model"
    assert one_line(message) == "`--data`, `--model` must be given."


def test_torch_does_not_advise_to_unpickle():
    message = (
        "`x.ckpt` is no checkpoint. Weights only load failed. To do so\n (1) set it to `False`"
    )
    assert one_line(message) == (
        "`x.ckpt` is no checkpoint. "
        "The file is damaged, or holds more than weights and plain values; it is not unpickled."
    )


def test_lines_are_joined_and_the_end_of_a_long_message_is_cut():
    assert one_line("one\n  two\n") == "one two."
    assert len(one_line("word " * 1000)) < 510
