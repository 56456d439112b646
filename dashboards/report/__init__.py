"""Parts of the report on a sweep: what it says, its charts in their places, its table, and how it is packed."""
