import pytest
import torch

from autoencoder.bfloat16 import has_native_bfloat16

CPU = torch.device("cpu")


def test_a_cpu_has_it_where_it_has_instructions_for_it(give_cpu):
    give_cpu()
    assert not has_native_bfloat16(CPU)
    for name in ("avx512_bf16", "amx_bf16", "bf16"):
        give_cpu(name)
        assert has_native_bfloat16(CPU)


def test_a_device_of_which_nothing_is_known_has_it_not():
    assert not has_native_bfloat16(torch.device("meta"))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_has_it_from_ampere_on():
    device = torch.device("cuda")
    native = torch.cuda.get_device_capability(device) >= (8, 0)
    assert has_native_bfloat16(device) == native
