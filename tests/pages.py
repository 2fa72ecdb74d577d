"""The pages of the documentation, and what stands on them."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", ROOT / "SECURITY.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r'(?s)```(\w+)(?: title="([^"]+)")?\n(.*?)```')  # of a fenced block: language, file, content
