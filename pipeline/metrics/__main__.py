"""`python -m pipeline.metrics A B`: the command itself is pipeline.evaluate.cli."""

from pipeline.evaluate.cli import main

if __name__ == "__main__":
    main()
