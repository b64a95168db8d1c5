"""Colours of image batches [B, C, h, w] in [0, 1], as torchvision changes them; each a pure function."""

import torch
from torch import Tensor


def solarize(x: Tensor) -> Tensor:
    """What is lighter than half is inverted."""
    return torch.minimum(x, 1 - x)


def blend(x: Tensor, other: Tensor, factor: Tensor) -> Tensor:
    """factor · x + (1 - factor) · other, clamped to [0, 1]; factors above 1 extrapolate away from `other`."""
    return torch.lerp(other.expand_as(x), x, factor).clamp_(0, 1)


def luma(x: Tensor) -> Tensor:
    """ITU-R 601 grey, [B, C, h, w] -> [B, 1, h, w]; a one-channel image is its own grey."""
    return 0.299 * x[:, :1] + 0.587 * x[:, 1:2] + 0.114 * x[:, 2:3] if x.shape[1] == 3 else x


def shift_hue(x: Tensor, shift: Tensor) -> Tensor:
    """Turn the hue of RGB images by `shift` [B, 1, 1, 1] of the circle, in HSV; [B, 3, h, w] in [0, 1]."""
    r, g, b = x.split(1, dim=1)
    most, least = torch.maximum(g, b), torch.minimum(g, b)
    value, low = torch.maximum(r, most), torch.minimum(r, least)
    chroma = value - low
    # Sixths of the circle from red, (g - b), (b - r) or (r - g) over the chroma behind the place of the largest channel, without a
    # choice an element, which takes torch ten times as long as a minimum does: as |turn + (second - least) / chroma| where `second`
    # is the lesser of red and `most`, and `turn` is 0 or -6 where red is largest, by the sign of g - b, -2 and 4 where it is not.
    turn = (g < b).float().mul_(-6)
    turn += (r < most).float().mul_((turn + 1).mul_(-2))
    sixths = (torch.minimum(r, most) - least).div_(chroma.clamp(min=1e-12)).add_(turn).abs_()
    sixths = sixths.add_(6 * shift).remainder_(6)
    of_channel = 2.0 * torch.arange(3, device=x.device)[:, None, None]  # the hue where red, green or blue is largest
    away = (sixths - of_channel).abs_()  # 3 - |away - 3| on the circle: below 1 the channel is the largest, above 2 the least
    return value - chroma * away.sub_(3).abs_().neg_().add_(2).clamp_(0, 1)
