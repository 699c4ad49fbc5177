"""The VQ-VAE of slices: MONAI's encoder and decoder with our own codebook."""

from __future__ import annotations

from collections.abc import Sequence

from monai.networks.nets import VQVAE
from torch import Tensor

from medsynth.errors import MedsynthError, check_whole, is_whole
from medsynth.models.vqvae.codebook import Codebook

CODE_FEATURES = (4, 16)  # smallest and largest; of longer codes, fewer are used
SMALLEST_IMAGE = 16  # pixels per side that SSIM needs


class SliceVqVae(VQVAE):
    """Slices to maps of code indices, and back.

    Args:
        image_size: pixels per side, a multiple of the stride.
        channels: features at each level; every level halves the grid.
        residual_layers: at each level.
        num_codes: in the codebook.
        code_features: length of a code.
        cosine: as `Codebook` takes it.

    Attributes:
        stride: pixels per side that one code stands for.

    Reference: van den Oord et al., arXiv:1711.00937; the layers are those of Tudosiu et al., arXiv:2209.03177.
    """

    def __init__(
        self,
        image_size: int,
        channels: Sequence[int],
        residual_layers: int,
        num_codes: int,
        code_features: int,
        cosine: bool,
    ) -> None:
        stride = _checked_stride(image_size, channels, residual_layers, num_codes, code_features)
        super().__init__(
            spatial_dims=2,
            in_channels=1,
            out_channels=1,
            channels=channels,
            num_res_layers=residual_layers,
            num_res_channels=channels,
            downsample_parameters=(2, 4, 1, 1),
            upsample_parameters=(2, 4, 1, 1, 0),
            num_embeddings=num_codes,
            embedding_dim=code_features,
        )
        self.quantizer = Codebook(num_codes, code_features, cosine)
        self.image_size, self.stride, self.num_codes, self.code_features = image_size, stride, num_codes, code_features

    @property
    def codebook(self) -> Codebook:
        """The codebook, which MONAI calls the quantizer."""
        return self.quantizer

    @property
    def last_layer(self) -> Tensor:
        """The weights of the decoder's output layer."""
        return self.decoder.blocks[-1].conv.weight

    def encode(self, images: Tensor) -> Tensor:
        """(N, 1, H, W) in [-1, 1] -> latents (N, code_features, H / stride, W / stride), float32."""
        return self.encoder(images).float()

    def index(self, latents: Tensor) -> Tensor:
        """Latents -> indices (N, h, w) of the nearest codes."""
        return self.codebook.quantize(latents)

    def embed(self, indices: Tensor) -> Tensor:
        """Indices (N, h, w) -> codes (N, code_features, h, w), exactly."""
        return self.codebook.embed(indices)

    def decode(self, embeddings: Tensor) -> Tensor:
        """Codes (N, code_features, h, w) -> images (N, 1, H, W) in [-1, 1], float32."""
        return self.decoder(embeddings).float().clamp(-1, 1)

    def encode_indices(self, images: Tensor) -> Tensor:
        """(N, 1, H, W) in [-1, 1] -> indices (N, h, w)."""
        return self.index(self.encode(images))

    def decode_indices(self, indices: Tensor) -> Tensor:
        """Indices (N, h, w) -> images (N, 1, H, W) in [-1, 1]."""
        return self.decode(self.embed(indices))

    def forward(self, images: Tensor, label: Tensor | None = None, position: Tensor | None = None) -> Tensor:
        """(N, 1, H, W) in [-1, 1] -> reconstructions; class and position make no difference."""
        return self.decode_indices(self.encode_indices(images))


def _checked_stride(
    image_size: int, channels: Sequence[int], residual_layers: int, num_codes: int, code_features: int
) -> int:
    """Pixels per side that one code stands for."""
    if isinstance(channels, (str, int)) or not channels or any(not is_whole(c) or c < 1 for c in channels):
        raise MedsynthError(
            f'channels is {channels!r}: give a number for each halving of the grid, such as "[64, 128]"'
        )
    stride = 2 ** len(channels)
    smallest = max(SMALLEST_IMAGE, 2 * stride)
    if not is_whole(image_size) or image_size < smallest or image_size % stride:
        nearest = max(round(image_size / stride) * stride, smallest) if is_whole(image_size) else 64
        raise MedsynthError(
            f"image_size {image_size}: this network needs a multiple of {stride} from {smallest} on, such as "
            f"{nearest}; set --image_size {nearest}"
        )
    check_whole("residual_layers", residual_layers, 0)
    check_whole("num_codes", num_codes, 2, "2 or more, such as 256")
    if not is_whole(code_features) or not CODE_FEATURES[0] <= code_features <= CODE_FEATURES[1]:
        raise MedsynthError(f"code_features is {code_features!r}: give {CODE_FEATURES[0]} to {CODE_FEATURES[1]}")
    return stride
