"""Faults done for real: kills, power cuts, full disks, broken MLflow servers, damaged files; and what they change.

    make faults SEED=7 KILLS=200                         the long run; tests/faults/test_faults.py is the short one
    python -m tests.faults --seed 7 --only disk          one group, or several: disk,folders
    python -m tests.faults --seed 7 --only corruption --instance 12      one fault again, as a failure's line says

One small copy of the repository is run once undisturbed. Then each fault is done to one stage, in the state that the
stages before it left; the same command is run again, and every byte must be that of the undisturbed run. It prints a
table of the faults tried and survived, and exits with 1 if anything was lost, half-written, unclear or left over.

    sandbox         the copy, its undisturbed result, and what differs from it
    fork_server     forks the stages: real processes, whose imports are done already
    processes       a running stage, as the suite sees it
    power           the power cut: what a process had not fsynced is torn
    stages          kills of single stages
    commands        kills of `dvc repro` and `python -m pipeline.search`
    disk, folders   full and read-only disks; folders deleted, or read-only, while a stage runs
    systems, weak   file systems without locks, fsync, modes or renames
    meanwhile       other data, a second training, a moved project, a deleted MLflow experiment, while a stage runs
    corruption      damaged files
    records         damage of params.yaml, dvc.yaml, dvc.lock and DVC's cache
    store           a sound MLflow server
    server          a broken MLflow server; a damaged outbox
    tracked         kills with MLflow; an MLflow whose disk is full
    mlflow_checks   whether MLflow has all points and pictures, each once
    random_faults   what is drawn in an attempt
    mutants         ways to break the pipeline, by which the suite shows that it can fail: --mutant NAME
    report          the table of what came of it
"""
