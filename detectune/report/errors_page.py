"""The page of `detectune errors`: what each kind of error costs, the knobs, sizes, the confusion of classes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from markupsafe import Markup, escape

from detectune.config.catalogue import KNOBS
from detectune.report.charts import Chart
from detectune.report.lab_page import Section, write_lab_page

WIDTH, ROW, NAMES = 360, 26, 104
KINDS = ("classification", "localisation", "both", "duplicate", "background", "missed")
MOST_CLASSES = 30


def write_errors_page(target: Path, report: Mapping[str, Any]) -> Path:
    """Write the page of what `evaluation.errors.error_report` returned, with `sizes`; its path."""
    largest = report["largest"]
    lead = f"Most AP is lost to {largest}." if largest else "Nothing is lost at an overlap of 0.5."
    sections = [_kinds(report)]
    if largest:
        sections.append(_knobs(report))
    sections += [_sizes(report), _confusion(report)]
    return write_lab_page(
        target,
        title=f"Errors of {target.parent.name}",
        lead=f"{lead} {report['objects']} objects in {report['images']} images, {report['task']} AP50 "
        f"{report['AP50']:.3f}.",
        sections=sections,
        brand="Detectune",
    )


def cost_chart(report: Mapping[str, Any]) -> Chart:
    """A bar for each kind: AP50 that mending it alone would add."""
    kinds = sorted(KINDS, key=lambda kind: -report["gains"][kind])
    most = max(max(report["gains"][kind] for kind in kinds), 1e-9)
    parts = []
    for i, kind in enumerate(kinds):
        y, gain = ROW * i + 4, max(0.0, report["gains"][kind])
        width = (WIDTH - NAMES - 56) * gain / most
        parts.append(f'<text x="{NAMES - 8}" y="{y + 14}" text-anchor="end">{escape(kind)}</text>')
        parts.append(f'<rect x="{NAMES}" y="{y}" width="{width:.1f}" height="18" rx="3" fill="var(--c1)"/>')
        parts.append(f'<text x="{NAMES + width + 6:.1f}" y="{y + 14}">{report["gains"][kind]:.3f}</text>')
    summary = "AP50 lost: " + ", ".join(f"{kind} {report['gains'][kind]:.3f}" for kind in kinds)
    height = ROW * len(kinds) + 6
    svg = f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(summary)}">{"".join(parts)}</svg>'
    return Chart("AP50 lost to each kind", Markup(svg), summary, [])


def _kinds(report: Mapping[str, Any]) -> Section:
    rows = [
        [kind, str(report["counts"][kind]), f"{report['gains'][kind]:.3f}"]
        for kind in sorted(KINDS, key=lambda kind: -report["gains"][kind])
    ]
    rows += [[side, "", f"{report['gains'][side]:.3f}"] for side in ("false positives", "false negatives")]
    return Section(
        "What AP is lost to",
        "Each kind mended alone (TIDE, Bolya et al. 2020). The gains do not add up, as errors hide each other.",
        ["kind", "detections or objects", "AP50 that mending it adds"],
        rows,
        [cost_chart(report)],
    )


def _knobs(report: Mapping[str, Any]) -> Section:
    rows = [[key, KNOBS[key].stage, KNOBS[key].doc.partition(". ")[0]] for key in report["knobs"]]
    return Section(
        f"Knobs that act on {report['largest']}",
        "What a change costs: inference needs a test, training and architecture need a training.",
        ["key", "cost of a change", "what it does"],
        rows,
    )


def _sizes(report: Mapping[str, Any]) -> Section:
    names = {
        "AP": "all",
        "APs": "small, below 32\u00b2 pixels",
        "APm": "medium",
        "APl": "large, above 96\u00b2",
    }
    rows = [[names[name], "\u2013" if v is None else f"{v:.3f}"] for name, v in report["sizes"].items()]
    return Section("AP by size", "Averaged over overlaps of 0.50 to 0.95.", ["objects", "AP"], rows)


def _confusion(report: Mapping[str, Any]) -> Section:
    classes, table = report["classes"], report["confusion"]
    shown = list(range(len(classes)))
    if len(shown) > MOST_CLASSES:  # those that are confused most, and what was nothing
        wrong = [sum(table[i]) + sum(row[i] for row in table) - 2 * table[i][i] for i in shown]
        shown = [0, *sorted(sorted(shown[1:], key=lambda i: -wrong[i])[: MOST_CLASSES - 1])]
    order = [*shown[1:], 0]
    rows = [[classes[i] if i else "nothing there", *(str(table[i][j]) for j in order)] for i in order]
    heads = ["object", *(classes[j] if j else "not found" for j in order)]
    return Section(
        "What is taken for what",
        f"Objects (rows) and what was seen there (columns), detections of a score of {report['score_thresh']:g} or "
        "more, the best first, each with the free object of any class that it overlaps most.",
        heads,
        rows,
    )
