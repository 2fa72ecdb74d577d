"""`python -m pipeline.warm_start RUN NAME`: the command itself is pipeline.gan.warm_start."""

from pipeline.gan.warm_start import main

if __name__ == "__main__":
    main()
