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

from dgbench.views import IMAGENET_MEAN, IMAGENET_STD, VIEWS, Normalize, chunks, color, crop, strong

LEVEL = 1 / 255
SCALE = (0.7, 1.0)


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
    (color.adjust_brightness, TF.adjust_brightness, (0.7, 1.0, 1.3)),
    (color.adjust_contrast, TF.adjust_contrast, (0.7, 1.0, 1.3)),
    (color.adjust_saturation, TF.adjust_saturation, (0.0, 0.7, 1.3)),
    (color.adjust_hue, TF.adjust_hue, (-0.5, -0.3, 0.0, 0.1, 0.3)),
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
            color.adjust_hue(colours, torch.tensor([shift]))[0], expected, atol=1e-5, rtol=0
        )


def test_luma_is_torchvisions_grayscale() -> None:
    x = torch.rand(2, 3, 6, 6)
    torch.testing.assert_close(color.luma(x), TF.rgb_to_grayscale(x))


def crop_and_resize(raw: Tensor, box: Tensor, flip: Tensor, size: int) -> Tensor:
    height, width, channels = raw.shape[1:]
    where = crop.box_places(box.double(), flip, size, (height, width, channels), inside=True)
    return crop.sample(raw, where).transpose(2, 3)


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("size", [20, 32])
def test_crop_resize_and_flip_are_torchvisions(size: int, flip: bool) -> None:
    """Also against Pillow, whose antialiasing changes nothing when a box is enlarged."""
    raw = images(4)
    boxes = [(0, 0, 20, 20), (2, 3, 17, 16), (5, 0, 15, 18), (3, 4, 16, 13)]  # left, top, width, height
    ours = crop_and_resize(raw, torch.tensor(boxes), torch.full((4,), flip), size)
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
    box = torch.tensor([[40.0, 0, 40, 40]]) * torch.tensor([20 / 80, 20 / 40, 20 / 80, 20 / 40])
    ours = crop_and_resize(raw, box, torch.tensor([False]), 20)[0]
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
    boxes = crop.crop_boxes(u[:, :22], torch.tensor([stored]).expand(n, 2), SCALE).long().tolist()
    factors = color.jitter_factors(u[:, 23:27], (0.3, 0.3, 0.3, 0.3)).tolist()
    steps = (TF.adjust_brightness, TF.adjust_contrast, TF.adjust_saturation, TF.adjust_hue)
    for i, (left, top, width, height) in enumerate(boxes):
        x = raw[i].permute(2, 0, 1) / 255
        x = TF.resized_crop(x, top, left, height, width, [size, size], antialias=False)
        x = TF.hflip(x) if u[i, 22] < 0.5 else x
        for k in color.ORDERS[int(u[i, 27] * 24)].tolist():
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
    boxes = crop.crop_boxes(u[:, :22], sizes, SCALE).long().tolist()
    for out, (left, top, width, height) in zip(ours, boxes, strict=True):
        theirs = TF.resized_crop(original, top, left, height, width, [size, size]) / 255
        assert (out - theirs).abs().max() < 0.02


@pytest.mark.parametrize("size", [20, 23])
def test_a_row_depends_on_its_own_arguments_only(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    monkeypatch.setattr(chunks, "PIXELS", 7 * size**2)  # several chunks
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
    expected = T.Normalize(IMAGENET_MEAN, IMAGENET_STD)(x)
    torch.testing.assert_close(Normalize(IMAGENET_MEAN, IMAGENET_STD)(x), expected)


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
    ours = crop.crop_boxes(uniforms(n, 22), torch.tensor([[width, height]]).expand(n, 2), SCALE)
    left, top, w, h = ours.T
    assert (ours[:, :2] >= 0).all() and (left + w <= width).all() and (top + h <= height).all()
    torch.manual_seed(0)
    blank = torch.empty(3, height, width)
    draws = [T.RandomResizedCrop.get_params(blank, [0.7, 1.0], [3 / 4, 4 / 3]) for _ in range(2000)]
    their_top, their_left, their_h, their_w = torch.tensor(draws).double().T
    same_moments(w * h, their_w * their_h, "area")
    same_moments((w / h).log(), (their_w / their_h).log(), "aspect")
    same_moments(left, their_left, "left")
    same_moments(top, their_top, "top")
    same_moments(left * w, their_left * their_w, "left and width")


def test_jitter_is_drawn_as_torchvision_draws_it() -> None:
    n = 20000
    u = uniforms(n)
    ours = color.jitter_factors(u[:, 23:27], (0.3, 0.3, 0.3, 0.3))
    jitter = T.ColorJitter(0.3, 0.3, 0.3, 0.3)
    draws = [
        T.ColorJitter.get_params(jitter.brightness, jitter.contrast, jitter.saturation, jitter.hue)
        for _ in range(2000)
    ]
    for k, what in enumerate(("brightness", "contrast", "saturation", "hue")):
        same_moments(ours[:, k], torch.tensor([d[k + 1] for d in draws]).double(), what)
        assert (ours[:, k] - int(k < 3)).abs().max() < 0.3 + 1e-9
    orders = color.ORDERS[(u[:, 27] * 24).long()]
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


# weak, strong and MoCo's views


def test_the_weak_view_is_dassls_translation() -> None:
    """Scaled to 1.125 times the size, then a crop at whole pixels; or the image itself."""
    n, size = 40, 32
    raw, u = images(n, size), uniforms(n, 4)
    ours = VIEWS["weak"](raw, u, size)
    for i in range(n):
        x = raw[i].permute(2, 0, 1) / 255
        if u[i, 1] < 0.5:
            left, top = (u[i, 2:] * 4).round().long().tolist()
            x = TF.resize(x, [36, 36], antialias=False)[:, top : top + size, left : left + size]
        x = TF.hflip(x) if u[i, 0] < 0.5 else x
        torch.testing.assert_close(ours[i], x, atol=1e-5, rtol=0)


STRONG: dict[Callable[..., Tensor], tuple[Callable[[Tensor, float], Tensor], tuple[float, ...]]] = {
    strong.autocontrast: (lambda x, v: TF.autocontrast(x / 255), (0.0,) * 4),
    strong.equalize: (lambda x, v: TF.equalize(x), (0.0,) * 4),
    strong.sharpness: (lambda x, v: TF.adjust_sharpness(x / 255, v), (0.05, 0.5, 0.95, 1.3)),
    strong.posterize: (lambda x, v: TF.posterize(x, int(v)), (4.0, 5.9, 6.0, 7.5)),
    strong.solarize: (TF.solarize, (0.0, 77.0, 128.0, 254.5)),
    strong.rotate: (TF.rotate, (-30.0, -7.0, 0.0, 21.0)),
}


@pytest.mark.parametrize("ours", STRONG)
@pytest.mark.parametrize("height", [24, 30])
def test_operations_of_the_strong_view_are_torchvisions(ours: Callable[..., Tensor], height: int) -> None:
    theirs, magnitudes = STRONG[ours]
    raw = images(4, height, 24).permute(0, 3, 1, 2).contiguous()
    raw[2] = raw[2] // 3 + 20  # less contrast
    raw[3, 1] = 7  # a channel of one level
    expected = torch.stack([theirs(x, v) for x, v in zip(raw, magnitudes, strict=True)])
    expected = expected if expected.is_floating_point() else expected / 255
    torch.testing.assert_close(ours(raw / 255, torch.tensor(magnitudes)), expected, atol=2e-6, rtol=0)


@pytest.mark.parametrize("v", [-0.3, -0.11, 0.0, 0.23])
def test_shears_and_translations_are_fixmatchs_on_pillow_images(v: float) -> None:
    raw = images(1, 24, 30)
    x = raw.permute(0, 3, 1, 2) / 255
    matrices = {
        strong.shear_x: (1, v, 0, 0, 1, 0),
        strong.shear_y: (1, 0, 0, v, 1, 0),
        strong.translate_x: (1, 0, v * 30, 0, 1, 0),
        strong.translate_y: (1, 0, 0, 0, 1, v * 24),
    }
    for ours, matrix in matrices.items():
        pil = to_pil(raw[0]).transform((30, 24), Image.Transform.AFFINE, matrix)
        same = (ours(x.clone(), torch.tensor([v]))[0] - from_pil(pil)).abs() < 1e-6
        assert same.float().mean() > 0.99, ours  # a source at the border of two pixels is rounded either way


def test_the_strong_view_is_its_operations_one_after_another() -> None:
    n, size = 60, 28
    raw, u = images(n, size), uniforms(n, 7)
    ours = VIEWS["strong"](raw, u, size)
    done = set()
    for i in range(n):
        x = raw[i : i + 1].permute(0, 3, 1, 2) / 255
        x = x.flip(3) if u[i, 0] < 0.5 else x
        for which, strength in ((u[i, 1], u[i, 3]), (u[i, 2], u[i, 4])):
            done.add(k := int(which * 14))
            op = strong.OPERATIONS[k]
            x = op.function(x.clone(), (op.low + (op.high - op.low) * strength)[None])
        column, row = (u[i, 5:] * size).long().tolist()
        x[..., max(0, row - 1) : row + 1, max(0, column - 1) : column + 1] = 0  # 16 / 224 * 28 = 2 pixels
        torch.testing.assert_close(ours[i], x[0], atol=2e-5, rtol=0)
    assert done == set(range(14))


def test_the_hole_of_the_strong_view() -> None:
    x = torch.ones(3, 2, 224, 224)
    out = strong.cutout(x, torch.tensor([[100.0, 50], [0, 0], [223, 223]]), 16)
    assert (1 - out).sum((1, 2, 3)).tolist() == [2 * 16 * 16, 2 * 8 * 8, 2 * 9 * 9]
    assert (out[0, :, 42:58, 92:108] == 0).all()


def test_operations_and_magnitudes_are_drawn_uniformly() -> None:
    n = 20000
    flip, chosen, magnitudes, hole = strong.plan(
        uniforms(n, 7), 224, (224, 224, 3), None, strong.OPERATIONS, True
    )
    assert abs(flip.double().mean() - 0.5) < 4 * math.sqrt(0.25 / n)
    for k, op in enumerate(strong.OPERATIONS):
        rate = (chosen == k).double().mean()
        assert abs(rate - 1 / 14) < 4 * math.sqrt(1 / 14 * 13 / 14 / (2 * n))
        own = magnitudes[chosen == k]
        assert own.min() >= op.low and own.max() <= op.high
        assert abs(own.mean() - (op.low + op.high) / 2) <= 4 * (op.high - op.low) / math.sqrt(12 * len(own))
    assert abs((chosen[:, 0] == chosen[:, 1]).double().mean() - 1 / 14) < 0.01  # with replacement
    assert hole.min() == 0 and hole.max() == 223


@pytest.mark.parametrize("sigma", [0.1, 0.7, 2.0])
def test_blur_is_torchvisions(sigma: float) -> None:
    x = VIEWS["none"](images(3, 30), torch.empty(3, 0), 30)
    expected = TF.gaussian_blur(x, [13, 13], [sigma, sigma])
    ours = color.gaussian_blur(x, torch.tensor([sigma, sigma, sigma]), 2.0)
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=0)


def test_mocos_view_is_its_steps_one_after_another() -> None:
    n, size = 40, 56
    raw, u = images(n, size), uniforms(n, 32)
    ours = VIEWS["moco"](raw, u, size)
    boxes = crop.crop_boxes(u[:, :22], torch.tensor([[size, size]]).expand(n, 2), (0.2, 1.0)).long().tolist()
    factors = color.jitter_factors(u[:, 23:27], (0.4, 0.4, 0.4, 0.1)).tolist()
    steps = (TF.adjust_brightness, TF.adjust_contrast, TF.adjust_saturation, TF.adjust_hue)
    for i, (left, top, width, height) in enumerate(boxes):
        x = raw[i].permute(2, 0, 1) / 255
        x = TF.resized_crop(x, top, left, height, width, [size, size], antialias=False)
        x = TF.hflip(x) if u[i, 22] < 0.5 else x
        for k in color.ORDERS[int(u[i, 27] * 24)].tolist() if u[i, 28] < 0.8 else ():
            x = steps[k](x, factors[i][k])
        x = TF.rgb_to_grayscale(x, 3) if u[i, 29] < 0.2 else x
        if u[i, 30] < 0.5:
            sigma = (0.1 + 1.9 * u[i, 31].item()) * size / 224
            x = TF.gaussian_blur(x, [5, 5], [sigma, sigma])  # three standard deviations of at most 0.5
        torch.testing.assert_close(ours[i], x, atol=3e-5, rtol=0)


@pytest.mark.parametrize("channels", [1, 2, 3])
@pytest.mark.parametrize("name", ["weak_digits", "strong_digits", "moco_digits"])
def test_views_of_digits_neither_flip_nor_mix_colours(name: str, channels: int) -> None:
    """A bright left half stays left of the middle; channels that are equal stay equal."""
    n, size = 200, 28
    raw = torch.zeros(n, size, size, channels, dtype=torch.uint8)
    raw[:, 4:-4, 4:14] = torch.randint(60, 255, (n, 20, 10, 1), dtype=torch.uint8)
    view = VIEWS[name]
    u = uniforms(n, view.draws)
    if name == "strong_digits":
        u[:, 1:3] = (u[:, 1:3] * 13).floor() % 7 / 13  # those that keep dark and bright and places
    out = view(raw, u, size)
    assert out.shape == (n, channels, size, size) and out.min() >= 0 and out.max() <= 1
    torch.testing.assert_close(out, out[:, :1].expand_as(out), atol=1e-6, rtol=0)
    if name != "moco_digits":
        assert (out[..., :14].sum((1, 2, 3)) >= out[..., 14:].sum((1, 2, 3))).all()
    bright = out.flatten(1).amax(1) > 0.1
    assert bright.double().mean() > 0.9 and len({bytes(x.numpy()) for x in out}) > 0.9 * n


@pytest.mark.parametrize("name", sorted(VIEWS))
@pytest.mark.parametrize("size", [20, 28])
def test_rows_are_the_same_bits_in_any_company(monkeypatch: pytest.MonkeyPatch, name: str, size: int) -> None:
    """Another batch, another order, other chunks, another number of threads."""
    view, n = VIEWS[name], 24
    raw, u = images(n, size), uniforms(n, view.draws)
    normalize = Normalize(IMAGENET_MEAN, IMAGENET_STD)
    full = view(raw, u, size, None, normalize)
    threads = torch.get_num_threads()
    for rows, pixels, count in ((slice(0, 5), 2**16, 1), (torch.arange(n).flip(0), 2 * size**2, 2)):
        monkeypatch.setattr(chunks, "PIXELS", pixels)
        torch.set_num_threads(count)
        try:
            assert torch.equal(view(raw[rows], u[rows], size, None, normalize), full[rows])
        finally:
            torch.set_num_threads(threads)
    planes = raw.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1)  # stored otherwise
    assert torch.equal(view(planes, u, size, None, normalize), full)


def test_views_need_no_gradients_and_work_in_any_mode() -> None:
    raw, u = images(3), uniforms(3)
    first = VIEWS["domainbed"](raw, u, 20)
    with torch.inference_mode():
        again = VIEWS["domainbed"](raw, u, 20)
    assert torch.equal(first, again) and not first.is_inference() and not again.is_inference()
    layer = torch.nn.Conv2d(3, 2, 3)
    layer(first).sum().backward()
