"""Training of the attention VAE-GAN."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import ignite.distributed as idist
import numpy as np
import torch
import torch.nn.functional as F
from ignite.engine import Engine, Events
from ignite.handlers import EMAHandler
from torch import Tensor, nn

from medsynth.distributed import same_everywhere
from medsynth.errors import MedsynthError, check_whole, is_number
from medsynth.losses.adversarial import ADVERSARIAL_LOSSES, check_adversarial_loss
from medsynth.losses.regularization import gradient_penalty, interpolate_images, kl_divergence
from medsynth.losses.similarity import (
    energy_score,
    feature_distance,
    sliced_patch_distance,
    spectral_distance,
    structural_dissimilarity,
)
from medsynth.models.vaegan.network import VaeGan, VaeGanCritic
from medsynth.training.adversarial_trainer import AdversarialTrainer, frozen
from medsynth.training.base_trainer import check_weights, losses, replayed
from medsynth.training.replay import Named

IMAGES_TO_START_FROM = 4096
PIXELS = 64 * 64  # of an image for which the weights are given, see `VaeGanWeights`
PROJECTIONS = 8  # of the patches of a scale
LIKELIHOOD = ("l1", "ssim", "feature", "kl")  # terms that are sums over pixels in theory, and means here
FACTS = ("image", "label", "position")  # of a batch, that the critic sees
RISING = ("kl", "adversarial", "patch", "energy", "spectrum")  # terms that warm up


@dataclass(frozen=True)
class VaeGanWeights:
    """What each term counts in the total loss of the generator (all but the penalty) and of the critic (the penalty).

    The weights are those for images of 64 x 64. In others, `l1`, `ssim`, `feature`, `kl` and the penalty of `logistic`
    count in proportion to the pixels: the slope of a critic does not shrink with each pixel's share in a mean, and
    would win.

    Args:
        l1: mean absolute difference of image and reconstruction, in [-1, 1].
        ssim: 1 - SSIM of image and reconstruction.
        feature: distance of image and reconstruction in the critic's features.
        kl: Kullback-Leibler divergence in nats per pixel.
        adversarial: what the critic makes of reconstructions and samples.
        patch: sliced Wasserstein distance of the samples' patches from those of the batch.
        energy: energy score of two samples of each class and position, which wants them as varied as real images.
        spectrum: difference of the samples' radial power spectrum from the batch's.
        penalty: the critic's gradient penalty.
    """

    l1: float
    ssim: float
    feature: float
    kl: float
    adversarial: float
    patch: float
    energy: float
    spectrum: float
    penalty: float

    def __post_init__(self) -> None:
        check_weights(self)


class LatentBank(nn.Module):
    """The latest latent vector of every training slice: the aggregate posterior, at no extra cost.

    Args:
        slices: in the training set.
        features: of a latent vector.
    """

    def __init__(self, slices: int, features: int) -> None:
        super().__init__()
        self.register_buffer("latents", torch.zeros(slices, features))
        self.register_buffer("seen", torch.zeros(slices, dtype=torch.bool))

    def keep(self, index: Tensor, latents: Tensor) -> None:
        """Remember the latent vectors (N, features) of the slices `index` (N,)."""
        self.latents[index] = latents.detach()
        self.seen.index_fill_(0, index, True)


class VaeGanTrainer(AdversarialTrainer):
    """Per batch: update encoder and decoder on reconstructions and samples, then the critic on both.

    A share of the batch is reconstructed, without noise: what noise stands for cannot be foretold. For the rest, new
    images of the same classes and positions are drawn, with noise, from the density of the slices' latest latent
    vectors, fitted after each epoch. They are what users generate, so the critic judges them like reconstructions. Its
    opinion of these reaches the encoder too, other than in the paper: without, encoder and decoder drift apart. How far
    it takes the encoder can be bounded (`VaeGan.encoder_correction`).

    What the critic sees is shifted by a few pixels, real and fake images alike, another way every time. Otherwise its
    gradient has the raster of its strided convolutions, and so have the generator's images.

    Args:
        device, max_epochs, train_data_loader, epoch_length, train_handlers, amp, cuda_graphs: as `BaseTrainer`.
        network: encoder, decoder and density.
        discriminator: the critic.
        network_optimizer, discriminator_optimizer: of the two.
        ema: keeps the moving average of `network`, which validation and users see.
        weights: of the loss terms.
        adversarial_loss: `logistic`, with the gradient penalty at real images, R1, or `wasserstein`, with the penalty
            between real and fake ones.
        reconstructed: share of the batch, at least one image, and at most all but one.
        shift: pixels that what the critic sees is shifted by at most.
        warmup: iterations in which the weights of all terms but those of reconstructions rise from 0.
        n_critic: updates of the critic for one of encoder and decoder.
        penalty_images: images that a gradient penalty is taken at.
        penalty_interval: iterations from one gradient penalty to the next, which counts for all of them.
        penalty_target: slope of the critic that is free; 1 with the original WGAN-GP.

    Reference: Larsen et al., arXiv:1512.09300, algorithm 1; R1: arXiv:1801.04406; WGAN-GP: arXiv:1704.00028; lazy
    penalties: arXiv:1912.04958, section 3.1; shifts of both: arXiv:2006.10738; R1 by the number of pixels:
    arXiv:2006.06676, appendix.
    """

    def __init__(
        self,
        network: VaeGan,
        discriminator: VaeGanCritic,
        network_optimizer: torch.optim.Optimizer,
        discriminator_optimizer: torch.optim.Optimizer,
        ema: EMAHandler,
        weights: VaeGanWeights,
        adversarial_loss: str,
        reconstructed: float,
        shift: int,
        warmup: int,
        n_critic: int,
        penalty_images: int,
        penalty_interval: int,
        penalty_target: float,
        **trainer_args,
    ) -> None:
        super().__init__(**trainer_args)
        self.network, self.discriminator, self.ema = network, discriminator, ema
        self.network_optimizer, self.discriminator_optimizer = network_optimizer, discriminator_optimizer
        counts = {"n_critic": n_critic, "penalty_images": penalty_images, "penalty_interval": penalty_interval}
        for name, value in (counts | {"warmup": warmup}).items():
            check_whole(name, value, 1)
        check_whole("shift", shift, 0)
        if not is_number(reconstructed) or not 0 < reconstructed < 1:
            raise MedsynthError(f"reconstructed is {reconstructed!r}: give a share between 0 and 1, such as 0.25")
        self.weights, self.adversarial_loss = weights, check_adversarial_loss("adversarial_loss", adversarial_loss)
        self.reconstructed, self.shift = reconstructed, shift
        self.warmup, self.n_critic = warmup, n_critic
        self.penalty_images, self.penalty_interval = penalty_images, penalty_interval
        self.penalty_target = penalty_target
        self.pixels = network.decoder.image_size**2 / PIXELS
        self.penalty_weight = (
            penalty_interval * weights.penalty * (self.pixels if adversarial_loss == "logistic" else 1)
        )
        self.bank = LatentBank(len(self.data_loader.dataset), network.latent_features).to(self.state.device)
        self.add_event_handler(Events.ITERATION_COMPLETED(every=self.state.epoch_length), self.fit_density)
        self.average(ema)

    def _iteration(self, engine: Engine, batch: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
        real, iteration = {name: batch[name] for name in FACTS}, self.state.iteration
        warmth = torch.full((), min(1.0, iteration / self.warmup), device=self.state.device)
        made = self.generator_step(real=real, warmth=warmth)
        self.descend(self.network_optimizer, longest=1.0)
        _, old = self.shares(len(real["image"]))
        self.bank.keep(idist.all_gather(batch["index"][old]), idist.all_gather(made["posterior"]))

        due = (iteration - 1) % self.penalty_interval == 0
        for _ in range(self.n_critic):
            found = self.critic_step(real=real, fake=made["fake"], with_penalty=due)
            self.descend(self.discriminator_optimizer)
        return losses(**made["losses"], **found)

    def shares(self, count: int) -> tuple[slice, slice]:
        """Which images of a batch are drawn anew, and which are reconstructed; of a single one, both."""
        drawn = max(1, min(round(count * (1 - self.reconstructed)), count - 1))
        return slice(drawn), slice(min(drawn, count - 1), None)

    @replayed("network_optimizer")
    def generator_step(self, real: dict[str, Tensor], warmth: Tensor) -> Named:
        """The gradients of encoder and decoder.

        Args:
            real: `image` (N, C, H, W), with `label` and `position`, (N,) each.
            warmth: 0-d, part of the weights of terms that warm up.

        Returns: `fake`, reconstructions first, like `real`; `posterior`, the latent vectors of what is reconstructed;
            `losses`.
        """
        real, label, position = (real[name] for name in FACTS)
        weights, (raise_scores, _) = self.weights, ADVERSARIAL_LOSSES[self.adversarial_loss]
        new, old = self.shares(len(real))
        count = new.stop
        fake_label, fake_position = (torch.cat([fact[old], fact[new]]) for fact in (label, position))
        latents, *_ = self.network.density.sample(2 * count, label[new].repeat(2), position[new].repeat(2))

        with self.autocast(), frozen(self.discriminator):
            mean, log_variance = self.network.encode(real[old], label[old], position[old])
            posterior = mean + (log_variance / 2).exp() * torch.randn_like(mean)
            both = self.network.decode_both(posterior, latents[:count], fake_label, fake_position)
            reconstruction, sample = both[0], both[1].clamp(-1, 1)
            with torch.no_grad():  # a like of each sample, to tell how varied they are
                other = self.network.draw(latents[count:], label[new], position[new]).clamp(-1, 1)
            fake = torch.cat([reconstruction.clamp(-1, 1), sample])  # as users get them
            shown, shown_real = self.shifted(fake, real[old])
            features = self.discriminator.features(shown)
            scores = self.discriminator.scores(features, fake_label, fake_position)
            terms = {
                "l1": F.l1_loss(reconstruction, real[old]),
                "kl": kl_divergence(mean, log_variance) / real[0].numel(),
                "adversarial": raise_scores(scores),
            }
            if weights.energy:
                terms["energy"] = energy_score(sample, other, real[new])
            if weights.spectrum:
                terms["spectrum"] = spectral_distance(sample, real[new])
            if weights.patch:
                drawn = torch.cat([sample, other])[: len(real)]
                terms["patch"] = sliced_patch_distance(drawn, real[: len(drawn)], PROJECTIONS)
            if weights.ssim:
                terms["ssim"] = structural_dissimilarity(reconstruction, real[old])
            if weights.feature:
                with torch.no_grad():
                    target = self.discriminator.features(shown_real)
                terms["feature"] = feature_distance([layer[: len(real[old])] for layer in features], target)
        total = sum(self.weight(name, warmth) * term for name, term in terms.items())
        total.backward()
        return {
            "fake": {"image": fake.detach(), "label": fake_label, "position": fake_position},
            "posterior": posterior.detach(),
            **losses(total=total, **terms),
        }

    def weight(self, name: str, warmth: Tensor) -> Tensor | float:
        """What a term of the generator counts."""
        weight = getattr(self.weights, name) * (self.pixels if name in LIKELIHOOD else 1.0)
        return weight * warmth if name in RISING else weight

    @replayed("discriminator_optimizer")
    def critic_step(self, real: dict[str, Tensor], fake: dict[str, Tensor], with_penalty: bool) -> dict[str, Tensor]:
        """The gradients of the critic, for real and fake images with their labels and positions; the losses."""
        shown = self.shifted(real["image"], fake["image"])
        found = {"critic": ADVERSARIAL_LOSSES[self.adversarial_loss][1](*self.scores(shown, (real, fake)))}
        found["critic"].backward()
        if with_penalty:  # when the other graph is gone: neither takes memory beside the other
            found["penalty"] = self.penalty(*shown, real["label"], real["position"])
            (self.penalty_weight * found["penalty"]).backward()
        return {name: value.detach() for name, value in found.items()}

    def scores(self, shown: Sequence[Tensor], facts: Sequence[dict[str, Tensor]]) -> list[Tensor]:
        """What the critic makes of sets of images (N, C, H, W), each with its labels and positions: (N,) each."""
        with self.autocast():
            features = self.discriminator.features(torch.cat(shown))
            parts = map(list, zip(*(layer.split(len(shown[0])) for layer in features), strict=True))
            return [  # apart, lest it compares the sets
                self.discriminator.scores(part, fact["label"], fact["position"])
                for part, fact in zip(parts, facts, strict=True)
            ]

    def shifted(self, *sets: Tensor) -> list[Tensor]:
        """Sets of images (N, C, H, W), all shifted alike; what leaves at one side enters at the opposite one."""
        if not self.shift:
            return list(sets)
        device, size = sets[0].device, sets[0].shape[-1]
        offsets = torch.randint(-self.shift, self.shift + 1, (2, 1), device=device)
        rows, columns = (torch.arange(size, device=device) - offsets) % size
        return [images.index_select(2, rows).index_select(3, columns) for images in sets]

    def penalty(self, real: Tensor, fake: Tensor, label: Tensor, position: Tensor) -> Tensor:
        """The critic's gradient penalty at a few images of the batch, in float32."""
        few = torch.rand(len(real), device=real.device).argsort()[: self.penalty_images]
        critic = partial(self.discriminator, label=label[few], position=position[few])
        at_real = self.adversarial_loss == "logistic"
        images = real[few].requires_grad_() if at_real else interpolate_images(real[few], fake[few])
        return gradient_penalty(critic, images, self.penalty_target)

    @torch.no_grad()
    def begin(self) -> None:
        """Start the linear maps as principal components, and the density from what they make of the training set."""
        dataset = self.data_loader.dataset
        count = min(len(dataset), IMAGES_TO_START_FROM)
        index = np.linspace(0, len(dataset) - 1, count).astype(np.int64)
        images = dataset.read(index)[:, None].float().to(self.state.device)
        self.network.start_from(images)
        for some, part in zip(torch.from_numpy(index).split(256), images.split(256), strict=True):
            self.bank.keep(some.to(part.device), self.network.encoder.linear_part(part))
        self.fit_density()
        same_everywhere(self.network)
        self.generator.load_state_dict(self.network.state_dict())

    @torch.no_grad()
    def fit_density(self) -> None:
        """Fit the density to the latest latent vector of every slice."""
        seen = self.bank.seen
        facts = self.data_loader.dataset.facts(seen.cpu().nonzero().squeeze(1).numpy())
        self.network.fit_density(self.bank.latents[seen], facts["label"], facts["position"], self.state.iteration)
        same_everywhere(self.network.density)

    def stateful(self) -> dict[str, object]:
        """And the latent vectors."""
        return super().stateful() | {"bank": self.bank}

    def sample(self, count: int, seed: int) -> Tensor:
        """(count, C, H, W) samples in [-1, 1] on the CPU."""
        return self.generator.sample(count, seed)[0].cpu()
