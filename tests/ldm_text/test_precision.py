from types import SimpleNamespace

import pytest
import torch

from ldm_text.precision import autocast, resolve_precision, warn_of_emulation

CPU = torch.device("cpu")


def test_auto_is_bfloat16_only_where_there_are_instructions_for_it(give_cpu):
    give_cpu()
    assert resolve_precision("auto", CPU) == "float32"
    for name in ("avx512_bf16", "amx_bf16", "bf16"):
        give_cpu(name)
        assert resolve_precision("auto", CPU) == "bfloat16"
    assert resolve_precision("auto", torch.device("meta")) == "float32"


def test_a_precision_that_is_named_is_kept(give_cpu):
    give_cpu()
    assert resolve_precision("bfloat16", CPU) == "bfloat16"
    give_cpu("amx_bf16")
    assert resolve_precision("float32", CPU) == "float32"


def test_networks_compute_in_the_precision():
    weight = torch.ones(2, 2)
    for precision, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        with autocast(CPU, precision):
            assert (weight @ weight).dtype == dtype


@pytest.mark.parametrize(
    ("precision", "instructions", "warns"),
    [
        ("bf16-mixed", (), True),
        ("bf16-true", (), True),
        ("bf16-mixed", ("avx512_bf16",), False),
        ("32-true", (), False),
        (None, (), False),
    ],
)
def test_training_in_emulated_bfloat16_is_warned_of(
    give_cpu, caplog, precision, instructions, warns
):
    give_cpu(*instructions)
    warn_of_emulation(SimpleNamespace(accelerator="cpu", precision=precision))
    assert bool(caplog.records) == warns
    if warns:
        message = caplog.records[0].getMessage()
        assert message.startswith(f"`--trainer.precision {precision}`: ")
        assert "`--trainer.precision 32-true`" in message
