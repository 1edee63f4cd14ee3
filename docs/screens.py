"""Draw docs/images/screen-*.svg: what the commands look like on a terminal, from runs of the commands themselves.

    python docs/screens.py [NAME]...      only those, of demo, models, info, classify

Each command runs in a pseudo-terminal of its own, in an empty folder that holds twelve pictures.
"""

import os
import pty
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image
from rich.console import Console
from rich.text import Text

from reforg.models import embedded

IMAGES = Path(__file__).parent / "images"
WIDTH = 92
SCREENS = {
    "demo": ["demo"],
    "models": ["models", "evit*"],
    "info": ["info", "evit_fmnist"],
    "classify": ["classify", "photos", "--model", "evit_fmnist", "--top-k", "2"],
}


def on_a_terminal(arguments: list[str], folder: Path) -> str:
    """What a command writes to a terminal; what it says of its progress, on standard error, is left out."""
    reader, writer = pty.openpty()
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": str(WIDTH), "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, "-m", "reforg", *arguments]
    with subprocess.Popen(command, cwd=folder, env=environment, stdout=writer, stderr=subprocess.DEVNULL) as running:
        os.close(writer)
        pieces = []
        while True:
            try:
                piece = os.read(reader, 65536)
            except OSError:  # how Linux says that the other end is closed
                break
            if not piece:
                break
            pieces.append(piece)
        running.wait()
    os.close(reader)
    return b"".join(pieces).decode().replace("\r\n", "\n")


def drawn(arguments: list[str], answer: str) -> str:
    """The session as a picture that needs nothing from elsewhere."""
    with Path(os.devnull).open("w", encoding="utf-8") as nowhere:
        console = Console(record=True, width=WIDTH, file=nowhere, force_terminal=True, color_system="truecolor")
        console.print(Text.assemble(("$ ", "bold green"), (f"reforg {' '.join(arguments)}", "bold")))
        console.print(Text.from_ansi(answer))
        picture = console.export_svg(title="reforg", unique_id="reforg")
    return re.sub(r"@font-face \{.*?\}\s*", "", picture, flags=re.DOTALL)


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "photos").mkdir()
        pixels, _ = embedded.test_images()
        for number in range(12):
            Image.fromarray(pixels[number]).save(folder / "photos" / f"{number:04}.png")
        for screen in sys.argv[1:] or SCREENS:
            arguments = SCREENS[screen]
            target = IMAGES / f"screen-{screen}.svg"
            target.write_text(drawn(arguments, on_a_terminal(arguments, folder)), encoding="utf-8")
            print(f"{target.name}: reforg {' '.join(arguments)}")


if __name__ == "__main__":
    main()
