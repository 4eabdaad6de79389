"""Writes the golden of the classifiers on features, classifiers.json: features, labels, queries, and what scikit-learn says.

The linear probe is LogisticRegression (lbfgs) on features of length 1, minus their mean, divided by one number so that their mean
squared length is 1. The neighbours are KNeighborsClassifier by cosine. Left-out examples: LeaveOneOut around both.

    pip install -r requirements_classifiers.txt
    python generate_classifiers.py
"""

import json
from pathlib import Path

import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import LeaveOneOut, cross_val_predict
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import normalize

HERE = Path(__file__).resolve().parent
# Examples per label, width, distance between the classes, offset that all features share, C.
CASES = {
    "two labels": ([10, 10], 8, 0.6, 0.0, [0.1, 10.0]),
    "three unequal labels": ([12, 4, 9], 5, 0.8, 0.0, [0.01, 1.0, 100.0]),
    "wide": ([3, 3, 3, 3], 96, 1.0, 0.0, [1.0, 1000.0]),
    "two labels, wide": ([6, 5], 64, 0.4, 0.5, [10.0]),
    "features that are nearly parallel": ([8, 8, 8], 12, 0.3, 6.0, [10.0]),
    "far apart": ([7, 8], 4, 8.0, 0.0, [1e4]),
}


class Standardised(TransformerMixin, BaseEstimator):
    def fit(self, features, labels=None):
        self.mean_ = features.mean(0)
        self.spread_ = np.sqrt(((features - self.mean_) ** 2).sum(1).mean())
        return self

    def transform(self, features):
        return (features - self.mean_) / self.spread_


def probe(c):
    return make_pipeline(Standardised(), LogisticRegression(C=c, tol=1e-10, max_iter=100_000))


def neighbours(counts):
    return KNeighborsClassifier(
        min([5, *counts]), metric="cosine", algorithm="brute", weights=lambda distance: 1 - distance / 2
    )


def case(random, counts, width, distance, offset, cs):
    labels = np.repeat(np.arange(len(counts)), counts)
    centres = random.normal(size=(len(counts), width)) * distance
    def draw(labels):
        return np.round(centres[labels] + offset + random.normal(size=(len(labels), width)), 3)
    features, queries = draw(labels), draw(np.arange(6) % len(counts))
    if width == 5:  # A zero vector, and the same vector with two labels.
        features[3], features[-1] = 0, features[0]
    order = random.permutation(len(labels))
    features, labels = features[order], labels[order]
    units, unit_queries = normalize(features), normalize(queries)
    probes = []
    for c in cs:
        left_out = cross_val_predict(probe(c), units, labels, cv=LeaveOneOut(), method="predict_proba")
        probes.append({
            "c": c,
            "probabilities": probe(c).fit(units, labels).predict_proba(unit_queries).round(9).tolist(),
            "left_out": (left_out.argmax(1) == labels).tolist(),
            "margins": (np.sort(left_out, 1)[:, -1] - np.sort(left_out, 1)[:, -2]).round(9).tolist(),
        })
    return {
        "features": features.tolist(), "labels": labels.tolist(), "queries": queries.tolist(), "probes": probes,
        "neighbours": neighbours(counts).fit(units, labels).predict_proba(unit_queries).round(9).tolist(),
    }


def main():
    random = np.random.default_rng(0)
    cases = [{"name": name, **case(random, *values)} for name, values in CASES.items()]
    (HERE / "classifiers.json").write_text(json.dumps(cases, separators=(",", ":")) + "\n")


main()
