"""The parts of the teacher's kit; ``code/tools/teaching.py`` makes them."""
