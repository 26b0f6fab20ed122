"""The target is a program of its own, run by its test; it needs atheris."""

collect_ignore = ["fuzz_formats.py"]
