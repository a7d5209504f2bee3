"""Which devices have instructions for bfloat16: emulated, it is far slower than float32."""

import torch


def has_native_bfloat16(device: torch.device) -> bool:
    """Return whether a device computes in bfloat16 itself instead of emulating it."""
    if device.type == "cuda":
        with torch.cuda.device(device):
            return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type != "cpu":
        return False  # nothing is known of it, and float32 is right everywhere
    # oneDNN counts AVX-512 without bfloat16 instructions as support; they are emulated there.
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))
