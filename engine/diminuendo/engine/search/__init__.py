"""The search: a pure state machine that asks for works and is told their outcomes. Imports no torch."""
