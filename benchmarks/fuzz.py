"""Files, prompts, settings and command lines made wrong by the hundred thousand: none may end in a traceback.

    python benchmarks/fuzz.py --inputs 1000000 --seed 1
    python benchmarks/fuzz.py --inputs 1 --first 4711 --seed 1       # one input once more
    python benchmarks/fuzz.py --inputs 20000 --only graph            # one reader alone

Each input has 10 s and 4 GB beyond what the process has. A failure is anything but a right result or one line of
refusal: a traceback, a hang, more memory, a dead process, or something accepted that reads back otherwise after it was
saved. `tests/fuzz/` has the readers, the right files and how they are made wrong.
"""

import argparse
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
os.environ["HF_HUB_OFFLINE"] = "1"  # read once, at the first import
if os.access("/dev/shm", os.W_OK):  # to remove an input's files from a disk takes longer than to read them
    os.environ.setdefault("TMPDIR", "/dev/shm")

from tests.fuzz.worker import main

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="the number of the first input")
    parser.add_argument("--only", help="targets whose names contain this")
    args = parser.parse_args()
    sys.exit(main(args.inputs, args.seed, args.only, args.first) > 0)
