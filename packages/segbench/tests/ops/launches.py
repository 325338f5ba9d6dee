"""Calls of the kernels at the sizes it is made for, for `hopper.py`."""

import torch

from segbench.ops.count_argmax.kernel import count_argmax_triton, resize_argmax_triton
from segbench.ops.merge_argmax.kernel import merge_argmax_triton


def run() -> None:
    """COCO-Stuff, VOC and ADE-847 at 640 x 480; labels of every width; with and without a map.

    Windows of 224 every 112, of patches of 16 and of 8, and a single one.
    """
    for classes, labels in ((171, torch.int64), (21, torch.uint8), (847, torch.int32)):
        scores = torch.rand(classes, 60, 80)
        resize_argmax_triton(scores, (480, 640))
        for want_labels in (False, True):
            count_argmax_triton(scores, torch.zeros(480, 640, dtype=labels), want_labels)
    for classes, grid, lefts in ((171, 14, (0, 112, 224)), (21, 28, (0, 112)), (847, 14, (0,))):
        windows = torch.rand(len(lefts), classes, grid, grid)
        places = [(0, left, 224, left + 224) for left in lefts]
        merge_argmax_triton(windows, places, (224, lefts[-1] + 224), (480, 640))


if __name__ == "__main__":
    run()
