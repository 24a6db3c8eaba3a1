"""Check the committed cases with rules.py: python tests/golden/check.py

Reads every case back from its files alone, applies the tests' bar to rules.py, and
then measures the teeth: every hyperparameter of every group is changed, one at a
time, and the changed run must miss the bar. Exceptions are printed.
"""

import copy
import json
import tomllib
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

import rules

CASES = Path(__file__).resolve().parent / "cases"
SWAPS = {"original": "match_rms_adamw", "match_rms_adamw": "original", "none": "match_rms_adamw",
         "spectral_unclamped": "match_rms_adamw", "jordan": "you", "you": "jordan",
         "polar-express": "speedrun", "speedrun": "polar-express", "rms": 1.0}
UNCHANGED = {"params", "exclude", "name", "ndim", "algorithm", "ns_dtype", "ns_method",
             "ns_restarts", "norm", "nonfinite", "kind"}


def load(folder):
    record = json.loads((folder / "case.json").read_text())
    config = tomllib.loads((folder / "config.toml").read_text())
    def steps(stem):
        return [load_file(folder / f"{stem}_{k + 1}.safetensors") for k in range(record["steps"])]
    prev = steps("prev_grads") if (folder / "prev_grads_1.safetensors").exists() else None
    expected = [load_file(folder / "expected.safetensors")]
    if (folder / "expected_eval_point.safetensors").exists():
        expected.append(load_file(folder / "expected_eval_point.safetensors"))
    return record, config, (load_file(folder / "params.safetensors"), steps("grads"), prev), expected


def share(record, params, results, expected):
    """The largest error as a share of the bar."""
    worst = 0.0
    for got, want in zip(results, expected):
        for n, p in params.items():
            p, w = p.astype(np.float64), want[n].astype(np.float64)
            bar = record["tolerance"] * np.linalg.norm(w - p)
            if record["precision"] == "f32":
                bar += record["steps"] * 2.0**-24 * np.linalg.norm(p)
            error = np.linalg.norm(got[n] - w)
            if not error == 0:
                worst = max(worst, error / bar if np.isfinite(error) else np.inf)
    return worst


def changes(table, path=()):
    """Every (path, other value) in a nested config."""
    items = table.items() if isinstance(table, dict) else enumerate(table)
    for key, v in items:
        here = (*path, key)
        if key in UNCHANGED:
            continue
        if isinstance(v, bool):
            yield here, not v
        elif isinstance(v, int):
            yield here, v + 1
        elif isinstance(v, float):
            yield here, v * (1.5 if not 0.5 < v < 1 else 0.8)
        elif isinstance(v, str):
            yield here, SWAPS[v]
        elif key == "splits":
            yield here, [v[0] + 1, v[1] - 1, *v[2:]]
        else:
            yield from changes(v, here)


def main():
    np.seterr(all="ignore")  # a changed coefficient may overflow
    shares, toothless, tried = {}, [], 0
    for folder in sorted(p for p in CASES.iterdir() if p.is_dir()):
        record, config, data, expected = load(folder)
        shares[folder.name] = share(record, data[0], rules.run(config, *data)[:2], expected)
        for path, value in changes(config):
            other = copy.deepcopy(config)
            at = other
            for key in path[:-1]:
                at = at[key]
            at[path[-1]] = value
            tried += 1
            missed = share(record, data[0], rules.run(other, *data)[:2], expected)
            if missed <= 1:
                toothless.append(f"{folder.name}: {path} = {value} gives {missed:.2g} of the bar")
    bad = {n: s for n, s in shares.items() if not s <= 0.5}
    print(f"{len(shares)} cases, worst {max(shares.values()):.2f} of the bar, failing: {bad}")
    print(f"{tried} changed hyperparameters, {len(toothless)} unnoticed:", *toothless, sep="\n  ")
    return bool(bad)


if __name__ == "__main__":
    raise SystemExit(main())
