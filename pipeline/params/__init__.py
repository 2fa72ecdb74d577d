"""params.yaml as frozen, strict Python values.

    schema      YAML text, the base class of sections, one sentence for each fault, neutral values
    sections    the sections and their fields: types and ranges
    file        load, override, save, and the presets
    suggest     settings by published rules, from the size and the number of the images
    __main__    the command: `python -m pipeline.params use | set | show | suggest`

params.yaml is the only place with values. A recipe under `models:` says only what differs from `recipe:`.
"""

from pipeline.params.file import PARAMS_FILE, PRESETS, load, save
from pipeline.params.sections import (
    CompareParams,
    DataParams,
    Dimension,
    GenerateParams,
    MetricsParams,
    Params,
    Recipe,
    RuntimeParams,
    Schedule,
    SearchParams,
    TrainParams,
    parse,
)

__all__ = [
    "PARAMS_FILE",
    "PRESETS",
    "CompareParams",
    "DataParams",
    "Dimension",
    "GenerateParams",
    "MetricsParams",
    "Params",
    "Recipe",
    "RuntimeParams",
    "Schedule",
    "SearchParams",
    "TrainParams",
    "load",
    "parse",
    "save",
]
