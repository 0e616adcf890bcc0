"""Seconds until the command line shows its help or refuses an option: medians of five, as docs/performance.md has them.

python benchmarks/startup.py
"""

import resource
import statistics
import subprocess
import sys
import time

COMMANDS = (("--help",), ("find", "--help"), ("find", "--method", "magic"), ("find", "--set", "magic=1"), ("methods",))
ROUNDS = 5


def seconds(arguments: tuple[str, ...]) -> tuple[float, float]:
    """On the clock and of the processor, of one run in a process of its own."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([sys.executable, "-m", "edgewise", *arguments], capture_output=True, check=False)
    clock, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return clock, after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def main() -> None:
    print("| command | seconds | of the processor |\n|---|---|---|")
    for arguments in COMMANDS:
        seconds(arguments)  # which warms the disk's cache
        clock, processor = (
            statistics.median(each) for each in zip(*(seconds(arguments) for _ in range(ROUNDS)), strict=True)
        )
        print(f"| `edgewise {' '.join(arguments)}` | {clock:.2f} | {processor:.2f} |")


if __name__ == "__main__":
    main()
