"""Steps 1 to 3 of the algorithm, label, draw and mix, against loops over pixels."""

from itertools import product

import pytest
import torch

from classmix_core.augment import to_float
from classmix_core.batch_generator import BatchGenerator
from classmix_core.classmix import mix_unlabelled
from classmix_core.config import MIXES, ClassMixConfig
from classmix_core.constants import IGNORE_INDEX
from classmix_core.pseudo_label import pseudo_label
from tests.classmix_core.steps import H, K, U, W, make_batch, pixel_network


def test_pseudo_label_is_the_teachers_argmax_and_its_softmax_probability() -> None:
    teacher, image = pixel_network(), to_float(make_batch().image_UCHW)
    label_UHW, confidence_UHW = pseudo_label(teacher, image)
    probability_UKHW = teacher(image).softmax(1)
    assert label_UHW.dtype == torch.uint8
    assert confidence_UHW.dtype == torch.float32
    assert torch.equal(label_UHW, probability_UKHW.argmax(1))
    torch.testing.assert_close(confidence_UHW, probability_UKHW.amax(1))


@pytest.mark.parametrize("mix", MIXES)
def test_image_i_is_pasted_onto_image_i_plus_1_with_its_labels_and_confidences(
    mix: str, generator: BatchGenerator
) -> None:
    teacher, batch = pixel_network(), make_batch()
    image, padding = to_float(batch.image_UCHW), batch.padding_UHW
    config = ClassMixConfig(mix=mix, jitter=0, blur=0)
    mixed = mix_unlabelled(teacher, image, padding, K, config, generator)
    label, confidence = pseudo_label(teacher, image)
    shown = set()
    for u, y, x in product(range(U), range(H), range(W)):
        source = u if mixed.mask_UHW[u, y, x] else (u + 1) % U
        shown.add((u, source))
        padded = padding[source, y, x] == IGNORE_INDEX
        assert torch.equal(mixed.image_UCHW[u, :, y, x], image[source, :, y, x])
        assert mixed.pseudo_label_UHW[u, y, x] == (IGNORE_INDEX if padded else label[source, y, x])
        assert mixed.confidence_UHW[u, y, x] == confidence[source, y, x]
    assert len(shown) == (U if mix == "none" else 2 * U)
    assert torch.equal(mixed.source_UCHW, image)
    assert torch.equal(mixed.target_UCHW, image[[1, 2, 0]])


def test_the_class_mask_is_half_of_the_classes_that_the_teacher_sees_in_the_source(generator: BatchGenerator) -> None:
    teacher, image = pixel_network(), to_float(make_batch().image_UCHW)
    padding = torch.zeros(U, H, W, dtype=torch.uint8)
    mixed = mix_unlabelled(teacher, image, padding, K, ClassMixConfig(), generator)
    for label, mask in zip(pseudo_label(teacher, image)[0], mixed.mask_UHW, strict=True):
        chosen = set(label[mask].tolist())
        assert len(chosen) == len(label.unique()) // 2 > 0
        assert chosen.isdisjoint(label[~mask].tolist())


def test_padding_is_never_chosen_by_class(generator: BatchGenerator) -> None:
    padding = torch.zeros(U, H, W, dtype=torch.uint8)
    padding[:, :, ::2] = IGNORE_INDEX
    image = to_float(make_batch().image_UCHW)
    for _ in range(10):
        mixed = mix_unlabelled(pixel_network(), image, padding, K, ClassMixConfig(), generator)
        assert mixed.mask_UHW.any()
        assert not mixed.mask_UHW[padding == IGNORE_INDEX].any()


@pytest.mark.parametrize("strong", ["jitter", "blur"])
def test_only_the_mixed_image_is_augmented_strongly(strong: str, generator: BatchGenerator) -> None:
    image, padding = to_float(make_batch().image_UCHW), torch.zeros(U, H, W, dtype=torch.uint8)
    config = ClassMixConfig(**{"mix": "none", "jitter": 0, "blur": 0, strong: 0.5, f"{strong}_probability": 1})
    mixed = mix_unlabelled(pixel_network(), image, padding, K, config, generator)
    assert torch.equal(mixed.source_UCHW, image)
    assert torch.equal(mixed.pseudo_label_UHW, pseudo_label(pixel_network(), image)[0])
    assert not torch.allclose(mixed.image_UCHW, image, atol=1e-3)
