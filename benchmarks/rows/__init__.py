"""The rows of the suite, by module. ``run.py`` finds whatever is here."""
