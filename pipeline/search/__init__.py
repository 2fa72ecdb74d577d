"""Studies: better settings for a recipe within a stated budget, by Optuna, on one core or on many machines.

    python -m pipeline.search --model sagan --trials 24 --workers 2

study/     what is varied, where a study is kept, how its trials ended, and what came of it
workers/   the processes that train and measure trials, here or on a cluster; they import study/ only
pages/     charts, pages and tables of studies that are over; they import study/ only
__main__   the command

A trial is an experiment like any other: it has the same fingerprint, checkpoints and tracker.
"""
