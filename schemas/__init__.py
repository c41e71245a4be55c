"""What clipmill writes down: records, recipes, tasks, tables, fingerprints and config models.

No I/O and no torch: everything here can be imported by planning, by readers and by a scheduler's plugin.
"""
