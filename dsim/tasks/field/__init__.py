"""Other people's measurements, predicted row by row: ``dsim reproduce --field``."""
