"""Philox4x32-10 in Triton; also the Gumbel noise that `group_assign` draws inside its kernel."""

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 256  # counters a program, four numbers each


@triton.jit
def words_to_uniform(word):
    """23 highest bits k of uint32 words -> (k + 1/2) / 2^23."""
    return ((word >> 9).to(tl.float32) + 0.5) * (1.0 / 8388608)


@triton.jit
def random_words(noise_ptr, stream, b, counter):
    """Four uint32 words for every counter of sample `first + b`."""
    seed = tl.load(noise_ptr)
    sample = tl.load(noise_ptr + 1) + b
    low, high = (sample & 0xFFFFFFFF).to(tl.uint32), (sample >> 32).to(tl.uint32)
    return tl.philox(seed, counter.to(tl.uint32), stream.to(tl.uint32), low, high)


@triton.jit(do_not_specialize=["stream"])  # a specialised 1 would be no tensor
def _uniform_kernel(noise_ptr, out_ptr, stream, n_places, BLOCK: tl.constexpr):
    b = tl.program_id(1).to(tl.int64)
    counter = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)  # [BLOCK]
    w0, w1, w2, w3 = random_words(noise_ptr, stream, b, counter)
    out = out_ptr + b * n_places + counter * 4
    place = counter * 4
    tl.store(out, words_to_uniform(w0), mask=place < n_places)
    tl.store(out + 1, words_to_uniform(w1), mask=place + 1 < n_places)
    tl.store(out + 2, words_to_uniform(w2), mask=place + 2 < n_places)
    tl.store(out + 3, words_to_uniform(w3), mask=place + 3 < n_places)


def uniform_triton(noise: Tensor, stream: int, batch: int, places: int) -> Tensor:
    """Same contract as `groupvit.ops.uniform`."""
    out = torch.empty((batch, places), dtype=torch.float32, device=noise.device)
    if out.numel():
        grid = (triton.cdiv(places, 4 * BLOCK), batch)
        with torch.cuda.device_of(noise):
            _uniform_kernel[grid](noise.contiguous(), out, stream, places, BLOCK=BLOCK)
    return out
