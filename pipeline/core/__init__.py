"""What every other package may use. Imports nothing else of the pipeline.

errors        PipelineError, and the one place that turns it into an exit code
files         atomic files and folders, JSON, locks, disk space
checksums     SHA256SUMS of what a stage wrote
progress      a progress bar, or lines in a log
randomness    random numbers by name: (seed, stream, step)
paths         what each stage writes and where
devices       the device, deterministic settings, out of memory
bfloat16      what train.precision means on a device
world         ranks: processes that train one model together
ranks         how they are started, and meet
processes     their share of the cores, and how one ended
provenance    package versions, platform and git commit
seconds       how long each stage took, as a table
tables        tables of plain text
metric_names  what distances are called, by their extractors
versions      hashes of programs, without comments and docstrings
sound         what a check has found sound, so that it need not look again
"""
