"""Data sets, one module each. To add one: write its module with `load(root, config, roles)`, enter it here, and add its
name to `DataConfig.name` in classmix_core/config.py."""

from classmix_core.data.datasets import camvid, cityscapes, folder, scenes, voc

LOAD = {
    "scenes": scenes.load,
    "camvid": camvid.load,
    "cityscapes": cityscapes.load,
    "voc": voc.load,
    "folder": folder.load,
}
"""By `data.name`: lists (scenes: draws) the images of all roles."""
