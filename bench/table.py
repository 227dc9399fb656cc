"""The command line and the table of bench/run and bench/share."""
import os
import platform
import signal
import subprocess
import sys
import traceback
from pathlib import Path

from ground import Ground

TARGET = f"{platform.machine()}-unknown-linux-musl"
REPOSITORY = Path(__file__).resolve().parents[1]


def main(doc, all_measures, words):
    quick = "--quick" in words
    words = [word for word in words if word != "--quick"]
    binary = None
    if "--binary" in words:
        at = words.index("--binary")
        binary = words[at + 1]
        del words[at : at + 2]
    known = {measure.__name__: measure for measure in all_measures}
    if unknown := [word for word in words if word not in known]:
        print(doc, f"\nunknown: {' '.join(unknown)}", file=sys.stderr)
        return 2
    if os.geteuid() != 0:
        print(f"{sys.argv[0]} needs root: it makes PID namespaces", file=sys.stderr)
        return 1
    # So that a setting of the machine is put back and every namespace ends when this is stopped.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    ground = Ground(binary or build())
    try:
        return show(ground, [known[word] for word in words] or all_measures, lambda full: max(1, full // 10) if quick else full)
    finally:
        ground.close()


def show(ground, chosen, scale):
    cpu = next((line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")), ": unknown")
    print(f"{os.cpu_count()} CPUs ({cpu.partition(': ')[2]}), Linux {platform.release()}\n")
    print("| what | clusterinit | others | target |\n|---|---|---|---|", flush=True)
    failed = 0
    for measure in chosen:
        try:
            for row in measure(ground, scale):
                print("| " + " | ".join(row) + " |", flush=True)
        except Exception as error:
            failed = 1
            print(f"| {measure.__name__} | not measured: {error} | | |", flush=True)
            traceback.print_exception(error)
    return failed


def build():
    subprocess.run(["cargo", "build", "--release", "--locked", "--target", TARGET], cwd=REPOSITORY, check=True)
    folder = Path(os.environ.get("CARGO_TARGET_DIR", REPOSITORY / "target"))
    return folder / TARGET / "release/clusterinit"
