"""Popularity, item-kNN and implicit ALS (implicit 0.7.2) on the recommender's own split.

    train-recommender --data DATA split --out SPLIT
    python benches/peers/recommend_implicit.py SPLIT

Every customer's last new product is to be found among all products, those the customer has seen left
out. Hyper-parameters are chosen on the customers' last new product before that one, taken off the
training part in the same way.
"""

import csv
import os
import sys
from collections import defaultdict

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
from implicit.als import AlternatingLeastSquares
from implicit.nearest_neighbours import BM25Recommender, CosineRecommender, TFIDFRecommender
from scipy.sparse import csr_matrix

TOP = 10
# Weights of view, cart, purchase; codes as in train.csv.
WEIGHTS = {"2": 1.0, "3": 3.0, "4": 5.0}


def read(folder):
    histories = defaultdict(list)
    with open(os.path.join(folder, "train.csv")) as file:
        for row in csv.DictReader(file):
            histories[int(row["customer"])].append((int(row["product"]), row["action"]))
    with open(os.path.join(folder, "test.csv")) as file:
        targets = {int(row["customer"]): int(row["product"]) for row in csv.DictReader(file)}
    return histories, targets


def hold_out(histories):
    """Takes each customer's last new product off, with what follows it."""
    shorter, targets = {}, {}
    for customer, events in histories.items():
        first = {}
        for index, (product, _) in enumerate(events):
            first.setdefault(product, index)
        product, index = max(first.items(), key=lambda item: item[1])
        if index > 0:
            shorter[customer], targets[customer] = events[:index], product
    return shorter, targets


def matrix(histories, customers, products, last=None, binary=False):
    rows, columns, values = [], [], []
    for customer, events in histories.items():
        for product, action in events[-last:] if last else events:
            rows.append(customer)
            columns.append(product)
            values.append(1.0 if binary else WEIGHTS[action])
    return csr_matrix((values, (rows, columns)), shape=(customers, products), dtype=np.float32)


def figures(rank, histories, targets):
    """`rank(customers)` gives scores [customers, products]."""
    hits, gain = 0, 0.0
    customers = sorted(targets)
    for at in range(0, len(customers), 256):
        batch = customers[at : at + 256]
        scores = np.array(rank(batch), dtype=np.float64)
        for row, customer in zip(scores, batch):
            row[[product for product, _ in histories[customer]]] = -np.inf
            best = np.argsort(-row, kind="stable")[:TOP]
            found = np.flatnonzero(best == targets[customer])
            if len(found):
                hits += 1
                gain += 1 / np.log2(found[0] + 2)
    return hits / len(customers), gain / len(customers)


def candidates(histories, customers, products):
    full = matrix(histories, customers, products)
    popularity = np.asarray(matrix(histories, customers, products, binary=True).sum(0)).ravel()
    yield "popularity", {}, lambda batch: np.tile(popularity, (len(batch), 1))
    for name, kind in [("cosine", CosineRecommender), ("TF-IDF", TFIDFRecommender), ("BM25", BM25Recommender)]:
        for neighbours in (50, 200):
            model = kind(K=neighbours)
            model.fit(full, show_progress=False)
            for last in (None, 20, 5, 1):
                seen = full if last is None else matrix(histories, customers, products, last)
                similarity = model.similarity
                yield (
                    "item-kNN" if last is None else "item-kNN, last events only",
                    {"weights": name, "neighbours": neighbours, "last": last},
                    lambda batch, seen=seen, similarity=similarity: (seen[batch] @ similarity).toarray(),
                )
    for factors in (32, 64, 128):
        for regularization in (0.01, 0.1):
            for alpha in (1.0, 10.0):
                model = AlternatingLeastSquares(
                    factors=factors, regularization=regularization, alpha=alpha, iterations=15, random_state=1, num_threads=1
                )
                model.fit(full, show_progress=False)
                yield (
                    "implicit ALS",
                    {"factors": factors, "regularization": regularization, "alpha": alpha},
                    lambda batch, model=model: model.user_factors[batch] @ model.item_factors.T,
                )


def main(folder):
    histories, targets = read(folder)
    customers = max(histories) + 1
    products = 1 + max(max(product for product, _ in events) for events in histories.values())
    products = max(products, 1 + max(targets.values()))
    shorter, earlier = hold_out(histories)
    chosen = {}
    for name, settings, rank in candidates(shorter, customers, products):
        result = figures(rank, shorter, earlier)
        print(f"  {name} {settings}: {result[0]:.4f} {result[1]:.4f}", file=sys.stderr)
        if name not in chosen or result > chosen[name][0]:
            chosen[name] = (result, settings)
    for name, settings, rank in candidates(histories, customers, products):
        if chosen[name][1] == settings:
            recall, gain = figures(rank, histories, targets)
            print(f"{name} {settings}: recall@10 {recall:.4f}, NDCG@10 {gain:.4f}")


if __name__ == "__main__":
    main(sys.argv[1])
