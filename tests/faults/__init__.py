"""Faults done for real: kills, power cuts, full disks, broken MLflow servers, damaged files; and what they change.

    make faults SEED=7 KILLS=200                         the long run; tests/faults/test_faults.py is the short one
    python -m tests.faults --seed 7 --only disk          one group, or several: disk,folders
    python -m tests.faults --seed 7 --only bits --instance 12        one fault again, as a failure's line says

One small copy of the repository is run once undisturbed. Then each fault is done to one stage, in the state that the
stages before it left; the same command is run again, and every byte must be that of the undisturbed run. It prints a
table of the faults tried and survived, and exits with 1 if anything was lost, half-written, unclear or left over.

    world       the copy, its undisturbed result, and what differs from it
    nursery     forks the stages: real processes, whose imports are done already
    power       the power cut: what a process had not fsynced is torn
    processes   a running stage, as the suite sees it
    stages      kills of single stages        commands   of `dvc repro` and `python -m pipeline.search`
    disk        full and read-only disks      folders    deleted, or read-only, while a stage runs
    bits        damaged files                 records    damage of params.yaml, dvc.yaml, dvc.lock and DVC's cache
    server      a broken MLflow server, damaged spools   tracked    kills with MLflow; an MLflow whose disk is full
    store, told a sound MLflow server, and whether it was told all, once
    chance      what is drawn in an attempt
    mutants     ways to break the pipeline, by which the suite shows that it can fail: --mutant NAME
    table       what came of it
"""
