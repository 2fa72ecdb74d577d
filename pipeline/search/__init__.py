"""Studies: better settings for a recipe within a stated budget, by Optuna, on one core or on many machines.

    python -m pipeline.search --model sagan --trials 24 --workers 2

space      what is varied: `search.space` of params.yaml as Optuna's distributions
storage    where a study is kept: opened, made once, and locked
jobs       its trials as a queue: claimed once, given back when their worker dies
trial      one trial: a recipe trained and measured, pruned on the way
study      the budget, the sampler and the pruner; then the finalists, trained anew with fresh seeds
worker     what each process does until the queue is empty
processes  cluster        where the workers run: on this machine, on a Ray cluster
outcomes   how its trials ended, and the front of those that no other beats at both distance and cost
results    the winner, how much of it was luck, what it cost
record     a study's own run in MLflow, in which its trials' runs are nested
comparison                tuned models side by side
export                    results -> CSV and JSON
drawing  marks            geometry, and how one trial is marked in all charts
pareto  charts  page      results -> HTML, in the report's style
publish    all that is left of a study that is over

A trial is an experiment like any other: it has the same fingerprint, checkpoints and tracker.
"""
