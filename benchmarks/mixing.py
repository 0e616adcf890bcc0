"""The three products of masks and stack at GPT-2's shape, for chunks of different length: GFLOP/s of each.

python benchmarks/mixing.py
"""

import torch
from _measure import median_seconds

READERS, WRITERS, TOKENS, D_MODEL = 37, 157, 640, 768


def main() -> None:
    """Measure and print."""
    stack, gradients = torch.randn(WRITERS, TOKENS * D_MODEL), torch.randn(WRITERS, TOKENS * D_MODEL)
    mask = torch.randn(READERS, WRITERS)
    print(f"{'tokens':>8} {'mixing':>8} {'masks':>8} {'writers':>8}")
    for tokens in (16, 32, 64, 128, TOKENS):
        width = tokens * D_MODEL
        chunk, into, g = stack[:, :width], gradients[:, :width], torch.randn(READERS, width)
        flops = 2 * READERS * WRITERS * width / 1e9
        products = (
            lambda c=chunk: mask @ c,
            lambda c=chunk, g=g: g @ c.T,
            lambda i=into, g=g: i.addmm_(mask.T, g),
        )
        print(f"{tokens:8}", *(f"{flops / median_seconds(product, 7):8.0f}" for product in products))


if __name__ == "__main__":
    main()
