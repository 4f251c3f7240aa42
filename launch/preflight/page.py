"""The checks as one HTML page that needs nothing else: no script, no font, no network."""

from collections.abc import Sequence
from importlib import resources

from jinja2 import Environment

from launch.preflight.result import SEVERITY, Result, sentence


def page(results: Sequence[Result], place: str) -> str:
    """What comes from the machine or the spec is escaped."""
    template = (resources.files("launch.preflight") / "page.html").read_text(encoding="utf-8")
    ordered = sorted(results, key=lambda result: (SEVERITY.index(result.status), result.family))
    return Environment(autoescape=True).from_string(template).render(results=ordered, verdict=sentence(results, place))
