"""Build the wheel, install it into an empty environment away from the checkout, and run the demonstration there.

    python tests/tools/scripts/wheel.py

Exit code 1 where the wheel is larger than 25 MB or something does not work.
"""

import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).parents[3]
LIMIT = 25_000_000


def call(*arguments: str | Path, cwd: Path) -> str:
    return subprocess.run([*map(str, arguments)], cwd=cwd, check=True, stdout=subprocess.PIPE, text=True).stdout


def main() -> int:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        call(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, ROOT, cwd=folder)
        (wheel,) = folder.glob("reforg-*.whl")
        print(f"{wheel.name}: {wheel.stat().st_size / 1e6:.2f} MB")
        venv.create(folder / "environment", with_pip=True)
        python = folder / "environment" / "bin" / "python"
        call(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", wheel, cwd=folder)
        print(call(python.with_name("reforg"), "demo", cwd=folder))
        print(
            call(python, "-c", "import reforg_golden as g; print(len([c.arrays() for c in g.cases()]), 'golden cases')", cwd=folder)
        )
        drawn = (folder / "reforg-demo.png").stat().st_size
        return int(wheel.stat().st_size > LIMIT or not drawn)


if __name__ == "__main__":
    sys.exit(main())
