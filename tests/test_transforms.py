"""Views: every operation against torchvision's, the random parameters against its samplers, row by row."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torchvision.transforms as T
import torchvision.transforms.functional as TF
from PIL import Image
from torch import Tensor

from dgbench import transforms
from dgbench.transforms import VIEWS

LEVEL = 1 / 255


def images(n: int, height: int = 20, width: int | None = None, seed: int = 0) -> Tensor:
    """Random images that are smooth enough for interpolation to matter, with grey and saturated pixels."""
    r = torch.Generator().manual_seed(seed)
    x = torch.rand(n, 3, 5, 5, generator=r)
    x[0, :, 0] = x[0, :1, 0]  # grey
    x[-1, :, 1] = torch.tensor([1.0, 0.0, 1.0])[:, None]
    x = torch.nn.functional.interpolate(x, (height, width or height), mode="bilinear")
    return (x * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def uniforms(n: int, columns: int = 29, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.RandomState(seed).random_sample((n, columns)))


def from_pil(image: Image.Image) -> Tensor:
    return TF.to_tensor(image)


def to_pil(x: Tensor) -> Image.Image:
    return Image.fromarray(x.numpy())


# single operations at fixed parameters

OPERATIONS: list[tuple[Callable[[Tensor, Tensor], Tensor], Callable[..., Tensor], tuple[float, ...]]] = [
    (transforms.adjust_brightness, TF.adjust_brightness, (0.7, 1.0, 1.3)),
    (transforms.adjust_contrast, TF.adjust_contrast, (0.7, 1.0, 1.3)),
    (transforms.adjust_saturation, TF.adjust_saturation, (0.0, 0.7, 1.3)),
    (transforms.adjust_hue, TF.adjust_hue, (-0.5, -0.3, 0.0, 0.1, 0.3)),
]


@pytest.mark.parametrize(("ours", "theirs", "factors"), OPERATIONS)
def test_colour_operations_are_torchvisions(
    ours: Callable[[Tensor, Tensor], Tensor], theirs: Callable[..., Tensor], factors: tuple[float, ...]
) -> None:
    x = VIEWS["none"](images(len(factors), 12), torch.empty(len(factors), 0), 12)
    expected = torch.stack([theirs(x[i], f) for i, f in enumerate(factors)])
    torch.testing.assert_close(ours(x, torch.tensor(factors)), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("ours", "theirs", "factors"), OPERATIONS[:3])
def test_colour_operations_are_pillows_but_for_rounding(
    ours: Callable[[Tensor, Tensor], Tensor], theirs: Callable[..., Image.Image], factors: tuple[float, ...]
) -> None:
    raw = images(len(factors), 12)
    expected = torch.stack([from_pil(theirs(to_pil(raw[i]), f)) for i, f in enumerate(factors)])
    x = VIEWS["none"](raw, torch.empty(len(raw), 0), 12)
    assert (ours(x, torch.tensor(factors)) - expected).abs().max() <= 2 * LEVEL


def test_hue_of_every_kind_of_pixel() -> None:
    """All orders of the channels, ties, black, white and grey."""
    levels = torch.tensor([0.0, 0.2, 0.5, 1.0])
    colours = torch.cartesian_prod(levels, levels, levels).T.reshape(1, 3, 8, 8)
    for shift in (-0.3, 0.0, 0.2, 1 / 3):
        expected = TF.adjust_hue(colours[0], shift)
        torch.testing.assert_close(
            transforms.adjust_hue(colours, torch.tensor([shift]))[0], expected, atol=1e-5, rtol=0
        )


def test_luma_is_torchvisions_grayscale() -> None:
    x = torch.rand(2, 3, 6, 6)
    torch.testing.assert_close(transforms.luma(x), TF.rgb_to_grayscale(x))


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("size", [20, 32])
def test_crop_resize_and_flip_are_torchvisions(size: int, flip: bool) -> None:
    """Also against Pillow, whose antialiasing changes nothing when a box is enlarged."""
    raw = images(4)
    boxes = [(0, 0, 20, 20), (2, 3, 17, 16), (5, 0, 15, 18), (3, 4, 16, 13)]  # left, top, width, height
    ours = transforms.crop_and_resize(raw, torch.tensor(boxes).double(), torch.full((4,), flip), size)
    for x, out, (left, top, width, height) in zip(raw, ours, boxes, strict=True):
        tensor = TF.resized_crop(
            x.permute(2, 0, 1) / 255, top, left, height, width, [size, size], antialias=False
        )
        pil = from_pil(TF.resized_crop(to_pil(x), top, left, height, width, [size, size]))
        torch.testing.assert_close(out, TF.hflip(tensor) if flip else tensor, atol=1e-5, rtol=0)
        assert (out - (TF.hflip(pil) if flip else pil)).abs().max() <= LEVEL


def test_a_crop_of_the_original_is_found_in_the_stored_square() -> None:
    """A 80 x 40 image stored as 20 x 20: the right half of the original is the right half of the square."""
    raw = images(1)
    box = torch.tensor([[40.0, 0, 40, 40]]).double() * torch.tensor([20 / 80, 20 / 40, 20 / 80, 20 / 40])
    ours = transforms.crop_and_resize(raw, box, torch.tensor([False]), 20)[0]
    half = TF.resize(raw[0, :, 10:].permute(2, 0, 1) / 255, [20, 20], antialias=False)
    torch.testing.assert_close(ours, half, atol=1e-5, rtol=0)


# views


def test_the_evaluation_view() -> None:
    raw = images(3)
    none = VIEWS["none"]
    assert torch.equal((none(raw, torch.empty(3, 0), 20) * 255).round().byte().permute(0, 2, 3, 1), raw)
    smaller = none(raw, torch.empty(3, 0), 8)
    theirs = torch.stack([from_pil(T.Resize((8, 8))(to_pil(x))) for x in raw])
    assert (smaller - theirs).abs().max() <= LEVEL
    digits = torch.randint(0, 256, (2, 8, 8, 2), dtype=torch.uint8)
    assert none(digits, torch.empty(2, 0), 8).shape == (2, 2, 8, 8)


@pytest.mark.parametrize("stored", [(20, 20), (24, 24)])
def test_domainbeds_view_is_its_steps_one_after_another(stored: tuple[int, int]) -> None:
    """torchvision's steps on Pillow images at the parameters that the uniforms mean, image by image."""
    n, size = 60, 24
    raw, u = images(n, *stored), uniforms(n)
    ours = VIEWS["domainbed"](raw, u, size)
    boxes = transforms.crop_boxes(u[:, :22], torch.tensor([stored]).expand(n, 2)).long().tolist()
    factors = transforms.jitter_factors(u[:, 23:27]).tolist()
    steps = (TF.adjust_brightness, TF.adjust_contrast, TF.adjust_saturation, TF.adjust_hue)
    for i, (left, top, width, height) in enumerate(boxes):
        x = raw[i].permute(2, 0, 1) / 255
        x = TF.resized_crop(x, top, left, height, width, [size, size], antialias=False)
        x = TF.hflip(x) if u[i, 22] < 0.5 else x
        for k in transforms.ORDERS[int(u[i, 27] * 24)].tolist():
            x = steps[k](x, factors[i][k])
        x = TF.rgb_to_grayscale(x, 3) if u[i, 28] < 0.1 else x
        torch.testing.assert_close(ours[i], x, atol=2e-5, rtol=0)


def test_original_sizes_decide_the_crop() -> None:
    """A ramp of 200 x 100 pixels, stored as a square, against torchvision's crops of the ramp itself."""
    n, size = 30, 50
    x, y = torch.linspace(0, 255, 200).expand(100, 200), torch.linspace(0, 255, 100)[:, None].expand(100, 200)
    original = torch.stack([x, y, y.flip(0)]).round().byte()
    stored = TF.resize(original, [size, size]).permute(1, 2, 0).expand(n, size, size, 3)
    u = uniforms(n)
    u[:, 22:] = torch.tensor([0.9, 0.5, 0.5, 0.5, 0.5, 0.0, 0.9])  # neither flip nor jitter
    u[:, 0:20:2] = u[:, 0:20:2] * 0.3  # small areas, so that some tries fit
    sizes = torch.tensor([[200, 100]]).expand(n, 2)
    ours = VIEWS["domainbed"](stored, u, size, sizes)
    boxes = transforms.crop_boxes(u[:, :22], sizes).long().tolist()
    for out, (left, top, width, height) in zip(ours, boxes, strict=True):
        theirs = TF.resized_crop(original, top, left, height, width, [size, size]) / 255
        assert (out - theirs).abs().max() < 0.02


@pytest.mark.parametrize("size", [20, 23])
def test_a_row_depends_on_its_own_arguments_only(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    monkeypatch.setattr(transforms, "CHUNK_PIXELS", 7 * size**2)  # several chunks
    raw, u = images(30), uniforms(30)
    sizes = torch.randint(20, 60, (30, 2), generator=torch.Generator().manual_seed(0))
    full = VIEWS["domainbed"](raw, u, size, sizes)
    order = torch.randperm(30, generator=torch.Generator().manual_seed(1))
    for rows in (order, order[:3], order[:1]):
        some = VIEWS["domainbed"](raw[rows], u[rows], size, sizes[rows])
        torch.testing.assert_close(some, full[rows], atol=1e-6, rtol=0)
    assert len({bytes(x.numpy()) for x in full}) == 30


def test_a_view_is_a_function_of_its_arguments() -> None:
    raw, u = images(10), uniforms(10)
    kept = raw.clone(), u.clone()
    first = VIEWS["domainbed"](raw, u, 20)
    torch.manual_seed(5)
    assert torch.equal(first, VIEWS["domainbed"](raw, u, 20))
    assert torch.equal(raw, kept[0]) and torch.equal(u, kept[1])
    assert first.dtype == torch.float32 and first.min() >= 0 and first.max() <= 1


def test_uniforms_of_the_wrong_shape() -> None:
    with pytest.raises(ValueError, match=r"uniforms \(4, 28\) are not \(4, 29\)"):
        VIEWS["domainbed"](images(4), torch.zeros(4, 28), 20)


def test_normalize() -> None:
    x = torch.rand(2, 3, 4, 4)
    mean, std = transforms.IMAGENET_MEAN, transforms.IMAGENET_STD
    before = x.clone()
    torch.testing.assert_close(transforms.normalize(x, mean, std), T.Normalize(mean, std)(x))
    assert torch.equal(x, before)


# distributions of the parameters


def same_moments(ours: Tensor, theirs: Tensor, what: str) -> None:
    """Means and second moments of two samples, within 4 standard errors."""
    for a, b in ((ours, theirs), (ours**2, theirs**2)):
        error = math.sqrt(a.var().item() / len(a) + b.var().item() / len(b)) + 1e-12
        assert abs(a.mean() - b.mean()).item() < 4 * error, what


@pytest.mark.parametrize(("width", "height"), [(227, 227), (60, 48), (50, 70), (300, 100), (90, 400), (5, 4)])
def test_crops_are_drawn_as_torchvision_draws_them(width: int, height: int) -> None:
    """Also where few tries fit (60 x 48) and where none does (300 x 100)."""
    n = 20000
    ours = transforms.crop_boxes(uniforms(n, 22), torch.tensor([[width, height]]).expand(n, 2))
    left, top, w, h = ours.T
    assert (ours[:, :2] >= 0).all() and (left + w <= width).all() and (top + h <= height).all()
    torch.manual_seed(0)
    blank = torch.empty(3, height, width)
    draws = [T.RandomResizedCrop.get_params(blank, [0.7, 1.0], [3 / 4, 4 / 3]) for _ in range(3000)]
    their_top, their_left, their_h, their_w = torch.tensor(draws).double().T
    same_moments(w * h, their_w * their_h, "area")
    same_moments((w / h).log(), (their_w / their_h).log(), "aspect")
    same_moments(left, their_left, "left")
    same_moments(top, their_top, "top")
    same_moments(left * w, their_left * their_w, "left and width")


def test_jitter_is_drawn_as_torchvision_draws_it() -> None:
    n = 20000
    u = uniforms(n)
    ours = transforms.jitter_factors(u[:, 23:27])
    jitter = T.ColorJitter(0.3, 0.3, 0.3, 0.3)
    draws = [
        T.ColorJitter.get_params(jitter.brightness, jitter.contrast, jitter.saturation, jitter.hue)
        for _ in range(3000)
    ]
    for k, what in enumerate(("brightness", "contrast", "saturation", "hue")):
        same_moments(ours[:, k], torch.tensor([d[k + 1] for d in draws]).double(), what)
        assert (ours[:, k] - int(k < 3)).abs().max() < 0.3 + 1e-9
    orders = transforms.ORDERS[(u[:, 27] * 24).long()]
    assert orders.unique(dim=0).shape == (24, 4)
    for k in range(4):  # every operation is at every place equally often
        assert (torch.bincount(orders[:, k]) / n - 0.25).abs().max() < 4 * math.sqrt(0.25 * 0.75 / n)


def test_rates_of_flips_and_grey_images() -> None:
    n = 4000
    raw = torch.zeros(n, 8, 8, 3, dtype=torch.uint8)
    raw[:, :, :4] = torch.tensor([200, 40, 90], dtype=torch.uint8)  # colour on the left, black on the right
    out = VIEWS["domainbed"](raw, uniforms(n), 8)
    bright = out.amax(1)  # (n, 8, 8)
    flipped = (bright[:, :, -1].mean(1) > bright[:, :, 0].mean(1)).double().mean()
    grey = (out.amax(1) - out.amin(1) < 1e-6).flatten(1).all(1).double().mean()
    for rate, expected in ((flipped, 0.5), (grey, 0.1)):
        assert abs(rate - expected) < 4 * math.sqrt(expected * (1 - expected) / n)
