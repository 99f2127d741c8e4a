"""The lab: data, tasks, training, recipes and comparisons, which train and judge with the parts. Nothing of the parts imports it."""
