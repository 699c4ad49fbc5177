"""Image features without a pretrained network: a small one that learns from the user's own real training images.

It learns to tell slice positions, classes and subjects apart (anatomy), and how much an image was blurred, made noisy
or reduced to principal components (texture), so that each of these moves its features. It is a judge: it is no part of
`medsynth.models`, and no trainer may use it.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from medsynth.evaluation.metrics.checks import CannotMeasure
from medsynth.evaluation.metrics.distribution.distances import PcaFeatures, fit_pca
from medsynth.evaluation.metrics.distribution.image_set import ImageSet
from medsynth.storage import load_plain, save_plain

FEATURES = 64  # of one network
STEPS = 600
SNAPSHOTS = (400, 600)  # steps after which the weights are stored: features of both together vary less than of one
BATCH = 64  # of images of 64 pixels a side, fewer of larger ones
DAMAGES = 3  # kinds: blur, noise, low rank
COMPONENTS = (48, 300)  # of the low-rank damage
NOISE_UNIT, LOW_RANK_UNIT = 3.0, 0.4  # that bring the strengths of all damages to one size
WEIGHTS = {"damage": 20.0, "position": 10.0, "subject": 1.0, "class": 0.3}  # of the losses
MIN_IMAGES = 100


class FeatureNet(nn.Module):
    """Strided convolutions, averaged over the image after each, and projected to the features.

    Args:
        size: pixels of the shorter side; each doubling adds a convolution.
        classes, subjects: number of each that it learns to classify.
        width: channels of the first convolution.
    """

    def __init__(self, size: int, classes: int, subjects: int, width: int = 16) -> None:
        super().__init__()
        channels = [1] + [width * min(i + 1, 4) for i in range(max(int(np.log2(size)) - 1, 4))]
        self.convs = nn.ModuleList(
            nn.Conv2d(channels[i], channels[i + 1], 3, stride=1 if i == 0 else 2, padding=1)
            for i in range(len(channels) - 1)
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(c) for c in channels[1:])
        self.embed = nn.Linear(sum(channels[2:]), FEATURES)
        self.outputs = nn.ModuleDict(
            {
                "position": nn.Linear(FEATURES, 1),
                "class": nn.Linear(FEATURES, classes),
                "subject": nn.Linear(FEATURES, subjects),
                "damage": nn.Linear(FEATURES, DAMAGES),
            }
        )

    def features(self, images: Tensor) -> Tensor:
        """(N, 1, H, W) in [0, 1] -> (N, FEATURES)."""
        pooled = []
        for conv, norm in zip(self.convs, self.norms, strict=True):
            images = F.leaky_relu(norm(conv(images)), 0.1)
            pooled.append(images.mean((2, 3)))
        return self.embed(torch.cat(pooled[1:], dim=1))

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """(N, 1, H, W) in [0, 1] -> the outputs by name."""
        hidden = F.leaky_relu(self.features(images), 0.1)
        return {name: layer(hidden) for name, layer in self.outputs.items()}


@dataclass(frozen=True)
class SelfFeatures:
    """The trained networks; call it on images for their features, standardized by the training images'.

    Attributes:
        digest: SHA-256 of weights and scale.
    """

    networks: tuple[FeatureNet, ...]
    mean: Tensor
    deviation: Tensor
    digest: str

    def __call__(self, images: NDArray[np.float32]) -> NDArray[np.float64]:
        """(N, H, W) floats in [0, 1] -> (N, features of all networks)."""
        return ((_features(self.networks, images) - self.mean) / self.deviation).numpy()


def self_features(train: ImageSet, seed: int, cache_dir: Path | str) -> SelfFeatures:
    """The feature networks of a set of real training images: from the cache, or trained and put there.

    Args:
        train: at least 100 images of two subjects; nothing else is ever learned from.
        seed: same seed, same machine: same networks.
        cache_dir: holds a file for each set, seed and version of this code.
    """
    if len(train) < MIN_IMAGES or train.subject_count < 2:
        raise CannotMeasure(
            f"{len(train)} training images of {train.subject_count} subject(s), "
            f"the feature network needs {MIN_IMAGES} of 2 or more to learn from"
        )
    key = hashlib.sha256(f"{train.digest()} {seed}".encode() + Path(__file__).read_bytes()).hexdigest()
    path = Path(cache_dir) / f"features_{key[:16]}.pt"
    classes, subjects = max(len(train.classes), 1), train.subject_count
    size = min(train.images.shape[1:])
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        states = train_networks(train, seed)
        networks = [_network(size, classes, subjects, state) for state in states]
        found = _features(networks, train.images)
        save_plain(path, {"weights": states, "mean": found.mean(0), "deviation": found.std(0) + 1e-6})
    content = load_plain(path)
    networks = tuple(_network(size, classes, subjects, state) for state in content["weights"])
    digest = hashlib.sha256()
    for tensor in [*(t for state in content["weights"] for t in state.values()), content["mean"], content["deviation"]]:
        digest.update(tensor.numpy().tobytes())
    return SelfFeatures(networks, content["mean"], content["deviation"], digest.hexdigest())


def train_networks(train: ImageSet, seed: int) -> list[dict[str, Tensor]]:
    """The weights after each of SNAPSHOTS steps of one training."""
    torch.manual_seed(seed)
    random = torch.Generator().manual_seed(seed)
    images, targets = torch.from_numpy(train.images)[:, None], _targets(train)
    size = min(images.shape[2:])
    network = FeatureNet(size, max(len(train.classes), 1), train.subject_count).to(memory_format=torch.channels_last)
    low_rank = fit_pca(train.images, min(COMPONENTS[1], len(train) // 2))
    optimizer = torch.optim.AdamW(network.parameters(), 2e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=STEPS)
    batch = min(BATCH, max(BATCH * 64 // size, 16))
    snapshots = []
    for step in tqdm(range(1, STEPS + 1), desc="training the feature network", leave=False):
        some = torch.randint(len(images), (batch,), generator=random)
        damaged, strengths = damage(augment(images[some], random), low_rank, random)
        found = network(damaged)
        loss = _loss(found, {name: target[some] for name, target in targets.items()}, strengths)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step in SNAPSHOTS:
            snapshots.append({name: tensor.detach().clone() for name, tensor in network.state_dict().items()})
    return snapshots


def augment(images: Tensor, random: torch.Generator) -> Tensor:
    """Half of the images flipped, all shifted by up to 4 pixels, brightness within 15 %."""
    flipped = torch.rand(len(images), 1, 1, 1, generator=random) < 0.5
    shift = torch.randint(-4, 5, (2,), generator=random).tolist()
    images = torch.where(flipped, images.flip(3), images).roll(shift, (2, 3))
    gain = 1 + 0.3 * (torch.rand(len(images), 1, 1, 1, generator=random) - 0.5)
    return (images * gain).clamp(0, 1)


def damage(images: Tensor, low_rank: PcaFeatures, random: torch.Generator) -> tuple[Tensor, Tensor]:
    """Each image left as it is (40 %), or blurred, made noisy or reduced to principal components (20 % each).

    Returns: (N, 1, H, W) images and (N, DAMAGES) strengths: pixels of blur, noise and share of the reduced image, in
        units that bring them to one size.
    """
    count = len(images)
    kind = torch.randint(-2, DAMAGES, (count,), generator=random)
    blur = 0.3 + 0.9 * torch.rand(count, generator=random)
    noise = 0.005 + 0.06 * torch.rand(count, generator=random)
    share = torch.rand(count, generator=random)
    ways = (
        _blurred(images, blur),
        images + noise.view(-1, 1, 1, 1) * torch.randn(images.shape, generator=random),
        images.lerp(_reduced(images, low_rank, random), share.view(-1, 1, 1, 1)),
    )
    strengths = torch.stack([blur, NOISE_UNIT * noise, LOW_RANK_UNIT * share], dim=1)
    strengths = strengths * F.one_hot(kind.clamp(min=0), DAMAGES) * (kind >= 0)[:, None]
    for number, way in enumerate(ways):
        images = torch.where((kind == number).view(-1, 1, 1, 1), way, images)
    return images.clamp(0, 1), strengths


def _blurred(images: Tensor, deviations: Tensor) -> Tensor:
    """Each image under a Gaussian of its own width in pixels."""
    offsets = torch.arange(-3, 4)
    line = torch.softmax(-0.5 * (offsets / deviations[:, None]) ** 2, dim=1)
    kernels = line[:, None, :, None] * line[:, None, None, :]
    return F.conv2d(images.transpose(0, 1), kernels, padding=3, groups=len(images)).transpose(0, 1)


def _reduced(images: Tensor, low_rank: PcaFeatures, random: torch.Generator) -> Tensor:
    """The images from their first components only, a random number of them."""
    most = len(low_rank.axes)
    count = int(torch.randint(min(COMPONENTS[0], most), most + 1, (1,), generator=random))
    axes, mean = torch.from_numpy(low_rank.axes[:count]).flatten(1), torch.from_numpy(low_rank.mean)
    centred = (images[:, 0] - mean).flatten(1)
    return (centred @ axes.T @ axes).view_as(images) + mean


def _targets(train: ImageSet) -> dict[str, Tensor]:
    """The targets of each output; -1 and NaN: not known."""
    codes = {label: code for code, label in enumerate(train.classes)}
    return {
        "position": torch.from_numpy(train.positions).float(),
        "class": torch.tensor([codes.get(label, -1) for label in train.labels]),
        "subject": torch.from_numpy(np.unique(train.subjects, return_inverse=True)[1]),
    }


def _loss(found: dict[str, Tensor], targets: dict[str, Tensor], strengths: Tensor) -> Tensor:
    losses = {
        "damage": F.mse_loss(found["damage"], strengths),
        "subject": F.cross_entropy(found["subject"], targets["subject"]),
    }
    known = ~targets["position"].isnan()
    if known.any():
        losses["position"] = F.mse_loss(found["position"][known, 0], targets["position"][known])
    known = targets["class"] >= 0
    if known.any():
        losses["class"] = F.cross_entropy(found["class"][known], targets["class"][known])
    return sum(WEIGHTS[name] * loss for name, loss in losses.items())


def _network(size: int, classes: int, subjects: int, state: dict[str, Tensor]) -> FeatureNet:
    network = FeatureNet(size, classes, subjects)
    network.load_state_dict(state)
    return network.eval()


@torch.no_grad()
def _features(networks: tuple[FeatureNet, ...] | list[FeatureNet], images: NDArray[np.float32]) -> Tensor:
    batches = torch.from_numpy(images)[:, None].split(64)
    return torch.cat([torch.cat([net.features(some) for net in networks], dim=1) for some in batches]).double()
