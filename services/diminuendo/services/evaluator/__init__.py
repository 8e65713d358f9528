"""Evaluators: the processes that hold a model and do works."""
