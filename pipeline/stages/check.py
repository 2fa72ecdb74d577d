"""Stage check: params.yaml is sound, or nothing runs. What it writes is always the same, so that nothing runs again."""

from pipeline.check import require_sound
from pipeline.core import paths
from pipeline.core.errors import exit_cleanly
from pipeline.core.files import write_bytes
from pipeline.stages import begin, no_options


@exit_cleanly
def main() -> None:
    require_sound(begin(computes=False))
    write_bytes(paths.CHECKED, b"params.yaml is sound\n")


if __name__ == "__main__":
    no_options(__doc__)
    main()
