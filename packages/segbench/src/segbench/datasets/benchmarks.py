"""Every benchmark data set, in the order in which tables print them."""

from segbench.datasets import ade, cityscapes, coco, context, imagenet_s, voc

BENCHMARKS = (
    *voc.BENCHMARKS,
    *context.BENCHMARKS,
    *coco.BENCHMARKS,
    *cityscapes.BENCHMARKS,
    *ade.BENCHMARKS,
    *imagenet_s.BENCHMARKS,
)
