from __future__ import annotations

import math

import torch

from medsynth.inference.paths import great_circle


def test_the_path_between_latents_is_a_circle():
    start, end = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 2.0]])
    torch.testing.assert_close(great_circle(start, end, 0.0), start)
    torch.testing.assert_close(great_circle(start, end, 1.0), end)
    expected = 2 * torch.tensor([[math.cos(math.pi / 6), math.sin(math.pi / 6)]])
    torch.testing.assert_close(great_circle(start, end, 1 / 3), expected)
    torch.testing.assert_close(great_circle(start, 2 * start, 0.5), 1.5 * start)
