import numpy as np
import pytest
import torch
from monai.metrics.regression import compute_ms_ssim
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from medsynth.evaluation.metrics.image import ms_ssim, ms_ssim_pairs, psnr, ssim

FLOAT32 = 5e-5  # what MONAI's single precision leaves of an MS-SSIM


def noisy_pair(*shape: int, scale: float = 1.0, offset: float = 0.0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    real = torch.rand(shape, generator=generator)
    fake = (real + 0.2 * torch.randn(shape, generator=generator)).clamp(0, 1)
    return fake * scale + offset, real * scale + offset


@pytest.mark.parametrize(("scale", "offset"), [(1.0, 0.0), (2.0, -1.0), (4000.0, -1000.0)])
@pytest.mark.parametrize("size", [(33, 21), (14, 17, 12)])
def test_psnr_and_ssim_agree_with_scikit_image(size, scale, offset):
    fake, real = noisy_pair(3, 1, *size, scale=scale, offset=offset)
    pairs = [(f.double().numpy()[0], r.double().numpy()[0]) for f, r in zip(fake, real, strict=True)]
    settings = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": scale}
    expected_ssim = [structural_similarity(r, f, **settings) for f, r in pairs]
    expected_psnr = [peak_signal_noise_ratio(r, f, data_range=scale) for f, r in pairs]
    np.testing.assert_allclose(ssim(fake, real, data_range=scale), expected_ssim, atol=1e-6)
    np.testing.assert_allclose(psnr(fake, real, data_range=scale), expected_psnr, atol=1e-6)


def test_psnr_by_hand():
    real = torch.zeros(2, 1, 4, 4)
    fake = real + torch.tensor([0.1, 0.02]).view(2, 1, 1, 1)
    assert psnr(fake, real, data_range=2).tolist() == pytest.approx([26.0206, 40.0], abs=1e-4)


def test_identical_images_have_infinite_psnr_and_similarity_one():
    _, real = noisy_pair(2, 1, 64, 64)
    assert psnr(real, real, data_range=1).isinf().all()
    assert ssim(real, real, data_range=1).tolist() == pytest.approx([1, 1])
    assert ms_ssim(real, real, data_range=1).tolist() == pytest.approx([1, 1])


def test_ms_ssim_agrees_with_monai():
    fake, real = noisy_pair(2, 1, 128, 130)
    expected = compute_ms_ssim(fake, real, 2, data_range=1.0, kernel_type="uniform", kernel_size=7)
    np.testing.assert_allclose(
        ms_ssim(fake, real, data_range=1.0), expected.flatten(), atol=5e-5
    )  # MONAI works in float32


def test_small_images_use_the_scales_that_fit():
    fake, real = noisy_pair(2, 1, 64, 64)
    weights = tuple(np.array([0.0448, 0.2856, 0.3001, 0.2363]) / 0.8668)
    expected = compute_ms_ssim(fake, real, 2, data_range=1.0, kernel_type="uniform", kernel_size=7, weights=weights)
    np.testing.assert_allclose(
        ms_ssim(fake, real, data_range=1.0), expected.flatten(), atol=5e-5
    )  # MONAI works in float32


def test_copies_are_less_diverse_than_different_images():
    images = np.random.default_rng(0).random((20, 32, 32), dtype=np.float32)
    copies = np.repeat(images[:1], 20, axis=0)
    assert ms_ssim_pairs(copies, seed=0, pairs=50) == pytest.approx(1)
    assert ms_ssim_pairs(images, seed=0, pairs=50) < 0.5


def test_pairs_are_never_of_an_image_with_itself():
    two = np.stack([np.zeros((16, 16)), np.ones((16, 16))])
    assert ms_ssim_pairs(two, seed=0, pairs=200) < 0.05


@pytest.mark.parametrize(
    ("shape", "data_range", "message"),
    [((1, 1, 8, 8), 1.0, "at least 11"), ((1, 1, 16, 16), 0.0, "data_range"), ((16, 16), 1.0, "needs two equal")],
)
def test_wrong_input_gets_a_clear_line(shape, data_range, message):
    with pytest.raises(ValueError, match=message):
        ssim(torch.zeros(shape), torch.zeros(shape), data_range=data_range)


def test_an_image_without_room_for_one_window_has_no_ms_ssim():
    with pytest.raises(ValueError, match="at least 7 pixels"):
        ms_ssim(torch.zeros(1, 1, 9, 6), torch.zeros(1, 1, 9, 6), data_range=1.0)


def test_ms_ssim_of_volumes_agrees_with_monai():
    real = torch.rand(2, 1, 18, 14, 16, generator=torch.Generator().manual_seed(0))
    fake = (real + 0.1).clamp(0, 1)
    weights = (0.0448 / 0.3304, 0.2856 / 0.3304)
    expected = compute_ms_ssim(fake, real, 3, data_range=1.0, kernel_type="uniform", kernel_size=7, weights=weights)
    torch.testing.assert_close(
        ms_ssim(fake, real, data_range=1.0), expected.flatten(), atol=5e-5, rtol=0, check_dtype=False
    )
