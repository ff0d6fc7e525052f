"""Renaming parameters between systems by one table that reads in both directions.

A rule is a pair of templates, ("fpn_lateral{n}.{rest}", "fpn.lateral{n}.{rest}"). `{n}` stands for digits, `{rest}` for
anything, other names for letters and underscores. The first rule that fits counts.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

Rules = Sequence[tuple[str, str]]

_FIELD = re.compile(r"\{(\w+)\}")


class Renamer:
    """Names of another system to ours (`ours`) and back (`theirs`); None for a name that no rule covers."""

    def __init__(self, rules: Rules) -> None:
        self._to_ours = [(_pattern(theirs), ours) for theirs, ours in rules]
        self._to_theirs = [(_pattern(ours), theirs) for theirs, ours in rules]

    def ours(self, name: str) -> str | None:
        return _first(self._to_ours, name)

    def theirs(self, name: str) -> str | None:
        return _first(self._to_theirs, name)


def _pattern(template: str) -> re.Pattern[str]:
    parts = _FIELD.split(template)  # text, field, text, field, ..., text
    out = []
    for i, part in enumerate(parts):
        if i % 2 == 0:
            out.append(re.escape(part))
        else:
            body = r"\d+" if part.startswith("n") else ".+" if part == "rest" else "[A-Za-z_]+"
            out.append(f"(?P<{part}>{body})")
    return re.compile("".join(out))


def _first(rules: Sequence[tuple[re.Pattern[str], str]], name: str) -> str | None:
    for pattern, template in rules:
        match = pattern.fullmatch(name)
        if match is not None:
            return template.format(**match.groupdict())
    return None
