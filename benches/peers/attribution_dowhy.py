"""DoWhy's distribution_change over the scenarios from standard input; JSON in, JSON out.

Started by the experiments (benches/src/bin/experiments); versions are in requirements-dowhy.txt.
"""

import contextlib
import json
import sys
import time
import warnings

import networkx as nx
import numpy as np
import pandas as pd
from dowhy import gcm

warnings.filterwarnings("ignore")
gcm.config.disable_progress_bars()
gcm.config.set_default_n_jobs(1)
gcm.util.general.set_random_seed(6)

# Drawn for each coalition.
SAMPLES = 2_000
# Over all coalitions, of six nodes too: DoWhy would sample permutations there, and stop with an error where a divergence is a whole 0.
EXACT = gcm.shapley.ShapleyConfig(approximation_method=gcm.shapley.ShapleyApproximationMethods.EXACT)


def attribute(question: dict) -> dict:
    """Returns DoWhy's Shapley values by node, and the CPU time that they took."""
    names = [str(node) for node in range(len(question["parents"]))]
    graph = nx.DiGraph()
    graph.add_nodes_from(names)
    graph.add_edges_from((str(parent), str(node)) for node, parents in enumerate(question["parents"]) for parent in parents)
    # Cells are categories to it: its mechanisms are then tables, as ours are, and its divergence is over categories.
    before, after = (pd.DataFrame(np.array(question[side]).astype(str), columns=names) for side in ("before", "after"))
    model = gcm.ProbabilisticCausalModel(graph)
    started = time.process_time()
    for name, parents in zip(names, question["parents"]):
        table = gcm.ClassifierFCM(gcm.ml.create_logistic_regression_classifier()) if parents else gcm.EmpiricalDistribution()
        model.set_causal_mechanism(name, table)
    values = gcm.distribution_change(model, before, after, names[-1], num_samples=SAMPLES, shapley_config=EXACT)
    return {"values": {name: float(value) for name, value in values.items()}, "millis": (time.process_time() - started) * 1e3}


answers = []
with contextlib.redirect_stdout(sys.stderr):
    for question in json.load(sys.stdin):
        answers.append(attribute(question))
        print(f"DoWhy: {len(answers)} done, {answers[-1]}", file=sys.stderr, flush=True)
json.dump(answers, sys.stdout)
