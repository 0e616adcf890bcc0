"""Seconds until the command line shows its help or refuses an option: medians of five, as docs/performance.md has them.

python benchmarks/startup.py
"""

import statistics
import subprocess
import sys
import time

COMMANDS = (("--help",), ("find", "--help"), ("find", "--method", "magic"), ("find", "--set", "magic=1"), ("methods",))
ROUNDS = 5


def seconds(arguments: tuple[str, ...]) -> float:
    """Of one run, in a process of its own."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-m", "edgewise", *arguments], capture_output=True, check=False)
    return time.perf_counter() - start


def main() -> None:
    print("| command | seconds |\n|---|---|")
    for arguments in COMMANDS:
        seconds(arguments)  # which warms the disk's cache
        found = statistics.median(seconds(arguments) for _ in range(ROUNDS))
        print(f"| `edgewise {' '.join(arguments)}` | {found:.2f} |")


if __name__ == "__main__":
    main()
