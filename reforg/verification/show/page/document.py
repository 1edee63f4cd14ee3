"""A report as one HTML page: no script, nothing fetched, light and dark, and readable on paper."""

from collections.abc import Iterator, Sequence
from html import escape
from importlib import resources

from reforg.verification.findings import DIVERGES, EQUAL, Findings
from reforg.verification.show.page import figures as page_figures
from reforg.verification.show.page import tables as page_tables
from reforg.verification.show.page.tables import folded, safe
from reforg.verification.show.wording import cause, excess, extent, headline, name_of, summary
from reforg.version import __version__

NAMES = 300  # unknown and unseen names on a page; the JSON has all
# Nothing in a report can be fetched or run, even if it got past the escaping.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"


def report_page(report: Findings) -> str:
    """The whole page as text."""
    style = resources.files("reforg").joinpath("data", "verify.css").read_text(encoding="utf-8")
    title = f"{report.verdict}: {name_of(report.model)}"
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<meta name="color-scheme" content="light dark">\n'
        f'<title>{escape(title)}</title>\n<link rel="icon" href="data:,">\n<style>\n{style}</style>\n</head>\n<body>\n'
        f"{_head(report)}<main>\n{''.join(_sections(report))}</main>\n"
        f"<footer>reforg {escape(__version__)}, verified against the reference in float64 on NumPy</footer>\n"
        "</body>\n</html>\n"
    )


def _head(report: Findings) -> str:
    """The verdict in words, and what was compared with what."""
    look = "bad" if report.verdict == DIVERGES else "good" if report.verdict == EQUAL else "warn"
    facts = {
        "model": safe(report.model),
        "candidate": f"{safe(report.candidate)}, in {safe(report.dtype)}",
        "images": f"{report.images:,}",
        "compared": safe(summary(report)),
    }
    told = "".join(f"<div><dt>{name}</dt><dd>{text}</dd></div>" for name, text in facts.items())
    mark = "&#10007;" if look == "bad" else "&#10003;"
    return (
        f'<header class="{look}"><p class="kind">reforg verify</p><h1><span aria-hidden="true">{mark}</span> '
        f"{safe(headline(report))}</h1>{_first(report)}<dl>{told}</dl></header>\n"
    )


def _first(report: Findings) -> str:
    first = report.first
    if first is None:
        return ""
    known = f' <strong class="cause">{safe(first.explanation)}</strong> reproduces it.' if first.explanation else ""
    return f'<p class="first"><b>{escape(cause(first))}</b>: {escape(excess(first))} ({escape(extent(first))}).{known}</p>'


def _sections(report: Findings) -> Iterator[str]:
    if report.faults:
        yield _section("Faults", page_tables.faults(report))
    if report.differences:
        yield _section("Errors in the order of execution", page_figures.errors(report))
    if maps := page_figures.maps(report):
        yield _section("Where the error lies", maps)
    if report.selections:
        yield _section("Selections", page_figures.margins(report.selections) + page_tables.selections(report))
    if report.notes:
        yield _section("Notes", _list(report.notes))
    if report.differences:
        yield folded(f"All differences ({len(report.differences):,})", page_tables.differences(report))
    if report.unknown:
        told = "The candidate has these names, which are no names of the trace; they were not compared."
        yield folded(f"Unknown names ({len(report.unknown):,})", f"<p>{told}</p>{_list(report.unknown)}")
    if report.unseen:
        told = "The candidate does not hold the values of these modules; a fault may lie in any of them."
        yield folded(f"Unseen names ({len(report.unseen):,})", f"<p>{told}</p>{_list(report.unseen)}")


def _section(title: str, inside: str) -> str:
    return f"<section>\n<h2>{title}</h2>\n{inside}\n</section>\n"


def _list(texts: Sequence[str]) -> str:
    more = f"<li>and {len(texts) - NAMES:,} more</li>" if len(texts) > NAMES else ""
    return f"<ul>{''.join(f'<li>{escape(name_of(text, 1000))}</li>' for text in texts[:NAMES])}{more}</ul>"
