"""Do studies keep their promises on the digits? Two workers, Hyperband, and tuned against untuned with fresh seeds.

    python -m benchmarks.studies [--part workers|pruning|tuned]

workers: the same 24 trials of sn_dcgan (random, none pruned), by one worker and by two, each on one thread: wall
time of the whole command, and whether exactly 24 trials were finished.
pruning: 24 random settings of sn_dcgan without pruning, for each of `SEEDS`; then their curves are replayed through
Hyperband, in their own order and in 100 others. The sampler is random, so that the pruner is the only difference; what
it finds depends on the order in which it meets the trials.
tuned: gan by tpe, without pruning and with Hyperband; the latter with real finals: its best trials and the baseline,
with fresh seeds.

Everything runs in a clone of the commit, in .work/studies-benchmark, by the commands that users type. It prints the
tables of docs/studies.md and writes docs/studies.csv. A killed run continues when it is started again.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pandas as pd

from pipeline.core.errors import exit_cleanly
from pipeline.core.files import read_json, write_bytes, write_json
from pipeline.params import SearchParams, load
from pipeline.search.study.pruner import make_pruner

TRIALS, SEEDS = 24, (100, 200, 300)
BOUND_BY_COMPUTE, QUICK = "sn_dcgan", "gan"
WORK, TABLE = Path(".work/studies-benchmark"), Path("docs/studies.csv")
SHORT_FINALS = {"search.finalists": 1, "search.final_seeds": [901], "train.steps": 50}
REAL_FINALS = {"search.finalists": 2, "search.final_seeds": [901, 902, 903, 904, 905], "train.steps": 1500}
CURVES = {"search.sampler": "random", "search.steps": 360, "search.score_every": 40}
ORDERS, NEAR = 100, 1.05
WORKERS = {"search.sampler": "random", "search.pruner": "none", "search.steps": 270, "search.score_every": 90}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.studies", description=__doc__.split("\n")[0])
    parser.add_argument("--part", choices=["workers", "pruning", "tuned"], help="one of the three (all)")
    part = parser.parse_args(arguments).part
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if not (WORK / "clone").exists():
        WORK.mkdir(parents=True, exist_ok=True)
        subprocess.run(["git", "clone", "--quiet", ".", str(WORK / "clone")], check=True)
    rows = []
    if part in (None, "workers"):
        rows += [measure(BOUND_BY_COMPUTE, f"workers-{count}", count, WORKERS | SHORT_FINALS) for count in (1, 2)]
    if part in (None, "pruning"):
        for seed in SEEDS:
            changes = CURVES | {"search.seed": seed, "search.pruner": "none"} | SHORT_FINALS
            rows.append(measure(BOUND_BY_COMPUTE, f"curves-{seed}", 2, changes) | replayed(f"curves-{seed}"))
    if part in (None, "tuned"):
        rows.append(measure(QUICK, "tpe-none", 2, {"search.pruner": "none"} | SHORT_FINALS))
        rows.append(measure(QUICK, "tpe-hyperband", 2, {"search.pruner": "hyperband"} | REAL_FINALS))
    table = pd.DataFrame(rows)
    write_bytes(TABLE, table.to_csv(index=False, lineterminator="\n").encode())
    print(table.to_string(index=False))


def measure(model: str, name: str, workers: int, changes: dict[str, Any]) -> dict[str, Any]:
    """Run one study, unless it was run before, and return what became of it."""
    done = WORK / f"{name}.json"
    if done.exists():
        return read_json(done)
    clone, study = WORK / "clone", f"{model}-{name}"
    subprocess.run(["git", "checkout", "--quiet", "params.yaml"], cwd=clone, check=True)
    assignments = [f"{key}={json.dumps(value)}" for key, value in {"runtime.tracking": False, **changes}.items()]
    python = [sys.executable, "-m"]
    subprocess.run([*python, "pipeline.params", "set", *assignments], cwd=clone, check=True)
    subprocess.run([*python, "dvc", "repro", "--quiet", "reference"], cwd=clone, check=True)
    command = [*python, "pipeline.search", "--model", model, "--study", study]
    command += ["--trials", str(TRIALS), "--workers", str(workers)]
    started = time.perf_counter()
    subprocess.run(command, cwd=clone, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=True)
    wall = time.perf_counter() - started
    folder = clone / "reports" / "studies" / study
    result, trials = read_json(folder / "result.json"), pd.read_csv(folder / "trials.csv")
    row = {
        "study": name,
        "model": model,
        "workers": workers,
        "trials": len(trials),
        "finished": int((~trials["state"].isin(["waiting", "running"])).sum()),
        "pruned": result["cost"]["pruned"],
        "best": trials["value"].min(),
        "steps": result["cost"]["steps"],
        "train_seconds": round(result["cost"]["seconds"], 1),
        "wall_seconds": round(wall, 1),
        "verdict": result["verdict"] if changes["train.steps"] > 50 else "",
    }
    write_json(done, row)
    return row


def replayed(name: str) -> dict[str, Any]:
    """What Hyperband would have found and cost on the trials of an unpruned study, two at a time."""
    folder = WORK / "clone" / "reports" / "studies" / f"{BOUND_BY_COMPUTE}-{name}"
    table = pd.read_csv(folder / "curves.csv").pivot(index="number", columns="step", values="distance").dropna()
    curves = {int(number): {int(step): value for step, value in row.items()} for number, row in table.iterrows()}
    search = load().override(CURVES | {"search.pruner": "hyperband"}).search
    best = min(curve[search.steps] for curve in curves.values())
    orders = [list(curves)]
    orders += [np.random.default_rng(seed).permutation(list(curves)).tolist() for seed in range(ORDERS)]
    found = [_replay(curves, order, search, f"{name}-{index}") for index, order in enumerate(orders)]
    (own, own_cost), others = found[0], found[1:]
    return {
        "ratio": round(own / best, 4),
        "cost": round(own_cost, 3),
        "within_5%": sum(value <= NEAR * best for value, _ in others) / ORDERS,
        "mean_ratio": round(statistics.fmean(value / best for value, _ in others), 4),
        "mean_cost": round(statistics.fmean(cost for _, cost in others), 3),
    }


def _replay(
    curves: dict[int, dict[int, float]], order: list[int], search: SearchParams, name: str
) -> tuple[float, float]:
    """The best value, and the steps as a share of those without pruning."""
    sampler = optuna.samplers.RandomSampler()
    study = optuna.create_study(study_name=name, pruner=make_pruner(search), sampler=sampler)  # brackets go by the name
    waiting, running, values, steps = list(order), dict[int, Any](), list[float](), 0
    while waiting or running:
        while waiting and len(running) < 2:
            number = waiting.pop(0)
            running[number] = study.ask(), iter(curves[number].items())
        for number, (trial, points) in list(running.items()):
            step, value = next(points)
            trial.report(value, step)
            if step == search.steps:
                study.tell(trial, value)
                values.append(value)
            elif trial.should_prune():
                study.tell(trial, state=optuna.trial.TrialState.PRUNED)
            else:
                continue
            steps += step
            del running[number]
    return min(values), steps / (len(order) * search.steps)


if __name__ == "__main__":
    exit_cleanly(main)()
