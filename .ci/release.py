"""Builds what a release hands out, and tries it as a stranger would: installed into fresh environments, in an empty folder.

    python .ci/release.py                                          # this Python, with the lowest and the newest dependencies
    python .ci/release.py python3.11:lowest python3.13:newest      # these Pythons
    python .ci/release.py python3.12:torch==2.9.1,torchvision==0.24.1

`dist/` gets the sdist and the wheel that is made of it. Then, for each PYTHON:DEPENDENCIES: a new virtual environment, the wheel,
and the commands of STEPS, with a HOME and a folder in which nothing is. `lowest` takes each dependency at the lower bound that
pyproject.toml states for it, `newest` what pip chooses, anything else is versions for pip. Wheels alone are installed, nothing is
compiled. An environment takes 1 to 6 GB of disk while it is tried. The last lines say what passed; the exit code is 1 if not all
did.
"""

import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SHORT = "--epochs 1 --batch-size 450 --set widths=8,8,8,8"
LOOP = """
import torch
from sparsehead_cli import SparseHead
projector = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.ReLU(), torch.nn.Linear(8, 4))
optimizer = torch.optim.SGD(projector.parameters(), lr=0.1)
SparseHead(projector, lam=100.0, solver="proximal").attach(optimizer)
projector(torch.randn(4, 8)).sum().backward()
optimizer.step()
assert not any(layer.weight.any() for layer in (projector[0], projector[2]))
"""
# The folder of the first run is FIRST; sparsehead and python are those of the environment.
STEPS = {
    "version": "sparsehead --version",
    "loop": f"python -c {shlex.quote(LOOP)}",
    "pretrain": f"sparsehead pretrain --method simclr --lam 1e-4 {SHORT}",
    "proximal": f"sparsehead pretrain --experiment vicreg --lam 1e-2 --solver proximal {SHORT}",
    "evaluate": "sparsehead evaluate FIRST --protocol knn",
    "spectrum": "sparsehead spectrum FIRST --figure spectra",
    "sweep": "sparsehead sweep-lambda --lams 0,1e-3 --seeds 1 --epochs 1 --set batch_size=450 --set widths=8,8,8,8",
    "report": "sparsehead report results/lambda-quick",
}
NAMED = ("torch", "torchvision", "numpy")  # whose versions the last lines have


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = [f"{sys.executable}:lowest", f"{sys.executable}:newest"]
    parser.add_argument("cases", nargs="*", default=default, metavar="PYTHON:DEPENDENCIES")
    options = parser.parse_args()
    for case in options.cases:
        python, colon, dependencies = case.partition(":")
        if not (colon and dependencies and shutil.which(python)):
            parser.error(f"{case}: give PYTHON:DEPENDENCIES, with a Python that is here, as in python3.11:lowest")
    wheel = built(ROOT / "dist")
    lines, failed = [], 0
    for case in options.cases:
        python, _, dependencies = case.partition(":")
        print(f"\n== {case}", flush=True)
        with tempfile.TemporaryDirectory(prefix="sparsehead-release-") as folder:
            error, line = tried(wheel, python, dependencies, Path(folder))
        failed += bool(error)
        lines.append(f"{'FAILED in ' + error if error else 'passed'}: {case}: {line}")
    print(f"\n{wheel.name}, {wheel.stat().st_size / 1e6:.1f} MB", *lines, sep="\n")
    return int(failed > 0)


def built(dist: Path) -> Path:
    """The sdist and the wheel that is made of it, in a `dist` that has no others; the wheel's path."""
    shutil.rmtree(dist, ignore_errors=True)
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        subprocess.run([f"{folder}/bin/pip", "install", "--quiet", "build", "twine"], check=True)
        subprocess.run([f"{folder}/bin/python", "-m", "build", "--outdir", dist, ROOT], check=True)
        subprocess.run([f"{folder}/bin/twine", "check", "--strict", *sorted(dist.iterdir())], check=True)
    (wheel,) = dist.glob("*.whl")
    return wheel


def lowest(wheel: Path) -> list[str]:
    """Each dependency of the wheel at its lower bound. Raises: ValueError for one without."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = archive.read(name).decode()
    stated = [text for text in re.findall(r"^Requires-Dist: (.+)$", metadata, re.MULTILINE) if "extra ==" not in text]
    bounds = [re.fullmatch(r"([\w-]+)>=([\d.]+)", text) for text in stated]
    if None in bounds:
        raise ValueError(f"pyproject.toml states no lower bound: {stated[bounds.index(None)]}")
    return [f"{bound[1]}=={bound[2]}" for bound in bounds]


def tried(wheel: Path, python: str, dependencies: str, folder: Path) -> tuple[str, str]:
    """The step that failed, or "", and what was tried: versions, and the seconds of each step."""
    versions = {"lowest": lowest(wheel), "newest": []}.get(dependencies, dependencies.split(","))
    (folder / "constraints.txt").write_text("\n".join(versions))
    subprocess.run([python, "-m", "venv", folder / "venv"], check=True)
    install = ["install", "--quiet", "--only-binary", ":all:", "--constraint", folder / "constraints.txt", wheel]
    if subprocess.run([folder / "venv" / "bin" / "pip", *install], check=False).returncode:
        return "pip install", ", ".join(versions)
    listed = subprocess.run([folder / "venv" / "bin" / "pip", "freeze"], capture_output=True, text=True, check=True).stdout
    shown = [line for line in listed.splitlines() if line.partition("==")[0] in NAMED]
    for name in ("home", "empty"):
        (folder / name).mkdir()
    for name, command in STEPS.items():
        start = time.monotonic()
        if not passes(command, folder):
            return name, ", ".join(shown)
        shown.append(f"{name} {time.monotonic() - start:.0f} s")
    return "", ", ".join(shown)


def passes(command: str, folder: Path) -> bool:
    """Whether a step ends well and says nothing on standard error; what it printed is shown if not."""
    program, *arguments = shlex.split(command)
    empty = folder / "empty"
    first = next(iter(empty.glob("results/quickstart/*")), "")
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "PIP"))}
    done = subprocess.run(
        [folder / "venv" / "bin" / program, *(str(first) if text == "FIRST" else text for text in arguments)],
        cwd=empty,
        env={**kept, "HOME": str(folder / "home"), "OMP_NUM_THREADS": "1"},  # several threads wait for each other on a busy machine
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode == 0 and not done.stderr:
        return True
    print(f"{command}\nexit code {done.returncode}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}", flush=True)
    return False


if __name__ == "__main__":
    sys.exit(main())
