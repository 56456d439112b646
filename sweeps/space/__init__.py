"""What is searched: ranges over a recipe's paths, resources, early stopping, what faults cost, gates."""
