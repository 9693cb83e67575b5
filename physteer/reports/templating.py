"""The page's template, filled with sections."""

from __future__ import annotations

from collections.abc import Sequence

from jinja2 import Environment, PackageLoader, StrictUndefined

from physteer.reports.blocks import Section


def page_text(title: str, facts: Sequence[str], sections: Sequence[Section]) -> str:
    """Return a page that needs no other file and no network.

    Args:
        title: of the page.
        facts: shown in a line below the title.
        sections: in their order.
    """
    templates = Environment(
        loader=PackageLoader("physteer.reports"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    return templates.get_template("page.html.j2").render(title=title, facts=list(facts), sections=list(sections))
