"""A study: what is varied, where it is kept, how its trials ended, and what came of it.

space        search.space of params.yaml as Optuna's distributions, and what is wrong with it
outages      a storage that waits until its server or its disk is back
storage      where a study is kept: a file or a server, opened, made once, and locked
jobs         its trials as a queue: claimed once, requeued when their worker dies
trial_stats  how trials ended: state, distance, cost, curve; the Pareto front
pruner       which trials are stopped early
study        the budget, the sampler, the baseline and the finalists
results      the winner by the finals, the selection bias, what it cost
mlflow_run   a study's own run in MLflow
"""
