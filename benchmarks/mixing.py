"""The three products of masks and stack for chunks of different length: GFLOP/s of each.

    python benchmarks/mixing.py [--readers 37] [--writers 157] [--width 768]

The defaults are GPT-2's shape, whose layers have 37 readers; SmolLM2's have 16 or 17, `--writers 150 --width 576`.
"""

import argparse

import torch
from _measure import median_seconds

TOKENS = 640


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--readers", type=int, default=37)
    parser.add_argument("--writers", type=int, default=157)
    parser.add_argument("--width", type=int, default=768, help="of the residual stream")
    args = parser.parse_args()
    stack, gradients = (torch.randn(args.writers, TOKENS * args.width) for _ in range(2))
    mask = torch.randn(args.readers, args.writers)
    print(f"{'tokens':>8} {'mixing':>8} {'masks':>8} {'writers':>8}")
    for tokens in (16, 32, 64, 128, TOKENS):
        width = tokens * args.width
        chunk, into, g = stack[:, :width], gradients[:, :width], torch.randn(args.readers, width)
        flops = 2 * args.readers * args.writers * width / 1e9
        products = (
            lambda c=chunk: mask @ c,
            lambda c=chunk, g=g: g @ c.T,
            lambda i=into, g=g: i.addmm_(mask.T, g),
        )
        print(f"{tokens:8}", *(f"{flops / median_seconds(product, 7):8.0f}" for product in products))


if __name__ == "__main__":
    main()
