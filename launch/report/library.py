"""What a page carries with it: plotly.js packed, the page's own parts, and the hashes that let these scripts alone run.

plotly.js is 4.8 MB; packed with gzip and written in base64 it is 2.0 MB, and a mail takes it. The browser unpacks it
with DecompressionStream, which Chrome has since version 80, Firefox since 113 and Safari since 16.4.
"""

import base64
import gzip
import hashlib
import json
from importlib import resources
from importlib.util import find_spec
from pathlib import Path
from typing import Any


def plotly() -> str:
    """plotly.js as the installed plotly package brings it. Its Python half, which takes a second, is not imported."""
    found = find_spec("plotly")
    assert found is not None
    assert found.origin is not None
    return (Path(found.origin).parent / "package_data" / "plotly.min.js").read_text(encoding="utf-8")


def packed(source: str) -> str:
    return base64.b64encode(gzip.compress(source.encode(), 6, mtime=0)).decode()


def part(name: str) -> str:
    """A file of this folder."""
    return (resources.files("launch.report") / name).read_text(encoding="utf-8")


def allowed(*scripts: str) -> str:
    """The sources of a Content-Security-Policy's script-src: these texts, wherever they stand, and no other."""
    digests = (hashlib.sha256(script.encode()).digest() for script in scripts)
    return " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)


def safe_json(value: Any) -> str:
    """JSON that ends no script element, whatever its texts hold. ASCII alone, for U+2028 ends a line of JavaScript."""
    text = json.dumps(value, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
