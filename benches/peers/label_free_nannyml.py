"""NannyML's CBPE on its bundled data sets; JSON out: scores, predictions, labels, and NannyML's accuracy by chunk.

Started by the experiments (benches/src/bin/experiments); versions are in requirements-nannyml.txt.
"""

import contextlib
import json
import os
import sys
import warnings

os.environ["NML_DISABLE_USAGE_LOGGING"] = "1"
warnings.filterwarnings("ignore")
with contextlib.redirect_stdout(sys.stderr):
    import nannyml as nml

CHUNK = 5_000
SETS = [
    ("car loan", nml.load_synthetic_car_loan_dataset, "repaid"),
    ("car loan, quality", nml.load_synthetic_car_loan_data_quality_dataset, "repaid"),
    ("binary classification", nml.load_synthetic_binary_classification_dataset, "work_home_actual"),
    ("census employment", nml.load_us_census_ma_employment_data, "employed"),
]


def columns(frame, label: str) -> dict:
    return {
        "scores": frame[SCORE].astype(float).tolist(),
        "predictions": frame["y_pred"].astype(int).tolist(),
        "labels": frame[label].astype(int).tolist(),
    }


answers = []
for name, load, label in SETS:
    reference, analysis, targets = load()
    SCORE = next(column for column in ("y_pred_proba", "predicted_probability") if column in reference.columns)
    if "y_pred" not in reference.columns:
        for frame in (reference, analysis):
            frame["y_pred"] = (frame[SCORE] >= 0.5).astype(int)
    key = next((column for column in ("id", "identifier") if column in analysis.columns and column in targets.columns), None)
    if label not in analysis.columns:
        analysis = analysis.merge(targets, on=key) if key else analysis.join(targets)
    with contextlib.redirect_stdout(sys.stderr):
        estimator = nml.CBPE(
            y_pred_proba=SCORE, y_pred="y_pred", y_true=label, metrics=["accuracy"], chunk_size=CHUNK,
            problem_type="classification_binary",
        )
        estimator.fit(reference)
        found = estimator.estimate(analysis.drop(columns=[label])).filter(period="analysis").to_df()
    theirs = found[("accuracy", "value")].tolist()
    chunks = [analysis.iloc[start : start + CHUNK] for start in range(0, len(analysis), CHUNK)]
    pairs = [(chunk, value) for chunk, value in zip(chunks, theirs) if len(chunk) == CHUNK]
    answers.append({
        "name": name,
        "reference": columns(reference, label),
        "chunks": [{"estimate": float(value), **columns(chunk, label)} for chunk, value in pairs],
    })
json.dump(answers, sys.stdout)
