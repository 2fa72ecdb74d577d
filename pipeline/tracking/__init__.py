"""Logging to MLflow without ever waiting for it: a local outbox file, and a thread that uploads it.

    Tracker.metrics(..)  ->  .work/<experiment>/outbox.jsonl  ->  uploader thread  ->  MLflow
    python -m pipeline.tracking sync      upload what a dead server, or a killed run, has left in the outboxes

mlflow_client   MLflow's client and the local sqlite store
mlflow_model    the exported generator as an MLflow model
outbox          the file of entries; knows nothing of MLflow
uploader        sends an outbox to an MLflow server
addresses       what experiments are called, and where MLflow's pages of them are
views           the view `ranking` of an experiment
ui              MLflow's pages in a browser
serve, served   a trained generator behind MLflow's server: `gan serve`
play            trained generators side by side in a browser: `gan play`; what it shows is of `playground`
warn_once       warnings that are said once in a process
tracker         what the stages and the search call: params, tags, metrics, images, artifacts, the model

A slow, dead or failing server costs one warning; unsent entries stay in the outbox. An entry keeps the time at which it
was first logged, and each (kind, key, step) is written once. So sending again overwrites, and a run that replays steps
after a kill duplicates nothing. Points and files are sent independently: a server that refuses files still gets the
points.
"""

from pipeline.tracking.tracker import Tracker, sync

__all__ = ["Tracker", "sync"]
