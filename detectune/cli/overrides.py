"""KEY=VALUE and KEY VALUE words after a command, and misspelt options among them."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence

from detectune.errors import UserError

NUMBER = re.compile(r"-[\d.]")


def check_words(words: Sequence[str] | None, *, options: Sequence[str]) -> list[str]:
    """The overrides, as they are. A `UserError` for a word that looks like an option and is none of `options`.

    A value may begin with a minus only if it is a number, as in `SOLVER.BASE_LR -1`.
    """
    words = list(words or ())
    for word in words:
        if word.startswith("-") and not NUMBER.match(word):
            name = word.partition("=")[0]
            near = difflib.get_close_matches(name, options, n=1)
            hint = f"did you mean {near[0]}?" if near else f"the options are {', '.join(options)}."
            raise UserError(f"There is no option {name}; {hint} Settings are given as KEY=VALUE.")
    return words
