"""Calls of the kernel at the sizes it is made for, for `hopper.py`."""

import torch

from segbench.ops.count_argmax.kernel import count_argmax_triton, resize_argmax_triton


def run() -> None:
    """COCO-Stuff, VOC and ADE-847 at 640 x 480; labels of every width; with and without a map."""
    for classes, labels in ((171, torch.int64), (21, torch.uint8), (847, torch.int32)):
        scores = torch.rand(classes, 60, 80)
        resize_argmax_triton(scores, (480, 640))
        for want_labels in (False, True):
            count_argmax_triton(scores, torch.zeros(480, 640, dtype=labels), want_labels)


if __name__ == "__main__":
    run()
