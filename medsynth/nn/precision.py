"""Mixed precision: where it gains something."""

from __future__ import annotations

import torch


def use_bfloat16(device: torch.device, amp: bool = True) -> bool:
    """Whether mixed precision is asked for and gains anything: on GPUs, and on CPUs that multiply in bfloat16."""
    of_cpu = getattr(torch.cpu, "get_capabilities", dict)()  # older PyTorch has no public way to ask: float32 there
    return amp and (device.type != "cpu" or of_cpu.get("amx_tile", False) or of_cpu.get("avx512_bf16", False))


def autocast(device: torch.device, amp: bool = True) -> torch.autocast:
    """Compute in bfloat16 where it gains something."""
    return torch.autocast(device.type, torch.bfloat16, enabled=use_bfloat16(device, amp))
