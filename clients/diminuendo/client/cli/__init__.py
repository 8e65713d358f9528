"""The `diminuendo` command."""
