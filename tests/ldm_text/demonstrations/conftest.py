"""A sandbox, where this machine can isolate a program."""

import pytest

from ldm_text.demonstrations.sandbox import Limits, Sandbox


@pytest.fixture
def make_sandbox():
    def make(**limits):
        try:
            return Sandbox(Limits(**limits), allow_root=True)
        except ValueError as error:
            pytest.skip(str(error))

    return make
