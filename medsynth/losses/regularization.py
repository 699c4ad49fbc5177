"""Terms that keep a network within bounds rather than towards a target."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor


def kl_divergence(mean: Tensor, log_variance: Tensor, free_nats: float = 0.0) -> Tensor:
    """Kullback-Leibler divergence from N(mean, variance) to N(0, 1): sum over features, mean over the batch.

    Args:
        mean, log_variance: (N, features).
        free_nats: divergence per feature that costs nothing.

    Reference: Kingma & Welling, arXiv:1312.6114, appendix B; free bits: Kingma et al., arXiv:1606.04934, eq. 15.
    """
    per_feature = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean(dim=0)
    return per_feature.clamp_min(free_nats).sum()


def interpolate_images(real: Tensor, fake: Tensor) -> Tensor:
    """Random points on the lines between real and fake images of the same number, as a leaf that takes gradients."""
    share = torch.rand(len(real), 1, 1, 1, device=real.device, dtype=real.dtype)
    return torch.lerp(real, fake, share).detach().requires_grad_()


def gradient_penalty(discriminator: Callable[[Tensor], Tensor], images: Tensor, target: float) -> Tensor:
    """Mean squared excess of the discriminator's gradient norm over `target`; one-sided: smaller norms cost nothing.

    Args:
        discriminator: (N, C, H, W) -> scores (N,).
        images: where the gradient is taken; must require gradients.
        target: the Lipschitz constant, score per unit of image norm; 0 penalizes every slope.

    Reference: Gulrajani et al., arXiv:1704.00028, eq. 3; one-sided as in Petzka et al., arXiv:1709.08894, eq. 8;
    with target 0 as in Thanh-Tung et al., arXiv:1902.03984, eq. 9, and, at real images, R1 of arXiv:1801.04406, eq. 9.
    """
    (gradient,) = torch.autograd.grad(discriminator(images).sum(), images, create_graph=True)
    norm = (gradient.square().sum(dim=(1, 2, 3)) + 1e-12).sqrt()
    return F.relu(norm - target).square().mean()


def path_lengths(images: Tensor, styles: Tensor) -> Tensor:
    """How much each image changes with its styles, in a random direction; equal for a smooth generator.

    Args:
        images: (N, C, H, W), made from `styles`.
        styles: (N, layers, features), requiring gradients.

    Returns: (N,), from which gradients flow on.

    Reference: Karras et al., StyleGAN2, arXiv:1912.04958, eq. 4.
    """
    direction = torch.randn_like(images) / images[0, 0].numel() ** 0.5
    (gradient,) = torch.autograd.grad((images * direction).sum(), styles, create_graph=True)
    return (gradient.square().sum(dim=2).mean(dim=1) + 1e-12).sqrt()
