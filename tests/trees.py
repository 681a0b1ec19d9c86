"""Miniature Cityscapes, VOC, CamVid and folder trees: real names, label values, palettes, void borders, bystanders."""

import struct
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torchvision.io import write_jpeg, write_png

from classmix_core.data.datasets import camvid, cityscapes, voc

GREY, RGB, PALETTE = 0, 2, 3

Array = np.ndarray


def write_raw_png(path: Path, pixels: Array, kind: int, bits: int, palette: bytes = bytes(range(30))) -> None:
    """A PNG of any kind and depth, which torchvision does not write; `pixels` (H, W) or (H, W, C)."""
    height, width = pixels.shape[:2]
    if bits == 16:
        rows = [row.astype(">u2").tobytes() for row in pixels]
    elif bits == 8:
        rows = [row.astype(np.uint8).tobytes() for row in pixels]
    else:
        rows = [np.packbits(row.astype(np.uint8) & 1).tobytes() for row in pixels]
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0))]
    if kind == PALETTE:
        chunks.append((b"PLTE", palette))
    chunks += [(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows))), (b"IEND", b"")]
    data = b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in chunks
    )
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + data)


def make(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def photograph(label: Array, palette: Iterable[tuple[int, int, int]], rng: np.random.Generator) -> torch.Tensor:
    """uint8 (3, H, W): each class in its colour, with noise; what is ignored is dark."""
    colours = np.zeros((256, 3))
    colours[: len(list(palette))] = list(palette)
    pixels = colours[label] + rng.normal(0, 12, (*label.shape, 3))
    return torch.from_numpy(pixels.clip(0, 255).astype(np.uint8)).permute(2, 0, 1).contiguous()


# ---- Cityscapes

TRAIN = (
    "aachen/aachen_000000_000019",
    "aachen/aachen_000001_000019",
    "hamburg/hamburg_000000_000042",
    "hamburg/hamburg_000000_000629",
    "zurich/zurich_000000_000019",
    "zurich/zurich_000121_000019",
    "monchengladbach/monchengladbach_000000_000076",
    "monchengladbach/monchengladbach_000000_000383",
)
VAL = ("frankfurt/frankfurt_000000_000294", "munster/munster_000173_000019", "munster/munster_000172_000019")
EXTRA = ("erlangen/erlangen_000000_000000", "troisdorf/troisdorf_000000_000073")
CITY_SIZE = (16, 32)
EGO_VEHICLE, BORDER, OUT_OF_ROI, LICENCE_PLATE = 1, 2, 3, 255


def street(rng: np.random.Generator) -> Array:
    """labelIds (16, 32): sky over blocks of any id over road, the own car below, borders at the sides."""
    label = np.full(CITY_SIZE, 23, np.uint8)
    label[5:11] = np.repeat(rng.integers(4, 34, (3, 16)), 2, 0).repeat(2, 1)
    label[11:] = 7
    label[12, 10:13] = LICENCE_PLATE
    label[-2:], label[:, 0], label[:, -1] = EGO_VEHICLE, OUT_OF_ROI, BORDER
    return label


def build_cityscapes(root: Path) -> Path:
    """8 training, 3 val and 2 extra images of 16 x 32; test and the other files of gtFine lie there as well."""
    splits = {"train": TRAIN, "val": VAL, "train_extra": EXTRA, "test": ("berlin/berlin_000000_000019",)}
    for number, (split, names) in enumerate(splits.items()):
        for index, name in enumerate(names):
            rng = np.random.default_rng((number, index))
            ids = street(rng)
            image = photograph(cityscapes.TRAIN_IDS.numpy()[ids], cityscapes.PALETTE, rng)
            write_png(image, str(make(root / f"leftImg8bit/{split}/{name}_leftImg8bit.png")))
            if split == "train_extra":
                continue
            masks = make(root / f"gtFine/{split}/{name}_gtFine_labelIds.png")
            write_raw_png(masks, ids, GREY, 8)
            write_raw_png(masks.with_name(masks.name.replace("labelIds", "instanceIds")), ids.astype(int) * 7, GREY, 16)
            write_png(image, str(masks.with_name(masks.name.replace("labelIds", "color"))))
            masks.with_name(masks.name.replace("labelIds.png", "polygons.json")).write_text("{}")
    return root


# ---- VOC

VOC_TRAIN = ("2007_000032", "2007_000039", "2009_000012", "2011_003255")
VOC_VAL = ("2007_000033", "2008_000016", "2011_003256")
SBD_TRAIN = ("2007_000039", "2008_000002", "2008_000016", "2010_000002", "2010_000014")
SBD_VAL = ("2008_000003", "2009_000012", "2011_003256", "2011_003276")
TRAINAUG = (
    "2007_000032",
    "2007_000039",
    "2008_000002",
    "2008_000003",
    "2009_000012",
    "2010_000002",
    "2010_000014",
    "2011_003255",
    "2011_003276",
)
"""(VOC's train and SBD) without VOC's val."""
NOT_SEGMENTED = "2012_004331"
VOC_PALETTE = bytes(value for index in range(256) for value in voc.colour(index))


def objects(image: str, border: bool) -> Array:
    """Labels of VOC's kind: two objects on background, as in VOC with a void border and as in SBD without."""
    rng = np.random.default_rng(int(image.replace("_", "")))
    height, width = ((18, 26), (24, 17))[rng.integers(2)]
    label = np.zeros((height, width), np.uint8)
    for top, left in ((2, 3), (9, 8)):
        if border:
            label[top - 1 : top + 7, left - 1 : left + 8] = 255
        label[top : top + 6, left : left + 7] = rng.integers(1, 21)
    return label


def write_sbd_mat(path: Path, label: Array, compressed: bool = True) -> None:
    """As SBD's cls/X.mat: a struct with sparse boundaries, the matrix, and the classes present."""
    import scipy.io
    import scipy.sparse

    boundaries = np.empty((20, 1), object)
    for index in range(20):
        boundaries[index, 0] = scipy.sparse.csc_matrix((label == index + 1).astype(float))
    present = np.unique(label[label > 0])[:, None].astype(float)
    fields = {"Boundaries": boundaries, "Segmentation": label, "CategoriesPresent": present}
    scipy.io.savemat(make(path), {"GTcls": fields}, do_compression=compressed)


def build_voc(root: Path, added: Literal["sbd", "png"] = "sbd", inner: str = "VOCdevkit/VOC2012") -> Path:
    """4 training, 3 val images, and SBD's labels of 9 images or the folder of PNGs with those of all 12."""
    folder = root / inner
    everything = sorted({*VOC_TRAIN, *VOC_VAL, *SBD_TRAIN, *SBD_VAL})
    for image in (*everything, NOT_SEGMENTED):
        rng = np.random.default_rng(int(image.replace("_", "")))
        photo = photograph(objects(image, border=False), voc.PALETTE, rng)
        write_jpeg(photo, str(make(folder / f"JPEGImages/{image}.jpg")), quality=90)
    for image in (*VOC_TRAIN, *VOC_VAL):
        mask = make(folder / f"SegmentationClass/{image}.png")
        write_raw_png(mask, objects(image, border=True), PALETTE, 8, VOC_PALETTE)
    for split, images in (("train", VOC_TRAIN), ("val", VOC_VAL), ("trainval", sorted((*VOC_TRAIN, *VOC_VAL)))):
        make(folder / f"ImageSets/Segmentation/{split}.txt").write_text("".join(f"{image}\n" for image in images))
    if added == "png":
        for image in everything:
            border = image in (*VOC_TRAIN, *VOC_VAL)
            write_raw_png(make(folder / f"SegmentationClassAug/{image}.png"), objects(image, border), GREY, 8)
        return root
    for split, images in (("train", SBD_TRAIN), ("val", SBD_VAL)):
        for image in images:
            write_sbd_mat(root / f"benchmark_RELEASE/dataset/cls/{image}.mat", objects(image, border=False))
        lines = "".join(f"{image}\n" for image in images)
        (root / f"benchmark_RELEASE/dataset/{split}.txt").write_text(lines)
    return root


# ---- CamVid

CAMVID = {
    "train": ("0001TP_006690", "0006R0_f00930", "0006R0_f00960", "0016E5_00390", "0016E5_02370", "Seq05VD_f00000"),
    "val": ("0016E5_07959", "0016E5_07961"),
    "test": ("0001TP_008550", "0001TP_008580", "Seq05VD_f05100"),
}


def build_camvid(root: Path) -> Path:
    """As SegNet's authors publish it: 6 training, 2 val and 3 test images of 18 x 24, with bands of void."""
    for split, names in CAMVID.items():
        for index, name in enumerate(names):
            rng = np.random.default_rng((len(names), index))
            label = np.repeat(np.repeat(rng.integers(0, 11, (3, 6)), 6, 0), 4, 1).astype(np.uint8)
            label[:6], label[12:] = 0, 3  # sky, road
            label[:, :1], label[-1:] = camvid.VOID, camvid.VOID
            write_png(photograph(label, camvid.PALETTE, rng), str(make(root / f"{split}/{name}.png")))
            write_raw_png(make(root / f"{split}annot/{name}.png"), label, GREY, 8)
        lines = "".join(f"/SegNet/CamVid/{split}/{name}.png /SegNet/CamVid/{split}annot/{name}.png\n" for name in names)
        (root / f"{split}.txt").write_text(lines)
    return root


# ---- a folder of one's own


def build_folder(root: Path) -> Path:
    """3 classes; 8 labelled photographs of two sizes, palette labels with a band of 255; 4 without a label."""
    make(root / "classes.txt").write_text("grass\nrock\nwater\n")
    colours = ((60, 160, 60), (120, 120, 120), (40, 80, 200))
    for index in range(12):
        rng = np.random.default_rng(index)
        height, width = ((18, 26), (24, 17))[index % 2]
        label = np.full((height, width), index % 3, np.uint8)
        label[: height // 2] = rng.integers(0, 3)
        label[height // 2 - 1 : height // 2 + 1] = 255
        name = f"2026 summer/IMG_{1000 + index}"
        write_jpeg(photograph(label, colours, rng), str(make(root / f"images/{name}.JPG")), quality=90)
        if index < 8:
            write_raw_png(make(root / f"labels/{name}.png"), label, PALETTE, 8, bytes(np.ravel(colours).tolist()))
        else:
            write_jpeg(photograph(label, colours, rng), str(make(root / f"unlabelled/{index}.jpg")), quality=90)
    return root


def label_more(root: Path) -> list[Path]:
    """Labels for the 4 photographs of `build_folder` that have none, as a person would add them; returns the files."""
    labels = sorted((root / "labels/2026 summer").iterdir())
    added = [labels[0].with_stem(f"IMG_{1000 + index}") for index in range(8, 12)]
    for index, path in enumerate(added):
        path.write_bytes(labels[index % 2].read_bytes())  # of its size
    return added
