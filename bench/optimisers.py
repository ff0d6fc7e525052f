"""`detectune lab optimisers` at full length on MNIST, its trainings kept in bench/results: python bench/optimisers.py

Five to ten minutes of one core. Networks that are in bench/results/optimisers/trainings.jsonl are not trained again, so
a run that was stopped goes on. With names (`adam,muon`) only those are trained, for several processes side by side; the
summary needs all.
"""

from __future__ import annotations

import json
import sys

from alternation import RESULTS, machine
from detectune.lab.optimisers import OPTIMISERS, Trainings, budget_for, run_optimisers, study
from detectune.lab.sparse import measure_sparse
from detectune.report.optimisers import write_optimisers_page


def main() -> None:
    directory, budget = RESULTS / "optimisers", budget_for(quick=False, has_mnist=True)
    if len(sys.argv) > 1:
        wanted = sys.argv[1].split(",")
        trainings = Trainings(directory, budget, log=lambda line: print(line, flush=True))
        for optimiser in OPTIMISERS:
            if optimiser.name in wanted:
                study(trainings, optimiser, budget)
        return
    result = run_optimisers(directory, budget, log=lambda line: print(line, flush=True))
    command = "python bench/optimisers.py"
    (directory / "optimisers.json").write_text(
        json.dumps({"command": command, "machine": machine(), **result})
    )
    (directory / "sparse.json").write_text(json.dumps(measure_sparse()))
    print(result["answer"], write_optimisers_page(directory))


if __name__ == "__main__":
    main()
