"""`python -m meterlake`: the command line where its script is not on the PATH."""

from meterlake.cli import run

if __name__ == "__main__":
    run()
