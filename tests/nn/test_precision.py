from __future__ import annotations

import pytest
import torch
from torch import nn

from medsynth.nn.precision import autocast, use_bfloat16


@pytest.mark.parametrize(
    ("device", "amp", "has", "expected"),
    [
        ("cuda", True, None, True),
        ("cuda", False, None, False),
        ("cpu", True, "amx_tile", True),
        ("cpu", True, "avx512_bf16", True),
        ("cpu", True, "avx512_f", False),
        ("cpu", True, None, False),
        ("cpu", False, "amx_tile", False),
    ],
)
def test_bfloat16_is_used_where_asked_for_and_faster(monkeypatch, device, amp, has, expected):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {has: True}, raising=False)
    assert use_bfloat16(torch.device(device), amp) is expected


def test_a_pytorch_that_cannot_be_asked_computes_in_float32(monkeypatch):
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert not use_bfloat16(torch.device("cpu"))
    assert use_bfloat16(torch.device("cuda"))


@pytest.mark.parametrize(("has", "kind"), [("avx512_bf16", torch.bfloat16), ("avx2", torch.float32)])
def test_autocast_computes_in_bfloat16_where_it_gains_something(monkeypatch, has, kind):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {has: True}, raising=False)
    with autocast(torch.device("cpu")):
        assert nn.Linear(2, 2)(torch.ones(1, 2)).dtype == kind
    with autocast(torch.device("cpu"), amp=False):
        assert nn.Linear(2, 2)(torch.ones(1, 2)).dtype == torch.float32
