"""Mixing: draw a binary mask for a whole batch, then paste one image onto another with it.

Drawing and applying are apart, so that a mask can be fixed and the same mask serves images, labels and confidences.

Shapes: B batch, K classes, H W image. A mask is bool, (B, H, W): True where the source (image A) shows.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from classmix_core.batch_generator import BatchGenerator
from classmix_core.config import Mix
from classmix_core.constants import IGNORE_INDEX

# CowMix's blur in the ClassMix code is log-uniform in 8..32 pixels at a height of 512; it follows the height here.
COW_SIGMA_OF_HEIGHT = (8 / 512, 32 / 512)


def sample_class_mask(label_BHW: Tensor, num_classes: int, generator: BatchGenerator) -> Tensor:
    """Choose half of the classes present in each label map (ClassMix, section 3.1).

    Of the n classes in an image floor(n / 2) are drawn without replacement, so an image of one class gives an empty
    mask. The whole batch is drawn at once and nothing waits for the device.

    Args:
        label_BHW: integer (B, H, W), 0..num_classes-1 or IGNORE_INDEX. Ignored pixels are no class and never chosen.
        num_classes: K.
        generator: on the device of `label_BHW`.

    Returns:
        bool (B, H, W), True where the pixel's class was drawn.
    """
    batch, device = len(label_BHW), label_BHW.device
    columns = IGNORE_INDEX + 1
    row_B1 = torch.arange(0, batch * columns, columns, device=device).unsqueeze(1)
    index_N = (
        label_BHW.flatten(1).to(torch.int64, copy=True).add_(row_B1).view(-1)
    )  # into tables of all images, one after the other
    present = torch.zeros(batch * columns, dtype=torch.bool, device=device).index_fill_(0, index_N, True)
    present_BK = present.view(batch, columns)[:, :num_classes]
    score_BK = generator.rand(*present_BK.shape)
    rank_BK = score_BK.masked_fill(~present_BK, 2.0).argsort(1).argsort(1)
    chosen_BK = rank_BK < present_BK.sum(1, keepdim=True) // 2
    chosen = F.pad(chosen_BK, (0, columns - num_classes)).view(-1)
    return chosen.index_select(0, index_N).view(label_BHW.shape)


def sample_cut_mask(shape_BHW: torch.Size, generator: BatchGenerator) -> Tensor:
    """Draw one box an image with half the area, a random aspect ratio and place (CutMix as in French et al., 2020).

    Returns:
        bool (B, H, W) on the generator's device, True inside the box.
    """
    batch, height, width = shape_BHW
    device = generator.device
    aspect_B, top_B, left_B = generator.rand(3, batch, 1, 1, batch_dim=1)
    share_B = torch.exp(aspect_B * math.log(0.5))  # of the height; 0.5 / share of the width
    box_height_B, box_width_B = (share_B * height).round(), (0.5 / share_B * width).round()
    top_B, left_B = (top_B * (height - box_height_B)).round(), (left_B * (width - box_width_B)).round()
    row_H1 = torch.arange(height, device=device).view(1, -1, 1)
    column_1W = torch.arange(width, device=device).view(1, 1, -1)
    in_rows = (row_H1 >= top_B) & (row_H1 < top_B + box_height_B)
    in_columns = (column_1W >= left_B) & (column_1W < left_B + box_width_B)
    return in_rows & in_columns


def sample_cow_mask(shape_BHW: torch.Size, generator: BatchGenerator) -> Tensor:
    """Draw blobs that cover about half of each image: blurred noise, thresholded (CowMask, French et al., 2019).

    The blur is a product in the frequency domain, so that every image has its own sigma at the same cost.

    Returns:
        bool (B, H, W) on the generator's device.
    """
    batch, height, width = shape_BHW
    device = generator.device
    low, high = (math.log(share * height) for share in COW_SIGMA_OF_HEIGHT)
    sigma_B11 = torch.exp(low + (high - low) * generator.rand(batch, 1, 1))
    noise_BHW = generator.randn(batch, height, width)
    frequency_H1 = torch.fft.fftfreq(height, device=device).view(1, -1, 1)
    frequency_1W = torch.fft.rfftfreq(width, device=device).view(1, 1, -1)
    gain = torch.exp(-2 * (math.pi * sigma_B11) ** 2 * (frequency_H1**2 + frequency_1W**2))
    smooth_BHW = torch.fft.irfft2(torch.fft.rfft2(noise_BHW) * gain, s=(height, width))
    return smooth_BHW > smooth_BHW.mean((1, 2), keepdim=True)


def sample_mask(mix: Mix, label_BHW: Tensor, num_classes: int, generator: BatchGenerator) -> Tensor:
    """Draw the masks of a batch: by class, box, blob, or none (all True: every image stays itself).

    Args:
        label_BHW: integer (B, H, W), the teacher's labels of the source images; its shape alone matters but for class.

    Returns:
        bool (B, H, W).
    """
    if mix == "class":
        return sample_class_mask(label_BHW, num_classes, generator)
    if mix == "cut":
        return sample_cut_mask(label_BHW.shape, generator)
    if mix == "cow":
        return sample_cow_mask(label_BHW.shape, generator)
    return torch.ones_like(label_BHW, dtype=torch.bool)


def paste(source: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """Show `source` where the mask is True and `target` elsewhere: M * A + (1 - M) * B.

    Without torch.where, which looks at the mask element by element on a CPU: lerp is exact where the weight is 0 or 1,
    and of integers bits are chosen; at 512 x 1024 both take a third of its time or less.

    Args:
        source: (B, C, H, W) or (B, H, W), finite float32 or uint8.
        target: as `source`.
        mask: bool (or 0 and 1 of the type of `source`, which saves a conversion), (B, H, W), or (B) for whole images.
    """
    weight = mask.to(source.dtype).view(len(mask), *(1,) * (source.ndim - mask.ndim), *mask.shape[1:])
    if source.is_floating_point():
        return torch.lerp(target, source, weight)
    return (source ^ target).bitwise_and_(weight.neg_()).bitwise_xor_(target)
