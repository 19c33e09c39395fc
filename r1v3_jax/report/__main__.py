"""python -m r1v3_jax.report WORKDIR: the pictures and the table of a run."""

from r1v3_jax.report.plots import main

if __name__ == "__main__":
    main()
