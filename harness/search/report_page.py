"""The answer of a study as a page of its own, report.html, and as the description of its run in MLflow."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from jinja2 import Environment
from plotly.graph_objects import Figure, Scatter

from harness.atomic import write_text
from harness.search.confirmation import Answer, Confirmation
from harness.search.plots import as_html
from harness.search.tables import AnswerTable, label
from harness.search.winner import Picture, Winner


@dataclass(frozen=True)
class Page:
    """What there is to say."""

    title: str
    answer: str
    """In one line."""
    details: Sequence[str]
    """Lines that compare it with the start points and the baseline."""
    train: str
    """The command that trains with it."""
    cost: str
    table: AnswerTable | None = None
    winner: Winner | None = None


def learning_curves(race: Confirmation, answer: Answer) -> Figure:
    """The mean over seeds of what is sought, by step, of each that took part."""
    figure = Figure()
    for one in answer.ranked:
        at: dict[int, list[float]] = {}
        for record in race.runs(one).values():
            for step, value in record.intermediate_values:
                at.setdefault(step, []).append(value)
        steps = sorted(at)
        line = {"dash": "dash"} if one.baseline else {"width": 4} if one is answer.chosen else {}
        means = [fmean(at[step]) for step in steps]
        figure.add_trace(Scatter(x=steps, y=means, name=label(one), mode="lines+markers", line=line))
    figure.update_layout(xaxis_title="step", yaxis_title=race.search.metric, height=420, margin={"t": 20})
    return figure


def write_report(path: Path, page: Page, figures: Mapping[str, Figure]) -> None:
    """A page that needs nothing from elsewhere."""
    write_text(path, ENVIRONMENT.from_string(TEMPLATE).render(page=page, plots=as_html(figures)))


def description(page: Page, repeat: str, views: Mapping[str, str]) -> str:
    """Markdown for the page of the study's run.

    Args:
        repeat: what repeats the study, in Markdown.
        views: links to tables of its runs, by name.
    """
    parts = [f"**{page.answer}**"]
    if page.table:
        rows = [page.table.columns, ["---"] * len(page.table.columns)]
        for number, row in enumerate(page.table.rows):
            rows.append([f"**{cell}**" if cell and number == page.table.chosen else cell for cell in row])
        parts.append("\n".join(f"| {' | '.join(row)} |" for row in rows))
    parts += page.details
    if page.winner and page.winner.model:
        parts.append(f"Its best seed, {page.winner.seed}, is the model `{page.winner.model}`.")
    parts += [f"Train with it: `{page.train}`", f"Cost: {page.cost}", repeat]
    links = ", ".join(f"[{name}]({link})" for name, link in views.items())
    parts.append(f"All runs with their values and scores: {links}. Artifacts: report.html, plots.html.")
    return "\n\n".join(parts)


def caption(picture: Picture) -> str:
    return f"{picture.name}: mIoU {picture.without:.2f} without unlabelled images, {picture.with_unlabelled:.2f} with"


ENVIRONMENT = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
ENVIRONMENT.filters["caption"] = caption
TEMPLATE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{{ page.title }}</title><style>
:root { font: 15px/1.45 system-ui, sans-serif }
body { margin: 1.5rem auto; max-width: 70rem; padding: 0 1rem }
td, th { padding: .15rem .8rem; text-align: right } tr.chosen { font-weight: bold; background: #e3f4e3 }
img { max-width: 100%; display: block } figure { margin: 0 0 1.2rem } code { background: #eee; padding: .1em .3em }
</style>
<h1>{{ page.title }}</h1>
<p><b>{{ page.answer }}</b></p>
{% if page.table %}
<table><tr>{% for name in page.table.columns %}<th>{{ name }}</th>{% endfor %}</tr>
{% for row in page.table.rows %}
<tr{{ ' class="chosen"' | safe if loop.index0 == page.table.chosen }}>
{%- for cell in row %}<td>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}
</table>
{% endif %}
{% for line in page.details %}
<p>{{ line }}</p>
{% endfor %}
<p>Train with it: <code>{{ page.train }}</code></p>
{% if page.winner and page.winner.model %}
<p>Its best seed, {{ page.winner.seed }}, is the model <code>{{ page.winner.model }}</code>.</p>
{% endif %}
<p>Cost: {{ page.cost }}</p>
{% for name, plot in plots.items() %}
<h2>{{ name }}</h2>
{{ plot | safe }}
{% endfor %}
{% if page.winner and page.winner.pictures %}
<h2>Images of val on which it differs most from the baseline</h2>
<p>From left to right: image, truth, the baseline (without unlabelled images), the answer.</p>
{% for picture in page.winner.pictures %}
<figure><img src="{{ picture.source }}" alt="{{ picture.name }}">
<figcaption>{{ picture | caption }}</figcaption></figure>
{% endfor %}
{% endif %}
</html>
"""
