"""The report of a run: its steps, its records, and one HTML page that shows them with the figures."""
