"""Vendor markdown-it, which reads the chat page's Markdown, with the licences of all that is in it. Needs npm.

python scripts/update_markdown_it.py [version, by default the newest]
"""

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

PAGE = Path(__file__).parent.parent / "docs" / "examples" / "chat_page"
OF_ITS_COMMAND = "argparse"  # not in the bundle


def main(version: str = "latest") -> None:
    with tempfile.TemporaryDirectory() as folder:
        command = ["npm", "install", "--prefix", folder, "--no-audit", "--no-fund", "--ignore-scripts"]
        subprocess.run([*command, f"markdown-it@{version}"], check=True)
        modules = Path(folder, "node_modules")
        bundle = (modules / "markdown-it" / "dist" / "browser" / "markdown-it.esm.min.mjs").read_text()
        packages = [modules / "markdown-it", *sorted(modules.glob("[!.]*"))]
        licences = [licence(package) for package in dict.fromkeys(packages) if package.name != OF_ITS_COMMAND]
    # Its source map stays behind.
    (PAGE / "markdown-it.js").write_text(re.sub(r"\n*//# sourceMappingURL=.*\s*\Z", "\n", bundle))
    (PAGE / "markdown-it.LICENSE.txt").write_text("\n\n".join(licences))


def licence(package: Path) -> str:
    about = json.loads((package / "package.json").read_text())
    (file,) = package.glob("LICENSE*")
    return f"{about['name']} {about['version']} ({about['license']})\n\n{file.read_text().strip()}\n"


if __name__ == "__main__":
    main(*sys.argv[1:])
